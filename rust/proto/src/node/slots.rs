//! The connection table: insertion, ready queue, timers, events, removal.

use core::net::IpAddr;
use std::cmp::Reverse;

use super::{ConnectionId, Event, Key, Node, Slot, TimerOwner};
use crate::{
    time::Instant,
    transport::{Connection, ConnectionEvent, PathKey, State},
    tunnel::Peer,
    wire::addr::{NodeId, Port},
};

/// Heap entries per timer owner above which stale entries are removed.
const MAX_STALE: usize = 4;
/// Spreads the numbers of moves over the keys of paths.
const ODD: u32 = 0x9e37_79b1;
/// Heap size below which stale entries are kept.
const FEW_TIMERS: usize = 4096;

/// Names the path to a peer to connections. Another port of the same host (a NAT binding) is the same path;
/// another network at either end is another one.
pub(super) fn path_key(peer: &Peer) -> Option<PathKey> {
    let route = peer.route()?;
    let key = match route.next_hop().ip() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => (0..4).fold(0, |key, word| key ^ (ip.to_bits() >> (32 * word)) as u32),
    };
    let key = if route.is_relayed() { !key } else { key };
    Some(PathKey(key.wrapping_add(peer.moves().wrapping_mul(ODD))))
}

impl Slot {
    /// The port whose limit it counts against, if it is inbound.
    fn inbound_port(&self) -> Option<Port> {
        self.is_inbound.then(|| self.connection.tuple().local_port)
    }

    fn key(&self) -> Key {
        let tuple = self.connection.tuple();
        Key { local_port: tuple.local_port, remote: tuple.remote, remote_port: tuple.remote_port }
    }
}

impl Node {
    pub(super) fn insert(&mut self, now: Instant, connection: Connection, is_inbound: bool) -> ConnectionId {
        let id = self.allocate_id();
        let tuple = *connection.tuple();
        let slot = Slot {
            connection: Box::new(connection),
            is_queued: false,
            is_attached: is_inbound,
            armed: None,
            is_inbound,
            is_reported: !is_inbound,
            opened_at: now,
            is_counted: true,
            is_syn_released: false,
            is_syn_queued: false,
            is_established: false,
            is_released: false,
            held: 0,
            send_held: 0,
        };
        self.demux.insert(slot.key(), id);
        self.ports.on_added(tuple.local_port);
        self.connection_counts.add(tuple.remote.node, slot.inbound_port());
        self.by_peer.entry(tuple.remote.node).or_default().insert(id);
        self.slots.insert(id, slot);
        self.trace_connection(id);
        id
    }

    /// Puts a connection into the ready queue for transmission.
    pub(super) fn queue(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.is_queued
        {
            slot.is_queued = true;
            self.ready.push_back(id);
        }
    }

    /// Translates a connection's events to node events and arms its timer.
    pub(super) fn drain_connection(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (mut closed, mut is_time_wait) = (None, false);
        while let Some(event) = slot.connection.poll_event() {
            match event {
                ConnectionEvent::Connected if slot.is_inbound => {
                    slot.is_reported = true;
                    self.events.push_back(Event::Accepted(id));
                }
                ConnectionEvent::Connected => {
                    slot.is_established = true;
                    self.figures.dial.add(self.recorder.now.saturating_since(slot.opened_at));
                    self.events.push_back(Event::Connected(id));
                }
                ConnectionEvent::Readable => self.events.push_back(Event::Readable(id)),
                ConnectionEvent::Writable => self.events.push_back(Event::Writable(id)),
                ConnectionEvent::RemoteFinished => self.events.push_back(Event::RemoteFinished(id)),
                ConnectionEvent::TimeWait => is_time_wait = true,
                ConnectionEvent::Closed(reason) => closed = Some(reason),
            }
        }
        if let Some(rtt) = slot.connection.take_rtt_sample() {
            self.figures.rtt.add(rtt);
        }
        if let Some(reason) = closed.filter(|_| !(slot.is_inbound || slot.is_established)) {
            self.figures.on_failed_dial(reason);
        }
        match closed {
            Some(reason) if slot.is_reported => self.events.push_back(Event::Closed(id, reason)),
            // It ended before the driver knew of it, so nobody will close it.
            Some(_) => slot.is_released = true,
            None => {}
        }
        // A closed connection counts until it is released, because it may hold memory.
        if is_time_wait || closed.is_some() && slot.is_released {
            self.stop_counting(id);
        }
        if is_time_wait {
            self.enter_time_wait(id);
        }
        self.account(id);
        self.arm_connection(id);
    }

