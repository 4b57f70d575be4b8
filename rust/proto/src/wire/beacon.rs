//! Beacon messages: endpoint discovery, hole punching, relay (`docs/reference/protocol/beacon.md`).
//!
//! ```text
//! 01 Discover      node u32 [ Ed25519 public 32 ]        08 the same, announces that 09 is understood
//! 02 DiscoverReply iplen u8 (4 or 16) | ip | port u16
//! 03 PunchRequest  requester u32 | target u32 [ expiry u64 | signature 64 ]
//! 04 PunchCommand  iplen u8 | ip | port u16
//! 05 Relay         sender u32 | destination u32 | tunnel frame
//! 06 RelayDeliver  sender u32 | tunnel frame
//! 07 Sync          beacon u32 | count u16 | count * node u32
//! 09 RelayDeliverDest sender u32 | destination u32 | tunnel frame
//! 0A Notify        kind u8
//!
//! A reply to Discover may end with a cookie: "PILV" | cookie 8. The node proves its address by appending
//! the same bytes to its next Discover, after its key, and its identity by a signature after them:
//!
//! 01 node u32 | Ed25519 public 32 | "PILV" | cookie 8 [ | signature 64 ]
//! ```
//!
//! The signature covers "beacon" | node u32 | cookie 8. Who does not know these trailers ignores them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ParseError, addr::NodeId};

/// Length of the longest endpoint message, bytes.
pub const MAX_ENDPOINT_LEN: usize = 1 + 1 + 16 + 2;
/// Bytes of a Discover with a key.
const DISCOVER_KEY_LEN: usize = 1 + 4 + 32;

const _: () = assert!(MAX_ENDPOINT_LEN + AddressCookie::LEN <= DISCOVER_KEY_LEN, "a reply amplifies nothing");

const PROOF: [u8; 4] = *b"PILV";
const SIGNED_LABEL: [u8; 6] = *b"beacon";
/// Bytes in front of the frame in a Relay message.
pub const RELAY_HEADER_LEN: usize = 1 + 4 + 4;

const DISCOVER: u8 = 0x01;
const DISCOVER_REPLY: u8 = 0x02;
const PUNCH_REQUEST: u8 = 0x03;
const PUNCH_COMMAND: u8 = 0x04;
const RELAY: u8 = 0x05;
const RELAY_DELIVER: u8 = 0x06;
const SYNC: u8 = 0x07;
const DISCOVER_EX: u8 = 0x08;
const RELAY_DELIVER_DEST: u8 = 0x09;
const NOTIFY: u8 = 0x0a;

/// One message; relayed frames and node lists are borrowed from the datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Asks for the sender's endpoint as the beacon sees it.
    Discover {
        /// The requester; 0 before it has an id.
        node: NodeId,
        /// The requester's Ed25519 public key, if it sent one.
        identity_key: Option<[u8; 32]>,
        /// Whether [`Message::RelayDeliver`] with a destination is understood.
        is_extended: bool,
    },
    /// The endpoint that a Discover came from.
    DiscoverReply(SocketAddr),
    /// Asks the beacon to make two nodes punch towards each other.
    PunchRequest {
        /// The requester.
        requester: NodeId,
        /// The node that it wants to reach.
        target: NodeId,
    },
    /// Tells a node to send punch datagrams to this endpoint.
    PunchCommand(SocketAddr),
    /// A frame to be relayed.
    Relay {
        /// The claimed sender.
        sender: NodeId,
        /// The destination.
        destination: NodeId,
        /// The tunnel frame.
        frame: &'a [u8],
    },
    /// A relayed frame.
    RelayDeliver {
        /// The claimed sender.
        sender: NodeId,
        /// The destination, in the extended form.
        destination: Option<NodeId>,
        /// The tunnel frame.
        frame: &'a [u8],
    },
    /// The nodes that another beacon serves.
    Sync {
        /// The other beacon.
        beacon: u32,
        /// Its nodes, four bytes each.
        nodes: &'a [u8],
    },
    /// Something for the node is pending at the registry.
    Notify {
        /// 1: relayed handshakes.
        kind: u8,
    },
}

