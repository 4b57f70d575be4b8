//! Virtual addresses (`docs/reference/protocol/packet.md#addresses`).
//!
//! ```text
//!  0      2                    6
//! +------+--------------------+
//! | net  |        node        |   text: N:HHHH.HHHH.HHHH = decimal net, net, node high, node low
//! +------+--------------------+
//! ```

use core::{fmt, str::FromStr};

use super::ParseError;

/// Identifies a node within its networks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u32);

/// Identifies a network; 0 is the backbone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NetworkId(pub u16);

/// A virtual port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Port(pub u16);

impl NodeId {
    /// The node id that addresses all members of a network.
    pub const BROADCAST: Self = Self(u32::MAX);
}

impl NetworkId {
    /// The global network that every node is a member of.
    pub const BACKBONE: Self = Self(0);
}

/// A 48-bit virtual address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address {
    /// The network.
    pub network: NetworkId,
    /// The node within it.
    pub node: NodeId,
}

impl Address {
    /// Bytes on the wire.
    pub const LEN: usize = 6;

    /// The address of `node` on the backbone.
    pub const fn backbone(node: NodeId) -> Self {
        Self { network: NetworkId::BACKBONE, node }
    }

    /// Whether this addresses all members of its network.
    pub fn is_broadcast(self) -> bool {
        self.node == NodeId::BROADCAST
    }

    /// Whether this is the unset address.
    pub fn is_unspecified(self) -> bool {
        self == Self::default()
    }

    /// Parses an address from its six bytes.
    pub const fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [n0, n1, a, b, c, d] = bytes;
        Self {
            network: NetworkId(u16::from_be_bytes([n0, n1])),
            node: NodeId(u32::from_be_bytes([a, b, c, d])),
        }
    }

    /// The six bytes of this address.
    pub const fn emit(self) -> [u8; Self::LEN] {
        let [n0, n1] = self.network.0.to_be_bytes();
        let [a, b, c, d] = self.node.0.to_be_bytes();
        [n0, n1, a, b, c, d]
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = self.network.0;
        write!(f, "{net}:{net:04X}.{:04X}.{:04X}", self.node.0 >> 16, self.node.0 & 0xffff)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (decimal, rest) = text.split_once(':').ok_or(ParseError::Invalid)?;
        if decimal.is_empty() || !decimal.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::Invalid);
        }
        let network: u16 = decimal.parse().map_err(|_| ParseError::Invalid)?;
        let mut groups = rest.split('.').map(hex_group);
        let (Some(net), Some(high), Some(low), None) =
            (groups.next(), groups.next(), groups.next(), groups.next())
        else {
            return Err(ParseError::Invalid);
        };
        if net? != network {
            return Err(ParseError::Invalid);
        }
        let node = u32::from(high?) << 16 | u32::from(low?);
        Ok(Self { network: NetworkId(network), node: NodeId(node) })
    }
}

/// Exactly four hexadecimal digits.
fn hex_group(text: &str) -> Result<u16, ParseError> {
    if text.len() != 4 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseError::Invalid);
    }
    u16::from_str_radix(text, 16).map_err(|_| ParseError::Invalid)
}
