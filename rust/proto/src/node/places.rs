//! Quotas of connections: in total, per listening port and per peer.
//!
//! No fixed share is reserved. A peer may use as much of a quota as remains free, so that a single peer
//! gets half of it, two get a third each, and a newcomer always finds room.

use std::collections::BTreeMap;

use super::{ConnectionId, Node, trace::count_drop};
use crate::{
    config::NodeConfig,
    time::{Duration, Instant},
    transport::{CloseReason, State},
    wire::addr::{NodeId, Port},
};

/// Connections younger than this are not evicted: the peer may be about to use them.
const GRACE: Duration = Duration::from_secs(3);

/// Eviction searches per second, and their burst: each scans all connections of a peer.
pub(super) const EVICTION_RATE: u32 = 20;

/// One quota, by peer.
#[derive(Debug, Default)]
struct Pool {
    total: usize,
    by_peer: BTreeMap<NodeId, usize>,
}

impl Pool {
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
    fn greediest(&self) -> Option<NodeId> {
        self.by_peer.iter().max_by_key(|(peer, count)| (**count, **peer)).map(|(peer, _)| *peer)
    }
}

/// Connections counted against the limits.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// All connections.
    total: usize,
    /// Inbound connections.
    inbound: Pool,
    /// Inbound connections by port.
    by_port: BTreeMap<Port, Pool>,
}

impl Places {
    /// Connections counted.
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
        let has_room = |pool: &Pool, limit| pool.has_room(peer, limit);
        has_room(&self.inbound, config.max_inbound_connections)
            && self.by_port.get(&port).is_none_or(|pool| has_room(pool, config.max_connections_per_port))
    }

    /// Whether `peer` has no connection to a port, or none at all.
    fn is_newcomer(&self, peer: NodeId, port: Port) -> bool {
        self.by_port.get(&port).is_none_or(|pool| pool.of(peer) == 0)
    }

    /// The peer to evict from when a newcomer finds a port, or the node, full.
    fn greediest(&self, port: Port, config: &NodeConfig) -> Option<NodeId> {
        let pool = self.by_port.get(&port).filter(|pool| pool.total >= config.max_connections_per_port);
        pool.unwrap_or(&self.inbound).greediest()
    }
}

impl Node {
    /// Whether there is room for one more connection of our own. Those that are over and not yet read
    /// hold memory too.
    pub(super) fn is_full(&self) -> bool {
        let config = &self.config;
        self.places.total() >= config.max_connections
            || self.slots.len() >= 2 * config.max_connections + config.max_time_wait
    }

    /// Makes room for an inbound connection. A newcomer may evict an unused connection of the peer that has
    /// the most.
    pub(super) fn make_place(&mut self, now: Instant, peer: NodeId, port: Port) -> bool {
        if peer == self.address.node {
            return !self.is_full();
        }
        if !self.is_full() && self.places.admits(peer, port, &self.config) {
            return true;
        }
        if !self.places.is_newcomer(peer, port) || !self.evictions.take(now) {
            return false;
        }
        let Some(greediest) = self.places.greediest(port, &self.config) else { return false };
        let Some(id) = self.least_useful(now, greediest, port) else { return false };
        self.evict(id);
        true
    }

    /// The oldest connection that a peer opened and never completed, else never used; on this port if
    /// there is one.
    fn least_useful(&self, now: Instant, peer: NodeId, port: Port) -> Option<ConnectionId> {
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
            self.after(id);
        }
    }

    /// Forgets the oldest connections in TIME-WAIT while there are too many: they hold memory.
    pub(super) fn bound_time_wait(&mut self) {
        while self.time_wait.len() > self.config.max_time_wait {
            let Some(id) = self.time_wait.pop_front() else { return };
            if self.slots.get(&id).is_some_and(|slot| slot.connection.state() == State::TimeWait) {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.connection.break_off(CloseReason::Finished);
                }
                self.queue(id);
                self.after(id);
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

    fn fill(places: &mut Places, peer: u32, port: Port, config: &NodeConfig) -> usize {
        let mut taken = 0;
        while places.admits(NodeId(peer), port, config) {
            places.add(NodeId(peer), Some(port));
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_peer_takes_half_of_what_the_others_leave() {
        let config = config(1000, 120);
        let mut places = Places::default();
        assert_eq!([1, 2, 3].map(|peer| fill(&mut places, peer, PORT, &config)), [60, 30, 15]);
        // When some close, those who had come late get as much as the first.
        for _ in 0..60 {
            places.remove(NodeId(1), Some(PORT));
        }
        assert_eq!(fill(&mut places, 3, PORT, &config), 30);
        assert!(places.admits(NodeId(9), PORT, &config));
    }

    #[test]
    fn ports_share_what_all_inbound_connections_may_take() {
        let config = config(100, 1000);
        let mut places = Places::default();
        let taken: usize = (1..=9).map(|port| fill(&mut places, 1, Port(port), &config)).sum();
        assert_eq!(taken, 50);
        assert!(places.admits(NodeId(2), Port(1), &config));
    }

    #[test]
    fn nothing_is_left_of_what_was_removed() {
        let config = config(1000, 100);
        let mut places = Places::default();
        places.add(NodeId(7), None);
        let taken = fill(&mut places, 1, PORT, &config);
        for _ in 0..taken {
            places.remove(NodeId(1), Some(PORT));
        }
        places.remove(NodeId(7), None);
        assert!(places.total == 0 && places.by_port.is_empty() && places.inbound.by_peer.is_empty());
    }
}
