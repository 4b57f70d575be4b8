//! Connection limits: in total, per listening port, and their fair division among peers.
//!
//! There is no fixed quota. A peer may open as many connections as are left free, so that a single peer gets
//! half of a limit, two get a third each, and a new peer always finds room.

use std::collections::BTreeMap;

use super::{ConnectionId, Node, trace::count_drop};
use crate::{
    config::NodeConfig,
    time::{Duration, Instant},
    transport::{CloseReason, State},
    wire::addr::{NodeId, Port},
};

/// A younger connection is not evicted: its peer may be about to use it.
const GRACE: Duration = Duration::from_secs(3);

/// Rate and burst of eviction searches; each scans all connections of one peer.
pub(super) const EVICTION_RATE: u32 = 20;

/// Connections counted against one limit, by peer.
#[derive(Debug, Default)]
struct PeerCounts {
    total: usize,
    by_peer: BTreeMap<NodeId, usize>,
}

impl PeerCounts {
    fn add(&mut self, peer: NodeId) {
        self.total += 1;
        *self.by_peer.entry(peer).or_default() += 1;
    }

    fn remove(&mut self, peer: NodeId) {
        let Some(count) = self.by_peer.get_mut(&peer) else { return };
        self.total -= 1;
        *count -= 1;
        if *count == 0 {
            self.by_peer.remove(&peer);
        }
    }

    fn of(&self, peer: NodeId) -> usize {
        self.by_peer.get(&peer).copied().unwrap_or(0)
    }

    /// Whether `peer` may have one more of `limit` connections.
    fn has_room(&self, peer: NodeId, limit: usize) -> bool {
        self.of(peer) < limit.saturating_sub(self.total)
    }

    /// The peer with the most connections.
    fn largest(&self) -> Option<NodeId> {
        self.by_peer.iter().max_by_key(|(peer, count)| (**count, **peer)).map(|(peer, _)| *peer)
    }
}

/// Connections counted against the limits of [`NodeConfig`].
#[derive(Debug, Default)]
pub(super) struct ConnectionCounts {
    /// All connections, inbound and outbound.
    total: usize,
    /// Inbound connections.
    inbound: PeerCounts,
    /// Inbound connections by port.
    by_port: BTreeMap<Port, PeerCounts>,
}

impl ConnectionCounts {
    /// Connections counted against `max_connections`.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn add(&mut self, peer: NodeId, inbound_port: Option<Port>) {
        self.total += 1;
        if let Some(port) = inbound_port {
            self.inbound.add(peer);
            self.by_port.entry(port).or_default().add(peer);
        }
    }

    pub(super) fn remove(&mut self, peer: NodeId, inbound_port: Option<Port>) {
        self.total -= 1;
        if let Some(port) = inbound_port {
            self.inbound.remove(peer);
            if let Some(pool) = self.by_port.get_mut(&port) {
                pool.remove(peer);
                if pool.total == 0 {
                    self.by_port.remove(&port);
                }
            }
        }
    }

    /// Whether a peer may open one more connection to a port.
    fn admits(&self, peer: NodeId, port: Port, config: &NodeConfig) -> bool {
        let has_room = |pool: &PeerCounts, limit| pool.has_room(peer, limit);
        has_room(&self.inbound, config.max_inbound_connections)
            && self.by_port.get(&port).is_none_or(|pool| has_room(pool, config.max_connections_per_port))
    }

    /// Whether `peer` has no connection to a port.
    fn is_new_on(&self, peer: NodeId, port: Port) -> bool {
        self.by_port.get(&port).is_none_or(|pool| pool.of(peer) == 0)
    }

    /// The peer whose connection is evicted when the limit of a port, or the total, is reached.
    fn largest(&self, port: Port, config: &NodeConfig) -> Option<NodeId> {
        let pool = self.by_port.get(&port).filter(|pool| pool.total >= config.max_connections_per_port);
        pool.unwrap_or(&self.inbound).largest()
    }
}

impl Node {
    /// Whether an outbound connection would exceed the limits. Closed connections that are not fully read use
    /// memory and count too.
    pub(super) fn is_full(&self) -> bool {
        let config = &self.config;
        self.connection_counts.total() >= config.max_connections
            || self.slots.len() >= 2 * config.max_connections + config.max_time_wait
    }

