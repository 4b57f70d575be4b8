//! The relayed path of a peer: through our home beacon (`docs/reference/protocol/beacon.md#relay`).
//!
//! A beacon is an untrusted pipe: only an opened frame proves that the peer is behind it. It needs no
//! challenge to be usable, because nothing is sent but to a configured beacon, and it never replaces a
//! validated address.

use core::{net::SocketAddr, time::Duration};

use super::watch::Rtt;
use crate::{
    time::Instant,
    tunnel::{Route, path_mtu::PathMtu},
    wire::{addr::NodeId, seq::SeqNumber},
};

/// The path through a beacon.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) beacon: SocketAddr,
    pub(super) node: NodeId,
    /// A sealed frame of the peer came through a beacon since its identity was last in doubt.
    pub(super) has_received: bool,
    /// The same since frames go through it.
    pub(super) has_answered: bool,
    /// Since when the peer is known to be there.
    pub(super) since: Option<Instant>,
    /// Measured by pings.
    pub(super) rtt: Rtt,
    /// The outstanding ping: its sequence number and when it was sent.
    pub(super) ping: Option<(SeqNumber, Instant)>,
    /// Path MTU discovery.
    pub(super) mtu: PathMtu,
}

impl Relay {
    pub(super) fn new(beacon: SocketAddr, node: NodeId) -> Self {
        Self {
            beacon,
            node,
            has_received: false,
            has_answered: false,
            since: None,
            rtt: Rtt::default(),
            ping: None,
            mtu: PathMtu::new(beacon, true),
        }
    }

    /// A sealed frame of the peer came through a beacon.
    pub(super) fn on_heard(&mut self, now: Instant) {
        (self.has_received, self.has_answered) = (true, true);
        self.since.get_or_insert(now);
    }

    /// How long frames take to the peer, as far as is known.
    pub(super) fn delay(&self) -> Option<Duration> {
        self.rtt.smoothed().map(|rtt| rtt / 2)
    }

    pub(super) fn route(&self) -> Route {
        Route::Relayed { beacon: self.beacon, node: self.node }
    }
}
