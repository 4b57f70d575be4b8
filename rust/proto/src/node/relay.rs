//! The relay as a path (`docs/reference/protocol/beacon.md#relay`): frames wrapped in Relay messages on their
//! way out, and what beacons deliver.
//!
//! A beacon is an untrusted pipe. What it delivers is processed like a datagram of an unknown sender; only an
//! opened frame proves who sealed it.

use core::net::SocketAddr;

use super::{Event, Node, trace::count_drop};
use crate::{
    time::Instant,
    tunnel::{Peer, Route},
    wire::{
        addr::NodeId,
        beacon::{Message, RELAY_HEADER_LEN, relay_header},
        tunnel::Frame,
    },
};

/// Bytes in front of a frame that goes by a route.
pub(super) fn wrapping(route: Route) -> usize {
    if route.is_relayed() { RELAY_HEADER_LEN } else { 0 }
}

/// Writes the bytes in front of a frame that goes by a route; `out` has room for them.
pub(super) fn wrap(route: Route, own: NodeId, out: &mut [u8]) {
    if let Route::Relayed { node, .. } = route
        && let Some(header) = out.first_chunk_mut()
    {
        *header = relay_header(own, node);
    }
}

impl Node {
    /// Processes a RelayDeliver from one of our beacons; `frame` is the rest of the datagram.
    pub(super) fn on_relayed(
        &mut self,
        now: Instant,
        beacon: SocketAddr,
        (sender, destination): (NodeId, Option<NodeId>),
        frame: &mut [u8],
    ) {
        let own = self.address.node;
        let is_for_us = own != NodeId::default() && destination.is_none_or(|node| node == own);
        if !is_for_us || sender == own {
            count_drop!(self, dropped_beacon);
            return;
        }
        // A frame names its sender itself, and beacon messages are not nested.
        let claimed = match Frame::parse(frame) {
            Ok(Frame::Sealed(header)) => header.sender,
            Ok(Frame::SignedKey(key)) => key.sender,
            Ok(Frame::BareKey(key)) => key.sender,
            Ok(Frame::CookieReply(reply)) => reply.sender,
            Ok(Frame::Plain) => {
                count_drop!(self, dropped_plaintext);
                return;
            }
            Ok(Frame::Punch | Frame::Beacon) => {
                count_drop!(self, dropped_beacon);
                return;
            }
            Err(_) => {
                count_drop!(self, dropped_malformed);
                return;
            }
        };
        if claimed != sender {
            count_drop!(self, dropped_misaddressed);
            return;
        }
        self.counters.relayed_recv += 1;
        self.on_frame(now, Route::Relayed { beacon, node: sender }, frame);
    }

    /// Tells peers of our home beacon if it changed.
    pub(super) fn update_home(&mut self, now: Instant) {
        // While none answers, the last one may come back.
        let last = self.home.filter(|home| self.discovery.is_beacon(*home));
        let home = self.discovery.home().or(last);
        if home == self.home {
            return;
        }
        self.home = home;
        self.events.extend(home.map(Event::HomeChanged));
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with_peer(id, |peer, local, out| peer.set_relay(now, home, local, out));
        }
    }

    /// Whether a peer can be reached, now or once a beacon answers.
    pub(super) fn has_route(&self, node: NodeId) -> bool {
        self.discovery.has_beacons() || self.peers.get(&node).and_then(Peer::route).is_some()
    }
}

/// The sender and destination of a RelayDeliver, and where its frame begins.
pub(super) fn parse_delivery(bytes: &[u8]) -> Option<(NodeId, Option<NodeId>, usize)> {
    match Message::parse(bytes) {
        Ok(Message::RelayDeliver { sender, destination, frame }) => {
            Some((sender, destination, bytes.len() - frame.len()))
        }
        _ => None,
    }
}