    /// Updates the memory accounting of a connection.
    #[inline]
    pub(super) fn account(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let peer = slot.connection.tuple().remote.node;
        self.memory.update(peer, &mut slot.held, slot.connection.held());
        self.send_memory.update(peer, &mut slot.send_held, slot.connection.send_held());
        if self.is_traced() {
            self.take_connection_trace(id);
        }
    }

    fn arm_connection(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Some((at, _)) = slot.connection.poll_timeout()
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            self.timers.push(Reverse((at, TimerOwner::Connection(id))));
            self.drop_stale_timers();
        }
    }

    /// Removes stale deadlines from the heap, which would otherwise stay until they expire.
    fn drop_stale_timers(&mut self) {
        let fair = FEW_TIMERS + MAX_STALE * (self.slots.len() + self.peers.len());
        if self.timers.len() <= fair {
            return;
        }
        let (slots, peers) = (&self.slots, &self.peer_armed);
        self.timers.retain(|Reverse((at, what))| match what {
            TimerOwner::Connection(id) => slots.get(id).is_some_and(|slot| slot.armed == Some(*at)),
            TimerOwner::Peer(id) => peers.get(id) == Some(at),
            TimerOwner::SynPacing(_) | TimerOwner::Beacon(_) | TimerOwner::Punch | TimerOwner::Sweep => true,
        });
    }

    fn enter_time_wait(&mut self, id: ConnectionId) {
        let is_waiting = |id: &ConnectionId| {
            self.slots.get(id).is_some_and(|slot| slot.connection.state() == State::TimeWait)
        };
        while self.time_wait.front().is_some_and(|first| !is_waiting(first)) {
            self.time_wait.pop_front();
        }
        self.time_wait.push_back(id);
        self.limit_time_wait();
    }

    /// A peer is heard after an outage: its connections retransmit without waiting for backed-off timers.
    pub(super) fn on_peer_reachable(&mut self, now: Instant, node: NodeId) {
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.on_peer_reachable(now);
                slot.connection.handle_timeout(now);
                self.queue(id);
            }
        }
    }

    /// Stops counting a connection against the limits.
    fn stop_counting(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_counted) {
            slot.is_counted = false;
            let tuple = *slot.connection.tuple();
            let inbound_port = slot.inbound_port();
            self.connection_counts.remove(tuple.remote.node, inbound_port);
            self.ports.on_removed(tuple.local_port);
        }
    }

    /// Removes a connection that is closed and released by its application.
    pub(super) fn remove_if_closed(&mut self, id: ConnectionId) {
        let is_over = self
            .slots
            .get(&id)
            .is_some_and(|slot| slot.is_released && slot.connection.state() == State::Closed);
        if is_over {
            self.remove(id);
        }
    }

    /// Removes a connection.
    fn remove(&mut self, id: ConnectionId) {
        self.stop_counting(id);
        if self.is_traced() {
            self.take_connection_trace(id);
        }
        let Some(mut slot) = self.slots.remove(&id) else { return };
        self.figures.add_stream(slot.service(), slot.connection.counters());
        let node = slot.connection.tuple().remote.node;
        self.memory.update(node, &mut slot.held, 0);
        self.send_memory.update(node, &mut slot.send_held, 0);
        if self.demux.get(&slot.key()) == Some(&id) {
            self.demux.remove(&slot.key());
        }
        if let Some(ids) = self.by_peer.get_mut(&node) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_peer.remove(&node);
                if self.dismissed.remove(&node) {
                    self.forget_peer(node);
                }
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.deactivate();
                }
            }
        }
    }
}
