//! The node's calls for the driver: ports, connections, datagrams, and answers of the registry.

use core::net::SocketAddr;
use std::sync::Arc;

use super::{
    ConnectionId, DialOptions, Event, Node, NodeCounters, NodeError, NodeStats, Slot, Stream,
    trace::count_drop,
};
use crate::{
    config::{MAX_SEGMENT, MIN_SEGMENT, SAFE_SEGMENT},
    crypto::{CryptoError, Suite, exchange::ExchangeKey, identity::Identity},
    time::Instant,
    transport::{CloseReason, Connection, Dialect, FourTuple, Options, State},
    tunnel::{Peer, PeerStatus, REFRESH, Route},
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, Header, MAX_PAYLOAD, Protocol},
        seq::SeqNumber,
    },
};

/// Memory of a connection's table entries without its buffers, bytes.
const FOOTPRINT: usize = 4096;

impl Node {
    /// The address assigned by the registry.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Sets our address; sessions made under another one are dropped.
    pub fn set_address(&mut self, address: Address) {
        if self.address != address {
            self.address = address;
            self.peers.clear();
            self.unauthenticated.renew_keys();
        }
    }

    /// Listens for streams on a port; 0 chooses an ephemeral one.
    ///
    /// # Errors
    /// [`NodeError::PortInUse`], [`NodeError::PortsExhausted`].
    pub fn listen(&mut self, port: Port) -> Result<Port, NodeError> {
        self.ports.listen(port)
    }

    /// Stops listening; accepted connections stay open.
    ///
    /// # Errors
    /// [`NodeError::NotBound`].
    pub fn unlisten(&mut self, port: Port) -> Result<(), NodeError> {
        self.ports.unlisten(port)
    }

    /// Binds a datagram port; 0 chooses an ephemeral one.
    ///
    /// # Errors
    /// [`NodeError::PortInUse`], [`NodeError::PortsExhausted`].
    pub fn bind_datagrams(&mut self, port: Port) -> Result<Port, NodeError> {
        self.ports.bind_datagrams(port)
    }

    /// Unbinds a datagram port.
    ///
    /// # Errors
    /// [`NodeError::NotBound`].
    pub fn unbind_datagrams(&mut self, port: Port) -> Result<(), NodeError> {
        self.ports.unbind_datagrams(port)
    }

    /// Opens a connection. [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// [`NodeError`] for an address that is not unicast, a port that its network does not allow, and at a limit.
    pub fn connect(
        &mut self,
        now: Instant,
        remote: Address,
        remote_port: Port,
        dial: DialOptions,
    ) -> Result<ConnectionId, NodeError> {
        self.recorder.now = now;
        if remote.is_broadcast() || remote.node == NodeId::default() {
            return Err(NodeError::NotUnicast);
        }
        if self.is_full() {
            return Err(NodeError::TooManyConnections);
        }
        let may_start = self.may_dial(now, remote, remote_port)?.is_some();
        self.expect_call(now, remote.node);
        let local_port = self.ports.ephemeral()?;
        let local = Address { network: remote.network, node: self.address.node };
        let tuple = FourTuple { local, local_port, remote, remote_port };
        let options = Options {
            no_delay: dial.no_delay,
            congestion: dial.congestion,
            config: Arc::clone(&self.config.transport),
            ..Options::default()
        };
        let iss = SeqNumber::new(self.entropy.next_u32());
        let connection = Connection::connect(now, tuple, options, iss);
        let id = self.insert(now, connection, false);
        if may_start {
            self.start_connection(now, remote.node, id);
        } else {
            self.await_policy(id);
        }
        Ok(id)
    }