impl<'a> Message<'a> {
    /// Parses one message; trailing bytes are ignored.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], [`ParseError::UnknownType`], or [`ParseError::Invalid`] for an IP
    /// length other than 4 or 16.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (code, rest) = bytes.split_first().ok_or(ParseError::Truncated)?;
        match *code {
            DISCOVER | DISCOVER_EX => {
                let (node, rest) = node_id(rest)?;
                Ok(Self::Discover {
                    node,
                    identity_key: rest.first_chunk::<32>().copied(),
                    is_extended: *code == DISCOVER_EX,
                })
            }
            DISCOVER_REPLY => parse_endpoint(rest).map(Self::DiscoverReply),
            PUNCH_REQUEST => {
                let (requester, rest) = node_id(rest)?;
                let (target, _) = node_id(rest)?;
                Ok(Self::PunchRequest { requester, target })
            }
            PUNCH_COMMAND => parse_endpoint(rest).map(Self::PunchCommand),
            RELAY => {
                let (sender, rest) = node_id(rest)?;
                let (destination, frame) = node_id(rest)?;
                Ok(Self::Relay { sender, destination, frame })
            }
            RELAY_DELIVER => {
                let (sender, frame) = node_id(rest)?;
                Ok(Self::RelayDeliver { sender, destination: None, frame })
            }
            RELAY_DELIVER_DEST => {
                let (sender, rest) = node_id(rest)?;
                let (destination, frame) = node_id(rest)?;
                Ok(Self::RelayDeliver { sender, destination: Some(destination), frame })
            }
            SYNC => {
                let (beacon, rest) = node_id(rest)?;
                let (count, rest) = rest.split_first_chunk::<2>().ok_or(ParseError::Truncated)?;
                let len = usize::from(u16::from_be_bytes(*count)) * 4;
                let nodes = rest.get(..len).ok_or(ParseError::Truncated)?;
                Ok(Self::Sync { beacon: beacon.0, nodes })
            }
            NOTIFY => rest.first().map(|kind| Self::Notify { kind: *kind }).ok_or(ParseError::Truncated),
            _ => Err(ParseError::UnknownType),
        }
    }

    /// Appends the bytes of this message to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Discover { node, identity_key, is_extended } => {
                out.push(if is_extended { DISCOVER_EX } else { DISCOVER });
                out.extend(node.0.to_be_bytes());
                out.extend(identity_key.iter().flatten());
            }
            Self::DiscoverReply(endpoint) => emit_endpoint(DISCOVER_REPLY, endpoint, out),
            Self::PunchRequest { requester, target } => {
                out.push(PUNCH_REQUEST);
                out.extend(requester.0.to_be_bytes());
                out.extend(target.0.to_be_bytes());
            }
            Self::PunchCommand(endpoint) => emit_endpoint(PUNCH_COMMAND, endpoint, out),
            Self::Relay { sender, destination, frame } => {
                out.extend(relay_header(sender, destination));
                out.extend(frame);
            }
            Self::RelayDeliver { sender, destination, frame } => {
                out.push(if destination.is_some() { RELAY_DELIVER_DEST } else { RELAY_DELIVER });
                out.extend(sender.0.to_be_bytes());
                out.extend(destination.iter().flat_map(|node| node.0.to_be_bytes()));
                out.extend(frame);
            }
            Self::Sync { beacon, nodes } => {
                out.push(SYNC);
                out.extend(beacon.to_be_bytes());
                let count = u16::try_from(nodes.len() / 4).unwrap_or(u16::MAX);
                out.extend(count.to_be_bytes());
                out.extend(&nodes[..usize::from(count) * 4]);
            }
            Self::Notify { kind } => out.extend([NOTIFY, kind]),
        }
    }
}

/// Proof that a node receives at its address: a beacon appends it to a reply, the node to its next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressCookie(pub [u8; 8]);

impl AddressCookie {
    /// Bytes of a cookie and its magic.
    pub const LEN: usize = 4 + 8;
    /// Bytes of the text that a signature covers.
    pub const SIGNED_LEN: usize = SIGNED_LABEL.len() + 4 + 8;

    /// The cookie at the end of a DiscoverReply.
    pub fn in_reply(bytes: &[u8]) -> Option<Self> {
        let ip_len = usize::from(*bytes.get(1)?);
        Self::parse(bytes.get(1 + 1 + ip_len + 2..)?)
    }

