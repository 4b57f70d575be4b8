//! The facade that joins tunnels and connections: demultiplexing, ports, limits, datagrams.
//!
//! One [`Node`] is one agent's network stack. It is driven by inputs, each with the time:
//! [`Node::handle_datagram`], [`Node::handle_timeout`], what the registry says about a peer
//! ([`Node::on_record`]) and the application's calls. After each it is drained of datagrams
//! ([`Node::poll_transmit`]), events ([`Node::poll_event`]) and asked for its next deadline
//! ([`Node::poll_timeout`]).

mod admission;
mod api;
mod discovery;
mod early;
mod limits;
mod memory;
mod places;
mod ports;
mod receive;
mod slots;
mod stats;
mod strangers;
mod stream;
mod syns;
mod too_big;
mod trace;
mod transmit;

use core::net::SocketAddr;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
};

pub use admission::Caller;
pub use stats::{NodeCounters, NodeStats};
pub use stream::Stream;
pub use too_big::TooBig;
pub use trace::{Record, What};
pub use transmit::Transmit;

use self::{
    admission::Gate, discovery::Discovery, early::Early, limits::Limits, memory::Memory, places::Places,
    ports::Ports, strangers::Strangers, syns::Syns, trace::Recorder,
};
use crate::{
    config::{MAX_SEGMENT, NodeConfig},
    crypto::{CryptoError, entropy::Entropy, identity::Identity},
    storage::token_bucket::TokenBucket,
    time::Instant,
    trace::Trace,
    transport::{Algorithm, CloseReason, Connection, State},
    tunnel::{Capabilities, Liveness, Local, Outbox, Peer, REFRESH},
    wire::addr::{Address, NodeId, Port},
};

/// Reports of datagrams too large for their path that are processed per second, and their burst; routers
/// send few.
const PTB_RATE: u32 = 100;
const PTB_BURST: u32 = 100;

/// Identifies a connection for the life of the node; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u32);

/// Options of a dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DialOptions {
    /// Whether small segments are sent at once (no Nagle).
    pub no_delay: bool,
    /// Congestion controller; `None` for the node's default.
    pub congestion: Option<Algorithm>,
}

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodeError {
    /// The port is taken.
    #[error("port already bound")]
    PortInUse,
    /// No ephemeral port is free.
    #[error("ephemeral ports exhausted")]
    PortsExhausted,
    /// The port is not bound.
    #[error("port is not bound")]
    NotBound,
    /// The limit of connections is reached.
    #[error("too many connections")]
    TooManyConnections,
    /// A datagram larger than the protocol can carry.
    #[error("payload too large")]
    TooLarge,
    /// Broadcast or unset addresses cannot be dialled.
    #[error("not a unicast address")]
    NotUnicast,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The registry must be asked about a peer; [`Node::on_record`] or [`Node::on_no_record`] answers.
    RecordNeeded(NodeId),
    /// An unknown sender claims this id: its identity key must be looked up, with less priority than our own
    /// lookups; [`Node::on_key`] answers.
    KeyNeeded(NodeId),
    /// A peer with this identity key asks for admission; [`Node::on_admission`] answers.
    AdmissionNeeded(Caller, [u8; 32]),
    /// A beacon says where our datagrams come from.
    EndpointDiscovered(SocketAddr),
    /// A dialled connection is established.
    Connected(ConnectionId),
    /// A connection to a listening port is established.
    Accepted(ConnectionId),
    /// There is more to read.
    Readable(ConnectionId),
    /// There is room to write again.
    Writable(ConnectionId),
    /// The peer finished; after what can be read, the stream is at its end.
    RemoteFinished(ConnectionId),
    /// A connection is gone; its id means nothing any more.
    Closed(ConnectionId, CloseReason),
    /// A datagram arrived.
    Datagram {
        /// Who sent it.
        src: Address,
        /// From which port.
        src_port: Port,
        /// To which port of ours.
        dst_port: Port,
        /// The payload.
        data: Vec<u8>,
    },
}

/// A connection and where it stands with the node.
#[derive(Debug)]
struct Slot {
    /// Boxed, so that the half-empty nodes of a tree hold little.
    connection: Box<Connection>,
    /// Whether it waits in the ready queue.
    is_queued: bool,
    /// Whether its peer's session is up and its dialect set.
    is_attached: bool,
    /// Deadline that stands in the timer heap.
    armed: Option<Instant>,
    is_inbound: bool,
    /// Whether the driver knows it and will close it: it was dialled or reported as accepted.
    is_known: bool,
    opened_at: Instant,
    /// Whether it counts against the limits of connections; from TIME-WAIT on it does not.
    is_counted: bool,
    /// Whether its SYN may be sent ahead of others.
    has_syn_turn: bool,
    is_waiting_for_syn: bool,
    /// The application is done with it; it is forgotten when it is closed.
    is_released: bool,
    /// Bytes that the node's memory accounting attributes to it.
    held: usize,
    send_held: usize,
}

