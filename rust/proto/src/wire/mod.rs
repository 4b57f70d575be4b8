//! Bytes on the wire to typed values and back. No state, no clock, no policy.
//!
//! Every parser accepts untrusted bytes, never panics, checks bounds before it allocates, and fails only with
//! [`ParseError`].

pub mod addr;
pub mod beacon;
pub mod ipc;
pub mod packet;
pub mod sack;
pub mod seq;
pub mod tunnel;

/// Why untrusted bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the fixed part or a length field requires.
    #[error("truncated")]
    Truncated,
    /// The checksum does not match the bytes.
    #[error("bad checksum")]
    Checksum,
    /// An unsupported version.
    #[error("unsupported version")]
    Version,
    /// An unassigned magic, code or kind.
    #[error("unknown type")]
    UnknownType,
    /// A field value is out of range.
    #[error("invalid field")]
    Invalid,
    /// A length field exceeds the bound for this message.
    #[error("too large")]
    TooLarge,
}
