//! The long-lived Ed25519 identity of a node (`docs/reference/protocol/tunnel.md#frames`).

use core::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::CryptoError;
use crate::wire::{addr::NodeId, tunnel::SignedKey};

const KEY_FRAME_LABEL: [u8; 4] = *b"auth";
const CHALLENGE_LEN: usize = 40;

/// An Ed25519 key pair.
pub struct Identity {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Identity {
    /// The identity with this private seed.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the library refuses the seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, CryptoError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| CryptoError::Key)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| CryptoError::Key)?;
        Ok(Self { pair, public })
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// The Ed25519 signature over `message`.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the library fails to sign.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], CryptoError> {
        self.pair.sign(message).as_ref().try_into().map_err(|_| CryptoError::Key)
    }

    /// The signed key frame, which proves that `exchange_key` is ours.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_exchange_key(
        &self,
        sender: NodeId,
        exchange_key: [u8; 32],
    ) -> Result<SignedKey, CryptoError> {
        let signature = self.sign(&challenge(sender, &exchange_key))?;
        Ok(SignedKey { sender, exchange_key, identity_key: self.public, signature })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Verifies the frame's signature under the identity key that the frame carries. Whether that key belongs to
/// the sender is for the registry to confirm.
///
/// # Errors
/// [`CryptoError::Signature`].
pub fn verify_signed_key(frame: &SignedKey) -> Result<(), CryptoError> {
    verify(&frame.identity_key, &challenge(frame.sender, &frame.exchange_key), &frame.signature)
}

/// Verifies `signature` over `message` under `public_key`.
///
/// # Errors
/// [`CryptoError::Signature`].
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), CryptoError> {
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(message, signature)
        .map_err(|_| CryptoError::Signature)
}

/// The message that a signed key frame signs: `auth`, the sender, the exchange key.
fn challenge(sender: NodeId, exchange_key: &[u8; 32]) -> [u8; CHALLENGE_LEN] {
    let mut message = [0; CHALLENGE_LEN];
    message[..4].copy_from_slice(&KEY_FRAME_LABEL);
    message[4..8].copy_from_slice(&sender.0.to_be_bytes());
    message[8..].copy_from_slice(exchange_key);
    message
}