    /// The cookie after the key of a Discover.
    pub fn in_discover(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes.get(DISCOVER_KEY_LEN..)?)
    }

    /// The signature after the cookie of a Discover.
    pub fn signature_in_discover(bytes: &[u8]) -> Option<[u8; 64]> {
        bytes.get(DISCOVER_KEY_LEN + Self::LEN..)?.first_chunk().copied()
    }

    /// Appends the magic and the cookie.
    pub fn emit(self, out: &mut Vec<u8>) {
        out.extend(PROOF);
        out.extend(self.0);
    }

    /// What `node` signs with its identity to prove that the key in its Discover is its own.
    pub fn signed_text(self, node: NodeId) -> [u8; Self::SIGNED_LEN] {
        let mut text = [0; Self::SIGNED_LEN];
        let parts = SIGNED_LABEL.into_iter().chain(node.0.to_be_bytes()).chain(self.0);
        for (to, from) in text.iter_mut().zip(parts) {
            *to = from;
        }
        text
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.strip_prefix(&PROOF)?.first_chunk().copied().map(Self)
    }
}

/// The bytes in front of the frame in a Relay message.
pub fn relay_header(sender: NodeId, destination: NodeId) -> [u8; RELAY_HEADER_LEN] {
    let mut bytes = [RELAY; RELAY_HEADER_LEN];
    bytes[1..5].copy_from_slice(&sender.0.to_be_bytes());
    bytes[5..].copy_from_slice(&destination.0.to_be_bytes());
    bytes
}

fn node_id(bytes: &[u8]) -> Result<(NodeId, &[u8]), ParseError> {
    let (id, rest) = bytes.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
    Ok((NodeId(u32::from_be_bytes(*id)), rest))
}

fn parse_endpoint(bytes: &[u8]) -> Result<SocketAddr, ParseError> {
    let (len, rest) = bytes.split_first().ok_or(ParseError::Truncated)?;
    let (ip, rest) = match *len {
        4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
            (IpAddr::V4(Ipv4Addr::from(*ip)), rest)
        }
        16 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::Truncated)?;
            (IpAddr::V6(Ipv6Addr::from(*ip)), rest)
        }
        _ => return Err(ParseError::Invalid),
    };
    let port = rest.first_chunk::<2>().ok_or(ParseError::Truncated)?;
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// IPv4 is always written in four bytes, also when the socket reports it mapped into IPv6.
fn emit_endpoint(code: u8, endpoint: SocketAddr, out: &mut Vec<u8>) {
    out.push(code);
    match endpoint.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(16);
            out.extend(ip.octets());
        }
    }
    out.extend(endpoint.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: AddressCookie = AddressCookie(*b"12345678");

    #[test]
    fn a_cookie_stands_at_the_end_of_a_reply() {
        for endpoint in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
            let endpoint = endpoint.parse().unwrap();
            let mut bytes = Vec::new();
            Message::DiscoverReply(endpoint).emit(&mut bytes);
            assert_eq!(AddressCookie::in_reply(&bytes), None);
            COOKIE.emit(&mut bytes);
            assert_eq!(Message::parse(&bytes), Ok(Message::DiscoverReply(endpoint)));
            assert_eq!(AddressCookie::in_reply(&bytes), Some(COOKIE));
            for len in 0..bytes.len() {
                assert_eq!(AddressCookie::in_reply(&bytes[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn a_discover_proves_with_cookie_and_signature_after_the_key() {
        let node = NodeId(42);
        let plain = Message::Discover { node, identity_key: Some([7; 32]), is_extended: true };
        let mut bytes = Vec::new();
        plain.emit(&mut bytes);
        COOKIE.emit(&mut bytes);
        assert_eq!(Message::parse(&bytes), Ok(plain));
        assert_eq!(AddressCookie::in_discover(&bytes), Some(COOKIE));
        assert_eq!(AddressCookie::signature_in_discover(&bytes), None);
        bytes.extend([9; 64]);
        assert_eq!(AddressCookie::signature_in_discover(&bytes), Some([9; 64]));
        bytes[DISCOVER_KEY_LEN] ^= 1;
        assert_eq!(AddressCookie::in_discover(&bytes), None);
        assert_eq!(COOKIE.signed_text(node), *b"beacon\x00\x00\x00\x2a12345678");
    }
}