/// Demultiplexing key: our port and the far end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    local_port: Port,
    remote: Address,
    remote_port: Port,
}

/// Owner of a timer in the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timed {
    Connection(ConnectionId),
    Peer(NodeId),
    Syns(NodeId),
    Beacon(Instant),
    Sweep,
}

/// One agent's network stack.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    address: Address,
    identity: Identity,
    entropy: Entropy,
    capabilities: Capabilities,
    peers: BTreeMap<NodeId, Peer>,
    /// Timers of peers that are in the heap.
    peer_armed: HashMap<NodeId, Instant>,
    slots: BTreeMap<ConnectionId, Slot>,
    places: Places,
    evictions: TokenBucket,
    /// Connections in TIME-WAIT, oldest first; some are over.
    time_wait: VecDeque<ConnectionId>,
    demux: HashMap<Key, ConnectionId>,
    /// Connections by peer.
    by_peer: BTreeMap<NodeId, BTreeSet<ConnectionId>>,
    next_id: u32,
    ports: Ports,
    /// Memory of receive buffers.
    memory: Memory,
    /// Memory of send buffers.
    send_memory: Memory,
    ready: VecDeque<ConnectionId>,
    timers: BinaryHeap<Reverse<(Instant, Timed)>>,
    events: VecDeque<Event>,
    outbox: Outbox,
    /// Packets to our own address.
    loopback: VecDeque<Vec<u8>>,
    /// A sealed frame that did not fit the batch.
    stash: Option<(SocketAddr, Vec<u8>)>,
    /// Datagrams that wait for a session.
    pending: BTreeMap<NodeId, VecDeque<Vec<u8>>>,
    /// Stream packets of peers whose dialect is not known yet.
    early: Early,
    /// Peers with an open registry lookup.
    asked: BTreeSet<NodeId>,
    discovery: Discovery,
    /// When the beacons are asked next.
    beacon_armed: Option<Instant>,
    scratch: Vec<u8>,
    syn_bucket: BTreeMap<NodeId, TokenBucket>,
    limits: Limits,
    strangers: Strangers,
    syns: Syns,
    /// Rate of PTB reports; each searches the peers.
    ptb_bucket: TokenBucket,
    gate: Gate,
    /// Peers to remove once their connections are reset.
    dismissed: BTreeSet<NodeId>,
    counters: NodeCounters,
    recorder: Recorder,
}

impl Node {
    /// A node without an address; `seed` must be random and never used again.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the identity's seed is refused.
    pub fn new(
        now: Instant,
        identity_seed: &[u8; 32],
        seed: &[u8; 32],
        config: NodeConfig,
    ) -> Result<Self, CryptoError> {
        let mut entropy = Entropy::new(seed);
        let capabilities = Capabilities {
            boot_id: entropy.next_u64(),
            max_segment: u16::try_from(MAX_SEGMENT).unwrap_or(u16::MAX),
        };
        let mut node = Self {
            recorder: Recorder { now, trace: Trace::new(config.trace) },
            ports: Ports::default(),
            memory: Memory::default(),
            send_memory: Memory::default(),
            config,
            address: Address::default(),
            identity: Identity::from_seed(identity_seed)?,
            capabilities,
            peers: BTreeMap::new(),
            peer_armed: HashMap::new(),
            slots: BTreeMap::new(),
            places: Places::default(),
            evictions: TokenBucket::new(places::EVICTION_RATE, places::EVICTION_RATE, now),
            time_wait: VecDeque::new(),
            demux: HashMap::new(),
            by_peer: BTreeMap::new(),
            next_id: 1,
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            events: VecDeque::new(),
            outbox: Outbox::new(),
            loopback: VecDeque::new(),
            stash: None,
            pending: BTreeMap::new(),
            early: Early::default(),
            asked: BTreeSet::new(),
            discovery: Discovery::default(),
            beacon_armed: None,
            scratch: Vec::new(),
            syn_bucket: BTreeMap::new(),
            limits: Limits::new(&mut entropy),
            strangers: Strangers::new(&entropy.next_32()),
            syns: Syns::default(),
            ptb_bucket: TokenBucket::new(PTB_RATE, PTB_BURST, now),
            gate: Gate::default(),
            dismissed: BTreeSet::new(),
            counters: NodeCounters::default(),
            entropy,
        };
        node.arm(now + node.config.sweep_interval, Timed::Sweep);
        Ok(node)
    }