    /// Allocates an id from the space that connections share with other objects of the driver.
    pub fn allocate_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Starts a new connection, at the latest when its peer has a session.
    pub(super) fn start_connection(&mut self, now: Instant, node: NodeId, id: ConnectionId) {
        if node == self.address.node {
            self.attach(id, Dialect::Native, MAX_SEGMENT);
            return;
        }
        if !self.ensure_peer(now, node) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.connection.terminate(CloseReason::Unreachable);
            }
            self.queue(id);
            return;
        }
        self.with_peer(node, |peer, local, out| peer.activate(now, local, out));
        let Some(peer) = self.peers.get(&node) else { return };
        // Without a session, or after a silence, the peer may have moved.
        let must_ask = peer.suite().is_none() || peer.needs_record() || peer.is_silent(now, REFRESH);
        if peer.is_ready() {
            let (dialect, segment) = path_of(peer);
            self.attach(id, dialect, segment);
        }
        if must_ask {
            self.request_record(node);
        }
    }

    pub(super) fn request_record(&mut self, node: NodeId) {
        if self.record_requests.insert(node) {
            self.events.push_back(Event::RecordNeeded(node));
        }
    }

    pub(super) fn attach(&mut self, id: ConnectionId, dialect: Dialect, segment: usize) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !slot.is_attached {
            slot.is_attached = true;
            let peer = self.peers.get(&slot.connection.tuple().remote.node);
            if let Some(path) = peer.and_then(super::slots::path_key) {
                slot.connection.set_path(path);
            }
            slot.connection.set_dialect(dialect);
            slot.connection.set_max_segment(segment);
            if dialect != Dialect::Native {
                // Legacy peers assume 0.
                slot.connection.set_iss(SeqNumber::default());
            }
        }
        self.queue(id);
    }

    /// A peer's session is established: sends what was queued for it.
    pub(super) fn on_peer_ready(&mut self, now: Instant, node: NodeId) {
        let Some(peer) = self.peers.get(&node).filter(|peer| peer.is_ready()) else { return };
        let (dialect, segment) = path_of(peer);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.retry_syn();
            }
            self.attach(id, dialect, segment);
        }
        self.send_pending(now, node);
        self.take_early(now, node);
    }

    /// Answers [`Event::RecordNeeded`]: the peer's identity key, and its endpoint if the registry names one.
    pub fn on_record(
        &mut self,
        now: Instant,
        node: NodeId,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
    ) {
        self.recorder.now = now;
        self.record_requests.remove(&node);
        self.learn_identity(now, node, identity_key, endpoint);
        if self.peers.contains_key(&node) && !self.has_route(node) {
            self.fail_peer(node, CloseReason::Unreachable);
        }
    }

    /// The registry names another identity key: the holder of the old one is no longer the peer.
    pub(super) fn on_rekeyed(&mut self, now: Instant, node: NodeId) {
        self.counters.rekeyed += 1;
        self.gate.forget(node);
        self.early.take(node);
        // A new exchange key, so that frames of the old sessions do not open under the next one.
        let Ok(own) = ExchangeKey::from_secret(&self.entropy.next_32()) else { return };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.forget_sessions(now, own);
        }
        self.on_restart(now, node);
    }

    /// Replaces our identity and announces the new one to every peer. Sessions stay until the registry tells
    /// the peers of the change.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the seed is refused.
    pub fn set_identity(&mut self, seed: &[u8; 32]) -> Result<(), CryptoError> {
        self.identity = Identity::from_seed(seed)?;
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.with_peer(id, |peer, local, out| peer.announce(local, out));
        }
        Ok(())
    }

    /// The registry has no record of a peer, or cannot be reached. A working session is kept.
    pub fn on_no_record(&mut self, node: NodeId) {
        self.record_requests.remove(&node);
        if self.peers.get(&node).is_some_and(|peer| peer.suite().is_none()) {
            self.fail_peer(node, CloseReason::Unreachable);
        }
    }

    /// Calls `f` with a connection and schedules it for transmission. `None` if it does not exist.
    pub fn with_connection<R>(
        &mut self,
        id: ConnectionId,
        f: impl FnOnce(&mut Stream<'_>) -> R,
    ) -> Option<R> {
        let slot = self.slots.get_mut(&id)?;
        let peer = slot.connection.tuple().remote.node;
        slot.connection.set_send_supply(self.send_memory.supply(peer, self.config.send_memory));
        let result = f(&mut Stream(&mut slot.connection));
        self.account(id);
        self.queue(id);
        Some(result)
    }

    /// A connection, read-only.
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.slots.get(&id).map(|slot| &*slot.connection)
    }

    /// Closes a connection for its application; it is removed once it is closed.
    pub fn close(&mut self, now: Instant, id: ConnectionId) {
        self.recorder.now = now;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_released = true;
            slot.connection.close(now);
            self.queue(id);
        }
    }

    /// Resets and removes a connection.
    pub fn abort(&mut self, now: Instant, id: ConnectionId) {
        self.recorder.now = now;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_released = true;
            slot.connection.abort(now);
            self.queue(id);
        }
    }

    /// Sends a datagram, or queues it until its peer has a session.
    ///
    /// # Errors
    /// [`NodeError::TooLarge`], [`NodeError::NotUnicast`], [`NodeError::TooManyConnections`],
    /// [`NodeError::Prohibited`].
    pub fn send_datagram(
        &mut self,
        now: Instant,
        src_port: Port,
        dst: Address,
        dst_port: Port,
        data: &[u8],
    ) -> Result<(), NodeError> {
        self.recorder.now = now;
        if dst.is_broadcast() || dst.node == NodeId::default() {
            return Err(NodeError::NotUnicast);
        }
        if data.len() > MAX_PAYLOAD - crate::wire::packet::HEADER_LEN - crate::wire::tunnel::SEALED_OVERHEAD {
            return Err(NodeError::TooLarge);
        }
        let src_port = if src_port.0 == 0 { self.ports.ephemeral()? } else { src_port };
        self.may_send(now, dst, src_port, dst_port)?;
        let header = Header {
            flags: Flags::NONE,
            protocol: Protocol::Datagram,
            src: Address { network: dst.network, node: self.address.node },
            dst,
            src_port,
            dst_port,
            seq: SeqNumber::default(),
            ack: SeqNumber::default(),
            window: 0,
        };
        let packet = super::transmit::packet(&header, data);
        if dst.node == self.address.node || self.peers.get(&dst.node).is_some_and(Peer::is_ready) {
            // Datagrams queued until the peer's address is validated keep their order.
            if !self.pending.contains_key(&dst.node) && self.seal_packet(now, dst.node, &packet) {
                return Ok(());
            }
        }
        if !self.ensure_peer(now, dst.node) {
            return Err(NodeError::TooManyConnections);
        }
        let waiting = self.pending.entry(dst.node).or_default();
        if waiting.len() >= self.config.max_pending {
            waiting.pop_front();
            count_drop!(self, dropped_limited);
        }
        waiting.push_back(packet);
        self.with_peer(dst.node, |peer, local, out| peer.activate(now, local, out));
        if self.peers.get(&dst.node).is_some_and(Peer::needs_record) {
            self.request_record(dst.node);
        }
        Ok(())
    }

    /// All connections, the oldest first.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        #[expect(clippy::disallowed_methods, reason = "sorted at once")]
        let mut all: Vec<_> = self.slots.iter().map(|(id, slot)| (*id, &*slot.connection)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter()
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, PeerStatus)> {
        self.peers.iter().map(|(id, peer)| (*id, peer.status(self.recorder.now)))
    }

    /// Datagrams queued for transmission, except those of connections.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// The counters, for datagrams that the driver handles itself.
    pub fn counters_mut(&mut self) -> &mut NodeCounters {
        &mut self.counters
    }

    /// Memory used by connections, approximately, bytes.
    pub fn footprint(&self) -> usize {
        self.memory.total() + self.send_memory.total() + self.slots.len() * FOOTPRINT
    }

    /// Counters and totals for `info`.
    pub fn stats(&self) -> NodeStats {
        #[expect(clippy::disallowed_methods, reason = "counted in any order")]
        let connections = self.slots.values();
        let is_open = |slot: &&Slot| {
            matches!(slot.connection.state(), State::SynSent | State::SynReceived | State::Established)
        };
        NodeStats {
            counters: self.counters,
            held: self.memory.total(),
            send_held: self.send_memory.total(),
            connections: connections.filter(is_open).count(),
            ports: self.ports.listeners(),
            peers: self.peers.len(),
            encrypted_peers: self.peers.values().filter(|peer| peer.suite().is_some()).count(),
        }
    }
}

/// Dialect and largest segment for a ready peer.
pub(super) fn path_of(peer: &Peer) -> (Dialect, usize) {
    let Some(capabilities) = peer.capabilities() else {
        let dialect = if peer.suite() == Some(Suite::G1) { Dialect::G1 } else { Dialect::G2 };
        return (dialect, SAFE_SEGMENT);
    };
    let direct = peer.route().and_then(Route::direct);
    let is_same_host = direct.is_some_and(|address| address.ip().is_loopback());
    let segment = if is_same_host { usize::from(capabilities.max_segment) } else { peer.segment() };
    (Dialect::Native, segment.clamp(MIN_SEGMENT, MAX_SEGMENT))
}
