//! AES-256-GCM over whole tunnel frames, in the caller's buffer.

use core::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as CipherNonce, UnboundKey};

use super::{CryptoError, Suite};
use crate::wire::tunnel::{Nonce, SEALED_HEADER_LEN, SealedHeader, TAG_LEN};

/// The tunnel key of one suite. Both directions use the same key, so the two sides must never use the same
/// nonce: see [`crate::tunnel`] for how their prefixes are kept apart.
pub struct TunnelKey {
    suite: Suite,
    key: LessSafeKey,
}

impl TunnelKey {
    /// The key of `suite`.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the library refuses it.
    pub fn new(suite: Suite, key: &[u8; 32]) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CryptoError::Key)?;
        Ok(Self { suite, key: LessSafeKey::new(key) })
    }

    /// The suite this key belongs to.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Seals the packet at `frame[SEALED_HEADER_LEN..len - TAG_LEN]` in place and writes header and
    /// tag around it.
    ///
    /// # Errors
    /// [`CryptoError::Key`] when the frame is shorter than its overhead.
    pub fn seal(&self, header: SealedHeader, frame: &mut [u8]) -> Result<(), CryptoError> {
        let (front, rest) = frame.split_first_chunk_mut::<SEALED_HEADER_LEN>().ok_or(CryptoError::Key)?;
        let (packet, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(CryptoError::Key)?;
        *front = header.emit();
        let sender = header.sender.0.to_be_bytes();
        let made = self
            .key
            .seal_in_place_separate_tag(nonce(header.nonce), Aad::from(self.associated_data(&sender)), packet)
            .map_err(|_| CryptoError::Key)?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    /// Opens a sealed frame in place and returns the packet. A failure destroys the ciphertext.
    ///
    /// # Errors
    /// [`CryptoError::Open`].
    pub fn open<'a>(&self, header: SealedHeader, frame: &'a mut [u8]) -> Result<&'a mut [u8], CryptoError> {
        let (_, rest) = frame.split_at_mut_checked(SEALED_HEADER_LEN).ok_or(CryptoError::Open)?;
        let sender = header.sender.0.to_be_bytes();
        self.key
            .open_in_place(nonce(header.nonce), Aad::from(self.associated_data(&sender)), rest)
            .map(|packet| &mut *packet)
            .map_err(|_| CryptoError::Open)
    }

    /// Opens a sealed frame into `packet`, which is resized. The frame stays intact, so that another key can
    /// be tried.
    ///
    /// # Errors
    /// [`CryptoError::Open`].
    pub fn open_to(
        &self,
        header: SealedHeader,
        frame: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let rest = frame.get(SEALED_HEADER_LEN..).ok_or(CryptoError::Open)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(CryptoError::Open)?;
        let sender = header.sender.0.to_be_bytes();
        packet.resize(ciphertext.len(), 0);
        self.key
            .open_separate_gather(
                nonce(header.nonce),
                Aad::from(self.associated_data(&sender)),
                ciphertext,
                tag,
                packet,
            )
            .map_err(|_| CryptoError::Open)
    }

    /// The associated data (AAD) of this suite.
    fn associated_data<'a>(&self, sender: &'a [u8; 4]) -> &'a [u8] {
        match self.suite {
            Suite::G1 => &[],
            Suite::G2 => sender,
        }
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

fn nonce(nonce: Nonce) -> CipherNonce {
    CipherNonce::assume_unique_for_key(nonce.emit())
}
