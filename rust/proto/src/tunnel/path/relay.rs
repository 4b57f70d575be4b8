//! The relayed path of a peer: through our home beacon (`docs/reference/protocol/beacon.md#relay`).
//!
//! A beacon is an untrusted pipe: only an opened frame proves that the peer is behind it. It needs no
//! challenge to be usable, because nothing is sent but to a configured beacon, and it never replaces a
//! validated address.

use core::net::SocketAddr;

use crate::tunnel::{Route, path_mtu::PathMtu};
use crate::wire::addr::NodeId;

/// The path through a beacon.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) beacon: SocketAddr,
    pub(super) node: NodeId,
    /// A sealed frame of the peer came through a beacon since its identity was last in doubt.
    pub(super) has_received: bool,
    /// Path MTU discovery.
    pub(super) mtu: PathMtu,
}

impl Relay {
    pub(super) fn new(beacon: SocketAddr, node: NodeId) -> Self {
        Self { beacon, node, has_received: false, mtu: PathMtu::default() }
    }

    pub(super) fn route(&self) -> Route {
        Route::Relayed { beacon: self.beacon, node: self.node }
    }
}