    fn arm(&mut self, at: Instant, what: Timed) {
        self.timers.push(Reverse((at, what)));
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Acts on every deadline that has passed; harmless when none has.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.recorder.now = now;
        while let Some(Reverse((at, what))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match what {
                Timed::Connection(id) => self.on_connection_timeout(now, at, id),
                Timed::Peer(id) => self.on_peer_timeout(now, at, id),
                Timed::Syns(id) => self.on_syn_turn(now, id),
                Timed::Beacon(armed) => self.on_beacon_timeout(now, armed),
                Timed::Sweep => self.sweep(now),
            }
        }
    }

    fn on_connection_timeout(&mut self, now: Instant, at: Instant, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.armed != Some(at) {
            return;
        }
        slot.armed = None;
        slot.connection.handle_timeout(now);
        let remote = slot.connection.tuple().remote.node;
        let suspect = slot.connection.take_path_suspicion().then_some(remote);
        let is_unanswered = slot.connection.state() == State::SynSent;
        self.queue(id);
        self.after(id);
        // The peer may have restarted elsewhere since it was last heard.
        if is_unanswered && self.peers.get(&remote).is_some_and(|peer| peer.is_silent(now, REFRESH)) {
            self.ask_record(remote);
        }
        if let Some(node) = suspect {
            self.with_peer(node, |peer, _, _| peer.on_path_suspect(now));
            self.follow_path(node);
        }
    }

    /// Applies a new path MTU to a peer's connections.
    fn follow_path(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.has_new_segment()) else { return };
        peer.tell_segment();
        if peer.capabilities().is_none() {
            return;
        }
        let Some((_, segment)) = self.peers.get(&node).map(api::path_of) else { return };
        for id in self.by_peer.get(&node).into_iter().flatten() {
            if let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.is_attached) {
                slot.connection.set_max_segment(segment);
            }
        }
    }

    fn on_peer_timeout(&mut self, now: Instant, at: Instant, id: NodeId) {
        if self.peer_armed.get(&id) != Some(&at) {
            return;
        }
        self.peer_armed.remove(&id);
        let mut liveness = Liveness::Fine;
        self.with_peer(id, |peer, local, out| liveness = peer.handle_timeout(now, local, out));
        self.follow_path(id);
        match liveness {
            Liveness::Fine => {}
            Liveness::Stalled => self.ask_record(id),
            Liveness::Unreachable => self.fail_peer(id, CloseReason::Unreachable),
        }
    }

    /// Runs `f` on a peer, then arms its timer.
    fn with_peer(&mut self, id: NodeId, f: impl FnOnce(&mut Peer, &mut Local<'_>, &mut Outbox)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut local = Local {
            address: self.address,
            identity: &self.identity,
            entropy: &mut self.entropy,
            capabilities: self.capabilities,
        };
        f(peer, &mut local, &mut self.outbox);
        if let Some(at) = peer.poll_timeout()
            && self.peer_armed.get(&id).is_none_or(|armed| at < *armed)
        {
            self.peer_armed.insert(id, at);
            self.timers.push(Reverse((at, Timed::Peer(id))));
        }
        if self.is_traced() {
            self.take_peer_trace(id);
        }
    }

    /// Breaks every connection with a peer.
    fn fail_peer(&mut self, node: NodeId, reason: CloseReason) {
        self.pending.remove(&node);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.connection.break_off(reason);
                self.queue(id);
                self.after(id);
            }
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.deactivate();
        }
    }

    /// Expires silent peers without connections and idle rate limiters.
    fn sweep(&mut self, now: Instant) {
        let config = &self.config;
        let by_peer = &self.by_peer;
        let before = self.peers.len();
        self.peers.retain(|id, peer| {
            by_peer.contains_key(id) || now.saturating_since(peer.last_rx()) < config.peer_lifetime
        });
        if self.peers.len() < before {
            self.strangers.renew_keys();
        }
        let peers = &self.peers;
        self.peer_armed.retain(|id, _| peers.contains_key(id));
        self.pending.retain(|id, _| peers.contains_key(id));
        self.early.retain(|id| peers.contains_key(&id));
        self.gate.sweep(now);
        self.syns.sweep(now);
        self.syn_bucket.retain(|_, bucket| !bucket.is_full(now));
        self.strangers.sweep(now);
        self.arm(now + self.config.sweep_interval, Timed::Sweep);
    }
}
