//! Tunnel frames: the datagrams that carry or set up a session (`docs/reference/protocol/tunnel.md`).
//!
//! ```text
//! PILT | packet
//! PILS | sender u32 | nonce: prefix u32, counter u64 | ciphertext | tag 16
//! PILK | sender u32 | X25519 public 32
//! PILA | sender u32 | X25519 public 32 | Ed25519 public 32 | signature 64 [ | cookie 16 ]
//! PILP |
//! PILC | sender u32 | echo 16 | cookie 16
//! ```
//!
//! A node above its rate limit of signature checks answers a signed key with `PILC`: the first bytes of the
//! X25519 key, and a cookie for its source address. The key sent again with the cookie appended shows that
//! the sender receives at that address. Legacy peers ignore `PILC`, and bytes after a key.
//!
//! A datagram whose first byte is below 0x10 is a beacon message instead.

use super::{ParseError, addr::NodeId};

/// Length of the header of a sealed frame, bytes.
pub const SEALED_HEADER_LEN: usize = 20;
/// Length of the authentication tag after the ciphertext, bytes.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds to a packet.
pub const SEALED_OVERHEAD: usize = SEALED_HEADER_LEN + TAG_LEN;
/// Length of a signed key frame, bytes.
pub const SIGNED_KEY_LEN: usize = 4 + 4 + 32 + 32 + 64;
/// Length of a bare key frame, bytes.
pub const BARE_KEY_LEN: usize = 4 + 4 + 32;
/// Length of a cookie, bytes.
pub const COOKIE_LEN: usize = 16;
/// Length of a cookie reply, bytes; no longer than the frame that it answers.
pub const COOKIE_REPLY_LEN: usize = 4 + 4 + ECHO_LEN + COOKIE_LEN;
/// A hole-punching datagram.
pub const PUNCH: [u8; 4] = *b"PILP";

const PLAIN: [u8; 4] = *b"PILT";
const SEALED: [u8; 4] = *b"PILS";
const BARE_KEY: [u8; 4] = *b"PILK";
const SIGNED_KEY: [u8; 4] = *b"PILA";
const COOKIE_REPLY: [u8; 4] = *b"PILC";
const ECHO_LEN: usize = 16;
const _: () = assert!(COOKIE_REPLY_LEN <= SIGNED_KEY_LEN, "a reply amplifies nothing");
const FIRST_MAGIC: u8 = 0x10;

/// The 96-bit nonce of a sealed frame: a random prefix and an increasing counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce {
    /// Random per session and sender.
    pub prefix: u32,
    /// Starts at 1.
    pub counter: u64,
}

impl Nonce {
    /// Bytes on the wire.
    pub const LEN: usize = 12;

    /// The bytes given to the cipher.
    pub fn emit(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.prefix.to_be_bytes());
        bytes[4..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [a, b, c, d, rest @ ..] = bytes;
        Self { prefix: u32::from_be_bytes([a, b, c, d]), counter: u64::from_be_bytes(rest) }
    }
}

/// The header of a sealed frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedHeader {
    /// The claimed sender; authenticated only by opening the frame.
    pub sender: NodeId,
    /// The nonce it was sealed with.
    pub nonce: Nonce,
}

impl SealedHeader {
    /// Encodes the header.
    pub fn emit(self) -> [u8; SEALED_HEADER_LEN] {
        let mut bytes = [0; SEALED_HEADER_LEN];
        bytes[..4].copy_from_slice(&SEALED);
        bytes[4..8].copy_from_slice(&self.sender.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.emit());
        bytes
    }
}

/// An unsigned key frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BareKey {
    /// The sender.
    pub sender: NodeId,
    /// The X25519 public key.
    pub exchange_key: [u8; 32],
}

impl BareKey {
    /// Encodes the frame.
    pub fn emit(&self) -> [u8; BARE_KEY_LEN] {
        let mut bytes = [0; BARE_KEY_LEN];
        bytes[..4].copy_from_slice(&BARE_KEY);
        bytes[4..8].copy_from_slice(&self.sender.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.exchange_key);
        bytes
    }
}

/// A key frame whose exchange key is signed by the sender's identity. Parsing does not verify it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedKey {
    /// The sender.
    pub sender: NodeId,
    /// The X25519 public key.
    pub exchange_key: [u8; 32],
    /// The Ed25519 public key that the registry must confirm.
    pub identity_key: [u8; 32],
    /// Signature over `auth`, the sender and the exchange key.
    pub signature: [u8; 64],
}

impl SignedKey {
    /// Encodes the frame.
    pub fn emit(&self) -> [u8; SIGNED_KEY_LEN] {
        let mut bytes = [0; SIGNED_KEY_LEN];
        bytes[..4].copy_from_slice(&SIGNED_KEY);
        bytes[4..8].copy_from_slice(&self.sender.0.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.exchange_key);
        bytes[40..72].copy_from_slice(&self.identity_key);
        bytes[72..].copy_from_slice(&self.signature);
        bytes
    }
}

/// Proof that the sender receives at its source address.
pub type Cookie = [u8; COOKIE_LEN];

/// The cookie after a signed key frame, if there is one.
pub fn cookie_of(bytes: &[u8]) -> Option<Cookie> {
    bytes.get(SIGNED_KEY_LEN..)?.first_chunk().copied()
}

