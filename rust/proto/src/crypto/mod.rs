//! Identity, key agreement, sealing and replay protection (`docs/reference/protocol/tunnel.md`).
//!
//! The primitives come from aws-lc-rs; this module fixes how they are combined and keeps secrets out of logs.
//! It knows neither peers nor sessions.

pub mod aead;
pub mod entropy;
pub mod exchange;
pub mod identity;
pub mod prf;
pub mod replay;

/// A key or signature operation failed. Deliberately gives no details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes are not a usable key.
    #[error("unusable key")]
    Key,
    /// The signature does not verify.
    #[error("bad signature")]
    Signature,
    /// The authentication tag does not match this key, nonce and associated data.
    #[error("cannot be opened")]
    Open,
}

/// How tunnel keys are derived and frames are bound to their sender. The two legacy generations differ, and
/// nothing on the wire says which one a peer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// Key = SHA-256 of a label and the shared secret; no associated data.
    G1,
    /// Key = HKDF-SHA256 of the shared secret; the sender id is associated data.
    G2,
}
