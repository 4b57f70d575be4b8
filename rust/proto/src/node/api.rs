//! The application's calls and what the registry says.

use core::net::SocketAddr;
use std::sync::Arc;

use super::{
    ConnectionId, DialOptions, Event, Node, NodeCounters, NodeError, NodeStats, Slot, Stream,
    trace::count_drop,
};
use crate::{
    config::{MAX_SEGMENT, SAFE_SEGMENT},
    crypto::{CryptoError, Suite, exchange::ExchangeKey, identity::Identity},
    time::Instant,
    transport::{CloseReason, Connection, Dialect, FourTuple, Options, State},
    tunnel::{Peer, PeerStatus, REFRESH},
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, Header, MAX_PAYLOAD, Protocol},
        seq::SeqNumber,
    },
};

/// Bytes of a connection in the node's tables, apart from its buffers.
const FOOTPRINT: usize = 4096;

impl Node {
    /// The address the registry gave us.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Sets our address; sessions made under another one are void.
    pub fn set_address(&mut self, address: Address) {
        if self.address != address {
            self.address = address;
            self.peers.clear();
            self.strangers.renew_keys();
        }
    }

    /// Listens for streams; port 0 means any.
    ///
    /// # Errors
    /// [`NodeError::PortInUse`], [`NodeError::PortsExhausted`].
    pub fn listen(&mut self, port: Port) -> Result<Port, NodeError> {
        self.ports.listen(port)
    }

    /// Stops listening; accepted connections live on.
    ///
    /// # Errors
    /// [`NodeError::NotBound`].
    pub fn unlisten(&mut self, port: Port) -> Result<(), NodeError> {
        self.ports.unlisten(port)
    }

    /// Takes datagrams to a port; 0 means any.
    ///
    /// # Errors
    /// [`NodeError::PortInUse`], [`NodeError::PortsExhausted`].
    pub fn bind_datagrams(&mut self, port: Port) -> Result<Port, NodeError> {
        self.ports.bind_datagrams(port)
    }

    /// Takes no more datagrams to a port.
    ///
    /// # Errors
    /// [`NodeError::NotBound`].
    pub fn unbind_datagrams(&mut self, port: Port) -> Result<(), NodeError> {
        self.ports.unbind_datagrams(port)
    }

