//! Bytes on the wire to typed values and back. No state, no clock, no policy.
//!
//! Every parser takes untrusted bytes, never panics, bounds what it reads before it allocates and
//! fails with [`ParseError`] alone.

pub mod addr;
pub mod beacon;
pub mod ipc;
pub mod packet;
pub mod sack;
pub mod seq;
pub mod tunnel;

/// Why untrusted bytes were refused. Each variant is counted by name where it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the fixed part or a length field promises.
    #[error("truncated")]
    Truncated,
    /// The checksum does not match the bytes.
    #[error("bad checksum")]
    Checksum,
    /// A version other than the one we speak.
    #[error("unsupported version")]
    Version,
    /// A magic, code or kind that is not assigned.
    #[error("unknown type")]
    UnknownType,
    /// A field holds a value outside its range.
    #[error("invalid field")]
    Invalid,
    /// A length field exceeds the bound for this message.
    #[error("too large")]
    TooLarge,
}
