//! Our own candidate addresses, and what follows when frames for a peer go another way.

use core::{net::SocketAddr, time::Duration};

use super::{Event, Node, slots::path_key};
use crate::{
    time::Instant,
    transport::OldPath,
    tunnel::{Candidate, CandidateKind, Candidates, PathClass, PathSwitch, Route},
    wire::addr::NodeId,
};

/// Connections whose timeouts are looked at for one peer.
const MAX_MEASURED: usize = 16;

impl Node {
    /// Sets the addresses at which this host may be reached, besides the one that beacons see. Peers in use
    /// are told.
    pub fn set_candidates(&mut self, now: Instant, named: Vec<Candidate>) {
        self.recorder.now = now;
        self.named = named;
        self.update_candidates(now);
    }

    /// The registry names further addresses of a peer; to be called before [`Node::on_record`].
    pub fn on_registry_list(&mut self, now: Instant, node: NodeId, named: &[SocketAddr]) {
        self.recorder.now = now;
        self.with_peer(node, |peer, _, _| peer.on_registry_list(now, named));
    }

    /// Combines what the driver named with what beacons see.
    pub(super) fn update_candidates(&mut self, now: Instant) {
        let reflexive = self.discovery.known();
        let reflexive = reflexive.map(|address| Candidate { kind: CandidateKind::Reflexive, address });
        let candidates = Candidates::new(reflexive.into_iter().chain(self.named.iter().copied()));
        if candidates == self.candidates {
            return;
        }
        self.candidates = candidates;
        let active: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.is_active()).map(|(id, _)| *id).collect();
        for id in active {
            self.with_peer(id, |peer, local, out| peer.announce_candidates(now, local, out));
        }
    }

    /// Frames for a peer go another way; those on their way may be lost.
    pub(super) fn on_route_changed(&mut self, now: Instant, node: NodeId, switch: PathSwitch) {
        let Some(path) = self.peers.get(&node).and_then(path_key) else { return };
        let Some(is_lost) = switch.is_lost else { return };
        self.counters.path_switches += u64::from(switch.is_switch);
        self.counters.relay_fallbacks += u64::from(switch.is_switch && switch.route.is_relayed());
        let old = if is_lost { OldPath::Dead } else { OldPath::Works };
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.on_path_changed(now, path, old);
                self.drain_connection(id);
            }
        }
        self.apply_path_mtu(now, node, None);
        self.resume(now, node);
    }

    /// A peer has moved since the path in use began: what is on its way by those before is retransmitted.
    pub(super) fn on_left_paths_dead(&mut self, now: Instant, node: NodeId) {
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.on_left_paths_dead(now);
                self.queue(id);
                self.drain_connection(id);
            }
        }
    }

    /// Another path to a peer is in use.
    pub(super) fn on_path_in_use(&mut self, node: NodeId, route: Route) {
        let counter = match route.direct().map(PathClass::of) {
            None => &mut self.counters.path_relay,
            Some(PathClass::Direct) => &mut self.counters.path_direct,
            Some(PathClass::Ipv6) => &mut self.counters.path_ipv6,
            Some(PathClass::Lan) => &mut self.counters.path_lan,
        };
        *counter += 1;
        self.events.push_back(Event::PathChanged(node, route));
    }

    /// The part of the segments sent to a peer that were retransmitted, by its open connections.
    pub fn loss_to(&self, node: NodeId) -> f64 {
        let ids = self.by_peer.get(&node).into_iter().flatten();
        let counts = ids.filter_map(|id| self.slots.get(id)).map(|slot| slot.connection.stats().counters);
        let (sent, again) = counts.fold((0, 0), |(sent, again), counters| {
            (sent + counters.segs_sent, again + counters.retransmits)
        });
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let loss = if sent == 0 { 0.0 } else { again as f64 / sent as f64 };
        loss
    }

    /// Tells a peer's watch of the timeouts of its connections, which see the current round-trip time.
    pub(super) fn measure_connections(&mut self, now: Instant, node: NodeId) {
        if !self.peers.get(&node).is_some_and(|peer| peer.is_watch_due(now)) {
            return;
        }
        let ids = self.by_peer.get(&node).into_iter().flatten().take(MAX_MEASURED);
        let stats = ids.filter_map(|id| self.slots.get(id)).map(|slot| slot.connection.stats());
        let rto = stats.filter(|stats| stats.srtt_ns > 0);
        let rto = rto.map(|stats| Duration::from_nanos(stats.srtt_ns + 4 * stats.rttvar_ns)).max();
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.set_connections_rto(rto);
        }
    }
}