    /// Opens a connection. [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// [`NodeError`] for an address that is no unicast one, and at limits.
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
        self.reach(now, remote.node, id);
        Ok(id)
    }

    /// The next id of the space that connections share with whatever else the driver names.
    pub fn allocate_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Starts a new connection as soon as its peer has a session.
    fn reach(&mut self, now: Instant, node: NodeId, id: ConnectionId) {
        if node == self.address.node {
            self.attach(id, Dialect::Native, MAX_SEGMENT);
            return;
        }
        if !self.ensure_peer(now, node) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.connection.break_off(CloseReason::Unreachable);
            }
            self.queue(id);
            return;
        }
        self.with_peer(node, |peer, local, out| peer.activate(now, local, out));
        let Some(peer) = self.peers.get(&node) else { return };
        // What is known of a peer without a session may be from before it came back elsewhere.
        let must_ask = peer.suite().is_none() || peer.needs_record() || peer.is_silent(now, REFRESH);
        if peer.is_ready() {
            let (dialect, segment) = path_of(peer);
            self.attach(id, dialect, segment);
        }
        if must_ask {
            self.ask_record(node);
        }
    }

    pub(super) fn ask_record(&mut self, node: NodeId) {
        if self.asked.insert(node) {
            self.events.push_back(Event::RecordNeeded(node));
        }
    }

    pub(super) fn attach(&mut self, id: ConnectionId, dialect: Dialect, segment: usize) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !slot.is_attached {
            slot.is_attached = true;
            slot.connection.set_dialect(dialect);
            slot.connection.set_max_segment(segment);
            if dialect != Dialect::Native {
                // Old peers assume 0.
                slot.connection.set_iss(SeqNumber::default());
            }
        }
        self.queue(id);
    }

    /// A peer's session is up: sends what waited for it.
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

    /// What the registry knows about a peer: its identity key, and where it is, if it told.
    pub fn on_record(
        &mut self,
        now: Instant,
        node: NodeId,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
    ) {
        self.recorder.now = now;
        self.asked.remove(&node);
        self.learn_identity(now, node, identity_key, endpoint);
        if self.peers.get(&node).is_some_and(|peer| peer.endpoint().is_none()) {
            self.fail_peer(node, CloseReason::Unreachable);
        }
    }

    /// The registry names another identity: whoever holds the old key is not the peer any more.
    pub(super) fn on_rekeyed(&mut self, now: Instant, node: NodeId) {
        self.counters.rekeyed += 1;
        self.gate.forget(node);
        self.early.take(node);
        // A new exchange key, so that no frame of the old sessions opens under the next one.
        let Ok(own) = ExchangeKey::from_secret(&self.entropy.next_32()) else { return };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.forget_sessions(now, own);
        }
        self.on_restart(now, node);
    }

    /// Replaces our identity, and proves the new one to every peer. Sessions stay until the peers'
    /// registry tells them of the change.
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

    /// The registry knows nothing about a peer, or cannot be asked. A session that works is kept.
    pub fn on_no_record(&mut self, node: NodeId) {
        self.asked.remove(&node);
        if self.peers.get(&node).is_some_and(|peer| peer.suite().is_none()) {
            self.fail_peer(node, CloseReason::Unreachable);
        }
    }

    /// Works on a connection and sends what that makes possible. `None` when it is gone.
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

    /// The application is done with a connection: it finishes, and is forgotten then.
    pub fn close(&mut self, now: Instant, id: ConnectionId) {
        self.recorder.now = now;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_released = true;
            slot.connection.close(now);
            self.queue(id);
        }
    }

    /// Resets a connection and forgets it.
    pub fn abort(&mut self, now: Instant, id: ConnectionId) {
        self.recorder.now = now;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_released = true;
            slot.connection.abort(now);
            self.queue(id);
        }
    }

    /// Sends a datagram, or keeps it until its peer has a session.
    ///
    /// # Errors
    /// [`NodeError::TooLarge`], [`NodeError::NotUnicast`], [`NodeError::TooManyConnections`].
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
            // Datagrams that wait for address validation stay in order.
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
            self.ask_record(dst.node);
        }
        Ok(())
    }

    /// Every connection.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.slots.iter().map(|(id, slot)| (*id, &*slot.connection))
    }

    /// Every peer.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, PeerStatus)> {
        self.peers.iter().map(|(id, peer)| (*id, peer.status()))
    }

    /// Datagrams waiting to be sent, except those of connections.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }

    /// Counters of datagrams that the driver moves.
    pub fn counters_mut(&mut self) -> &mut NodeCounters {
        &mut self.counters
    }

    /// Bytes of memory that connections take, roughly.
    pub fn footprint(&self) -> usize {
        self.memory.total() + self.send_memory.total() + self.slots.len() * FOOTPRINT
    }

    /// A snapshot of the figures.
    pub fn stats(&self) -> NodeStats {
        let is_open = |slot: &&Slot| {
            matches!(slot.connection.state(), State::SynSent | State::SynReceived | State::Established)
        };
        NodeStats {
            counters: self.counters,
            held: self.memory.total(),
            send_held: self.send_memory.total(),
            connections: self.slots.values().filter(is_open).count(),
            ports: self.ports.listeners(),
            peers: self.peers.len(),
            encrypted_peers: self.peers.values().filter(|peer| peer.suite().is_some()).count(),
        }
    }
}

/// Dialect and largest segment towards a ready peer.
pub(super) fn path_of(peer: &Peer) -> (Dialect, usize) {
    let Some(capabilities) = peer.capabilities() else {
        let dialect = if peer.suite() == Some(Suite::G1) { Dialect::G1 } else { Dialect::G2 };
        return (dialect, SAFE_SEGMENT);
    };
    let is_same_host = peer.endpoint().is_some_and(|endpoint| endpoint.ip().is_loopback());
    let segment = if is_same_host { usize::from(capabilities.max_segment) } else { peer.segment() };
    (Dialect::Native, segment.clamp(SAFE_SEGMENT, MAX_SEGMENT))
}