    /// Whether a peer may open a connection to a port. For a new peer, an unused connection of the peer with
    /// the most connections is evicted if necessary.
    pub(super) fn make_room_for_connection(&mut self, now: Instant, peer: NodeId, port: Port) -> bool {
        if peer == self.address.node {
            return !self.is_full();
        }
        if !self.is_full() && self.connection_counts.admits(peer, port, &self.config) {
            return true;
        }
        if !self.connection_counts.is_new_on(peer, port) || !self.evictions.take(now) {
            return false;
        }
        let Some(largest) = self.connection_counts.largest(port, &self.config) else { return false };
        let Some(id) = self.eviction_victim(now, largest, port) else { return false };
        self.evict(id);
        true
    }

    /// The connection of a peer to evict: the oldest in SYN-RECEIVED, else the oldest never used; preferably
    /// on this port.
    fn eviction_victim(&self, now: Instant, peer: NodeId, port: Port) -> Option<ConnectionId> {
        let rank = |id: &ConnectionId| {
            let slot = self.slots.get(id).filter(|slot| slot.is_inbound && slot.is_counted)?;
            if now.saturating_since(slot.opened_at) < GRACE {
                return None;
            }
            let connection = &slot.connection;
            let is_elsewhere = connection.tuple().local_port != port;
            let is_complete = connection.state() != State::SynReceived;
            let is_used = is_complete && connection.is_used() && !slot.is_released;
            (!is_used).then_some((is_elsewhere, is_complete, *id))
        };
        self.by_peer.get(&peer)?.iter().filter_map(rank).min().map(|(_, _, id)| id)
    }

    fn evict(&mut self, id: ConnectionId) {
        count_drop!(self, dropped_unused);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.connection.reset(CloseReason::Aborted);
            self.queue(id);
            self.drain_connection(id);
        }
    }

    /// Removes the oldest connections in TIME-WAIT beyond `max_time_wait`.
    pub(super) fn limit_time_wait(&mut self) {
        while self.time_wait.len() > self.config.max_time_wait {
            let Some(id) = self.time_wait.pop_front() else { return };
            if self.slots.get(&id).is_some_and(|slot| slot.connection.state() == State::TimeWait) {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.connection.terminate(CloseReason::Finished);
                }
                self.queue(id);
                self.drain_connection(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port(80);

    fn config(max_inbound_connections: usize, max_connections_per_port: usize) -> NodeConfig {
        NodeConfig { max_inbound_connections, max_connections_per_port, ..NodeConfig::default() }
    }

    fn fill(counts: &mut ConnectionCounts, peer: u32, port: Port, config: &NodeConfig) -> usize {
        let mut taken = 0;
        while counts.admits(NodeId(peer), port, config) {
            counts.add(NodeId(peer), Some(port));
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_peer_gets_half_of_the_free_connections() {
        let config = config(1000, 120);
        let mut counts = ConnectionCounts::default();
        assert_eq!([1, 2, 3].map(|peer| fill(&mut counts, peer, PORT, &config)), [60, 30, 15]);
        // When some close, later peers get as much as the first one had.
        for _ in 0..60 {
            counts.remove(NodeId(1), Some(PORT));
        }
        assert_eq!(fill(&mut counts, 3, PORT, &config), 30);
        assert!(counts.admits(NodeId(9), PORT, &config));
    }

    #[test]
    fn ports_share_the_inbound_limit() {
        let config = config(100, 1000);
        let mut counts = ConnectionCounts::default();
        let taken: usize = (1..=9).map(|port| fill(&mut counts, 1, Port(port), &config)).sum();
        assert_eq!(taken, 50);
        assert!(counts.admits(NodeId(2), Port(1), &config));
    }

    #[test]
    fn removed_connections_leave_no_entries() {
        let config = config(1000, 100);
        let mut counts = ConnectionCounts::default();
        counts.add(NodeId(7), None);
        let taken = fill(&mut counts, 1, PORT, &config);
        for _ in 0..taken {
            counts.remove(NodeId(1), Some(PORT));
        }
        counts.remove(NodeId(7), None);
        assert!(counts.total == 0 && counts.by_port.is_empty() && counts.inbound.by_peer.is_empty());
    }
}
