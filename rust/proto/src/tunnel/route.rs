//! Where a frame goes to or came from: straight to a UDP address, or through a beacon.

use core::{fmt, net::SocketAddr};

use crate::wire::addr::NodeId;

/// One way between this node and another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Route {
    /// To a UDP address.
    Direct(SocketAddr),
    /// Through a beacon, in Relay messages.
    Relayed {
        /// The beacon's address.
        beacon: SocketAddr,
        /// The node at the other end.
        node: NodeId,
    },
}

impl Route {
    /// The UDP address at which the other end itself is; `None` through a beacon.
    pub fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(address) => Some(address),
            Self::Relayed { .. } => None,
        }
    }

    /// Whether it leads through a beacon.
    pub fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed { .. })
    }

    /// Destination of the datagrams: the other end or the beacon.
    pub fn next_hop(self) -> SocketAddr {
        match self {
            Self::Direct(address) | Self::Relayed { beacon: address, .. } => address,
        }
    }
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Self {
        Self::Direct(address)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => address.fmt(f),
            Self::Relayed { beacon, .. } => write!(f, "relay {beacon}"),
        }
    }
}