/// Requests a signed key again, with a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CookieReply {
    /// The requester.
    pub sender: NodeId,
    /// The first bytes of the X25519 key that was sent.
    echo: [u8; ECHO_LEN],
    /// To be appended to the key.
    pub cookie: Cookie,
}

impl CookieReply {
    /// The reply to a key.
    pub fn new(sender: NodeId, exchange_key: &[u8; 32], cookie: Cookie) -> Self {
        Self { sender, echo: part(exchange_key), cookie }
    }

    /// Whether it replies to this key.
    pub fn is_about(&self, exchange_key: &[u8; 32]) -> bool {
        exchange_key.starts_with(&self.echo)
    }

    /// Encodes the frame.
    pub fn emit(&self) -> [u8; COOKIE_REPLY_LEN] {
        let mut bytes = [0; COOKIE_REPLY_LEN];
        bytes[..4].copy_from_slice(&COOKIE_REPLY);
        bytes[4..8].copy_from_slice(&self.sender.0.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.echo);
        bytes[24..].copy_from_slice(&self.cookie);
        bytes
    }
}

/// Type of a datagram. The payload of sealed and plain frames stays in the datagram, so that it can be opened
/// in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// An unencrypted packet after its magic.
    Plain,
    /// A ciphertext and its tag start at [`SEALED_HEADER_LEN`].
    Sealed(SealedHeader),
    /// An unauthenticated key.
    BareKey(BareKey),
    /// A signed key.
    SignedKey(SignedKey),
    /// Requests a signed key with a cookie.
    CookieReply(CookieReply),
    /// Opens a NAT binding; has no content.
    Punch,
    /// A beacon message; the whole datagram belongs to it.
    Beacon,
}

impl Frame {
    /// Parses a datagram. Bytes after a key frame are ignored.
    ///
    /// # Errors
    /// [`ParseError::UnknownType`] or [`ParseError::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.first().is_some_and(|first| *first < FIRST_MAGIC) {
            return Ok(Self::Beacon);
        }
        let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(ParseError::Truncated);
        };
        match *magic {
            SEALED => Self::parse_sealed(rest),
            PLAIN => Ok(Self::Plain),
            SIGNED_KEY => {
                let fields = rest.first_chunk::<{ SIGNED_KEY_LEN - 4 }>().ok_or(ParseError::Truncated)?;
                Ok(Self::SignedKey(SignedKey {
                    sender: node_id(fields),
                    exchange_key: part(&fields[4..]),
                    identity_key: part(&fields[36..]),
                    signature: part(&fields[68..]),
                }))
            }
            BARE_KEY => {
                let fields = rest.first_chunk::<{ BARE_KEY_LEN - 4 }>().ok_or(ParseError::Truncated)?;
                Ok(Self::BareKey(BareKey { sender: node_id(fields), exchange_key: part(&fields[4..]) }))
            }
            COOKIE_REPLY => {
                let fields = rest.first_chunk::<{ COOKIE_REPLY_LEN - 4 }>().ok_or(ParseError::Truncated)?;
                let (echo, cookie) = (part(&fields[4..]), part(&fields[20..]));
                Ok(Self::CookieReply(CookieReply { sender: node_id(fields), echo, cookie }))
            }
            PUNCH => Ok(Self::Punch),
            _ => Err(ParseError::UnknownType),
        }
    }

    fn parse_sealed(rest: &[u8]) -> Result<Self, ParseError> {
        let fields = rest.first_chunk::<{ SEALED_HEADER_LEN - 4 }>().ok_or(ParseError::Truncated)?;
        if rest.len() < fields.len() + TAG_LEN {
            return Err(ParseError::Truncated);
        }
        Ok(Self::Sealed(SealedHeader { sender: node_id(fields), nonce: Nonce::parse(part(&fields[4..])) }))
    }
}

fn node_id(fields: &[u8]) -> NodeId {
    NodeId(u32::from_be_bytes(part(fields)))
}

/// The first `N` bytes, zeros where they are missing; callers have checked the length.
fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk::<N>().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_reply_round_trips_and_a_truncated_one_is_refused() {
        let key = core::array::from_fn(|n| n as u8);
        let reply = CookieReply::new(NodeId(0x0102_0304), &key, [9; COOKIE_LEN]);
        let bytes = reply.emit();
        let expected = [b"PILC\x01\x02\x03\x04".as_slice(), &key[..16], &[9; 16]].concat();
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(Frame::parse(&bytes), Ok(Frame::CookieReply(reply)));
        for len in 4..COOKIE_REPLY_LEN {
            assert_eq!(Frame::parse(&bytes[..len]), Err(ParseError::Truncated));
        }
        assert!(reply.is_about(&key));
        assert!(!reply.is_about(&[0; 32]));
    }

    #[test]
    fn a_cookie_follows_a_signed_key() {
        let mut bytes = vec![1; SIGNED_KEY_LEN];
        assert_eq!(cookie_of(&bytes), None);
        bytes.extend([2; COOKIE_LEN - 1]);
        assert_eq!(cookie_of(&bytes), None);
        bytes.extend([2, 3]);
        assert_eq!(cookie_of(&bytes), Some([2; COOKIE_LEN]));
    }
}
