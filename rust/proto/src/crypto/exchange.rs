//! X25519 key agreement and the key derivation of both suites.

use core::fmt;

use aws_lc_rs::{
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
    digest,
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

use super::{CryptoError, Suite};

const LABEL_G1: &[u8] = b"pilot-tunnel-v1:";
const LABEL_G2: &[u8] = b"pilot-tunnel-v1";

/// An X25519 key pair.
pub struct ExchangeKey {
    secret: PrivateKey,
    public: [u8; 32],
}

impl ExchangeKey {
    /// The key pair with this secret.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the library refuses the secret.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self, CryptoError> {
        let secret = PrivateKey::from_private_key(&X25519, secret).map_err(|_| CryptoError::Key)?;
        let public = secret.compute_public_key().map_err(|_| CryptoError::Key)?;
        let public = public.as_ref().try_into().map_err(|_| CryptoError::Key)?;
        Ok(Self { secret, public })
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// Agrees with a peer's public key on the tunnel keys of both suites.
    ///
    /// # Errors
    /// [`CryptoError::Key`] for a low-order public key.
    pub fn agree(&self, peer: &[u8; 32]) -> Result<SharedKeys, CryptoError> {
        agreement::agree(
            &self.secret,
            UnparsedPublicKey::new(&X25519, peer),
            CryptoError::Key,
            SharedKeys::derive,
        )
    }
}

impl fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The AES-256 keys derived from one agreement, by suite.
#[derive(Clone)]
pub struct SharedKeys {
    g1: [u8; 32],
    g2: [u8; 32],
}

impl SharedKeys {
    /// Derives both keys from the shared secret.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the library fails.
    pub fn derive(shared: &[u8]) -> Result<Self, CryptoError> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(LABEL_G1);
        context.update(shared);
        let g1 = context.finish().as_ref().try_into().map_err(|_| CryptoError::Key)?;
        let mut g2 = [0; 32];
        Salt::new(HKDF_SHA256, &[])
            .extract(shared)
            .expand(&[LABEL_G2], KeyLen)
            .and_then(|okm| okm.fill(&mut g2))
            .map_err(|_| CryptoError::Key)?;
        Ok(Self { g1, g2 })
    }

    /// The key of one suite.
    pub fn key(&self, suite: Suite) -> &[u8; 32] {
        match suite {
            Suite::G1 => &self.g1,
            Suite::G2 => &self.g2,
        }
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKeys(..)")
    }
}

struct KeyLen;

impl KeyType for KeyLen {
    fn len(&self) -> usize {
        32
    }
}
