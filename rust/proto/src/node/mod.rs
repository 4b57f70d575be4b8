//! The facade that joins tunnels and connections: demultiplexing, ports, limits, datagrams. No sockets.
//!
//! One [`Node`] is one agent's network stack. Its inputs, each with the current time, are datagrams
//! ([`Node::handle_datagram`]), timeouts ([`Node::handle_timeout`]), registry answers ([`Node::on_record`])
//! and calls of the application. After each input the driver drains datagrams ([`Node::poll_transmit`]) and
//! events ([`Node::poll_event`]) and asks for the next deadline ([`Node::poll_timeout`]).

mod admission;
mod api;
mod connection_limits;
mod discovery;
mod early;
mod figures;
mod memory;
mod policy;
mod ports;
mod punch;
mod rate_limits;
mod receive;
mod relay;
mod routes;
mod slots;
mod stats;
mod stream;
mod syn_pacing;
mod too_big;
mod trace;
mod transmit;
mod unauthenticated;

use core::net::SocketAddr;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
};

pub use admission::Caller;
pub use figures::{BOUNDS_MICROS, Figures, Histogram, PathFigures, PathKind, ServiceFigures};
use rustc_hash::FxHashMap;
pub use stats::{NodeCounters, NodeStats};
pub use stream::Stream;
pub use too_big::TooBig;
pub use trace::{Record, What};
pub use transmit::Transmit;

use self::{
    admission::Gate, connection_limits::ConnectionCounts, discovery::Discovery, early::Early, memory::Memory,
    policy::Policies, ports::Ports, punch::Punching, rate_limits::RateLimits, syn_pacing::SynPacing,
    trace::Recorder, unauthenticated::Unauthenticated,
};
use crate::{
    config::{MAX_SEGMENT, NodeConfig},
    crypto::{CryptoError, entropy::Entropy, identity::Identity},
    storage::token_bucket::TokenBucket,
    time::Instant,
    trace::Trace,
    transport::{Algorithm, CloseReason, Connection, State},
    tunnel::{
        Candidate, Candidates, Capabilities, Liveness, Local, Outbox, Peer, REFRESH, Route,
        prediction::Observations,
    },
    wire::addr::{Address, NetworkId, NodeId, Port},
};

/// Rate (per second) and burst of processed PTB messages (RFC 8899 section 4.6); routers send few.
const PTB_RATE: u32 = 100;
const PTB_BURST: u32 = 100;

/// Rate (per second) and burst of challenges to addresses that only peers or the registry name.
const CHECK_RATE: u32 = 128;
const CHECK_BURST: u32 = 1024;

/// Identifies a connection; never reused during the life of the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u32);

/// Options of one dialled connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DialOptions {
    /// Disables Nagle's algorithm.
    pub no_delay: bool,
    /// The congestion controller; `None` for the node's default.
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
    /// The datagram is larger than the protocol can carry.
    #[error("payload too large")]
    TooLarge,
    /// A broadcast or unset address was given.
    #[error("not a unicast address")]
    NotUnicast,
    /// The policy of the network does not allow the port.
    #[error("the network's policy does not allow this port")]
    Prohibited,
}

/// Something that the driver or its application must know or answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The registry must be asked about a peer; answered by [`Node::on_record`] or [`Node::on_no_record`].
    RecordNeeded(NodeId),
    /// An unauthenticated sender claims to be the given node: the registry must be asked for that node's
    /// identity key, with lower priority than for our own dials; answered by [`Node::on_key`].
    KeyNeeded(NodeId),
    /// A peer with this identity key asks for admission; answered by [`Node::on_admission`].
    AdmissionNeeded(Caller, [u8; 32]),
    /// What a network allows may have changed; answered by [`Node::set_network_policy`].
    PolicyNeeded(NetworkId),
    /// The beacons report this endpoint as ours.
    EndpointDiscovered(SocketAddr),
    /// Another beacon relays for us from now on.
    HomeChanged(SocketAddr),
    /// Frames for a peer go by another path.
    PathChanged(NodeId, Route),
    /// Each datagram is to be sent to this address from a socket of its own, and what comes back there from
    /// it, to be handed in. Asked for only after [`Node::set_opens_sockets`].
    SocketsNeeded {
        /// The address.
        to: SocketAddr,
        /// The datagrams.
        datagrams: Vec<Vec<u8>>,
    },
    /// A dialled connection is established.
    Connected(ConnectionId),
    /// A connection to a listening port is established.
    Accepted(ConnectionId),
    /// There is data to read.
    Readable(ConnectionId),
    /// The send buffer has room again.
    Writable(ConnectionId),
    /// The peer sent FIN: the stream ends after the data that can be read.
    RemoteFinished(ConnectionId),
    /// A connection is closed; its id is invalid from now on.
    Closed(ConnectionId, CloseReason),
    /// A datagram arrived.
    Datagram {
        /// Source address.
        src: Address,
        /// Source port.
        src_port: Port,
        /// Destination port.
        dst_port: Port,
        /// The payload.
        data: Vec<u8>,
    },
}

/// A connection with the node's bookkeeping.
#[derive(Debug)]
struct Slot {
    /// Boxed, because half-empty B-tree nodes would waste memory.
    connection: Box<Connection>,
    /// Whether it is in the ready queue.
    is_queued: bool,
    /// Whether its peer has a session and its dialect is set.
    is_attached: bool,
    /// Its deadline in the timer heap.
    armed: Option<Instant>,
    is_inbound: bool,
    /// Whether the driver knows its id, and so will close it: it dialled it or got [`Event::Accepted`].
    is_reported: bool,
    opened_at: Instant,
    /// Whether it is counted against `max_connections` and its port's limit. TIME-WAIT is not counted.
    is_counted: bool,
    /// The pacer let its SYN go.
    is_syn_released: bool,
    is_syn_queued: bool,
    is_established: bool,
    /// Released by the application: removed once it is closed.
    is_released: bool,
    /// Bytes accounted to it, for receiving and for sending.
    held: usize,
    send_held: usize,
}

/// Demultiplexing key: our port and the remote end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    local_port: Port,
    remote: Address,
    remote_port: Port,
}

/// Owner of a deadline in the timer heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum TimerOwner {
    Connection(ConnectionId),
    Peer(NodeId),
    SynPacing(NodeId),
    Beacon(Instant),
    Punch,
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
    /// Deadlines of peers in the timer heap.
    peer_armed: HashMap<NodeId, Instant>,
    /// Ids are our own counter, so no peer chooses what they hash to.
    slots: FxHashMap<ConnectionId, Slot>,
    connection_counts: ConnectionCounts,
    evictions: TokenBucket,
    /// Connections in TIME-WAIT, oldest first; may contain closed ones.
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
    timers: BinaryHeap<Reverse<(Instant, TimerOwner)>>,
    events: VecDeque<Event>,
    outbox: Outbox,
    /// Packets that this node sends to itself.
    loopback: VecDeque<Vec<u8>>,
    /// A sealed frame larger than the segment size of its batch, sent next.
    stash: Option<(Route, Vec<u8>)>,
    /// Datagrams queued until their peer has a session.
    pending: BTreeMap<NodeId, VecDeque<Vec<u8>>>,
    /// Stream packets held until their peer's dialect is known.
    early: Early,
    /// Peers with an open record request.
    record_requests: BTreeSet<NodeId>,
    discovery: Discovery,
    /// The beacon through which frames are relayed.
    home: Option<SocketAddr>,
    /// Where peers may reach us, as announced to them.
    candidates: Candidates,
    /// The part of those that the driver named.
    named: Vec<Candidate>,
    punching: Punching,
    /// Budget of challenges to addresses that only peers or the registry name.
    checks: TokenBucket,
    /// What beacons report of our NAT.
    nat: Observations,
    /// Deadline of the next discovery request.
    beacon_armed: Option<Instant>,
    scratch: Vec<u8>,
    syn_bucket: BTreeMap<NodeId, TokenBucket>,
    limits: RateLimits,
    unauthenticated: Unauthenticated,
    syn_pacing: SynPacing,
    /// RateLimits PTB messages, each of which scans the peers.
    ptb_bucket: TokenBucket,
    gate: Gate,
    policies: Policies,
    /// Peers to remove once their connections are reset.
    dismissed: BTreeSet<NodeId>,
    counters: NodeCounters,
    figures: Figures,
    recorder: Recorder,
}

impl Node {
    /// A node without an address. `seed` must be random and must not be used again.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if the identity seed is invalid.
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
            slots: FxHashMap::default(),
            connection_counts: ConnectionCounts::default(),
            evictions: TokenBucket::new(
                connection_limits::EVICTION_RATE,
                connection_limits::EVICTION_RATE,
                now,
            ),
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
            record_requests: BTreeSet::new(),
            discovery: Discovery::default(),
            home: None,
            candidates: Candidates::default(),
            named: Vec::new(),
            punching: Punching::new(now),
            checks: TokenBucket::new(CHECK_RATE, CHECK_BURST, now),
            nat: Observations::default(),
            beacon_armed: None,
            scratch: Vec::new(),
            syn_bucket: BTreeMap::new(),
            limits: RateLimits::new(&mut entropy),
            unauthenticated: Unauthenticated::new(&entropy.next_32()),
            syn_pacing: SynPacing::default(),
            ptb_bucket: TokenBucket::new(PTB_RATE, PTB_BURST, now),
            gate: Gate::default(),
            policies: Policies::default(),
            dismissed: BTreeSet::new(),
            counters: NodeCounters::default(),
            figures: Figures::default(),
            entropy,
        };
        node.arm(now + node.config.sweep_interval, TimerOwner::Sweep);
        Ok(node)
    }

    fn arm(&mut self, at: Instant, what: TimerOwner) {
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

    /// Processes every expired deadline. May be called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.recorder.now = now;
        while let Some(Reverse((at, what))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match what {
                TimerOwner::Connection(id) => self.on_connection_timeout(now, at, id),
                TimerOwner::Peer(id) => self.on_peer_timeout(now, at, id),
                TimerOwner::SynPacing(id) => self.on_syn_pacing_timeout(now, id),
                TimerOwner::Beacon(armed) => self.on_beacon_timeout(now, armed),
                TimerOwner::Punch => self.send_punches(now),
                TimerOwner::Sweep => self.sweep(now),
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
        let is_suspect = slot.connection.take_path_suspicion();
        let is_unanswered = slot.connection.state() == State::SynSent;
        self.queue(id);
        self.drain_connection(id);
        // The peer may have restarted at another address.
        if is_unanswered && self.peers.get(&remote).is_some_and(|peer| peer.is_silent(now, REFRESH)) {
            self.request_record(remote);
        }
        if is_suspect {
            self.with_peer(remote, |peer, _, _| peer.on_path_suspect(now));
        }
    }

    /// Applies a changed path MTU of a peer to its connections. If the path was found to carry less, larger
    /// segments sent since `since` are retransmitted at once, in parts. If another path is used, `since` is
    /// `None`: those on their way by the one before may arrive.
    fn apply_path_mtu(&mut self, now: Instant, node: NodeId, since: Option<Instant>) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.has_new_segment()) else { return };
        peer.take_segment();
        if !peer.is_ready() {
            return;
        }
        let (_, segment) = api::path_of(peer);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) else { continue };
            let is_reduced = segment < slot.connection.max_segment();
            slot.connection.set_max_segment(segment);
            if let Some(since) = since.filter(|_| is_reduced) {
                slot.connection.on_path_mtu_reduced(now, since);
                self.queue(id);
                self.drain_connection(id);
            }
        }
    }

    fn on_peer_timeout(&mut self, now: Instant, at: Instant, id: NodeId) {
        if self.peer_armed.get(&id) != Some(&at) {
            return;
        }
        self.peer_armed.remove(&id);
        self.measure_connections(now, id);
        let mut liveness = Liveness::Fine;
        self.with_peer(id, |peer, local, out| liveness = peer.handle_timeout(now, local, out));
        self.apply_path_mtu(now, id, Some(Instant::ZERO));
        match liveness {
            Liveness::Fine => {}
            Liveness::Stalled => {
                self.request_record(id);
                // The relay may be what is silent.
                if self.peers.get(&id).and_then(Peer::route).is_some_and(Route::is_relayed) {
                    self.ask_beacons(now);
                }
            }
            Liveness::Unreachable => self.fail_peer(id, CloseReason::Unreachable),
        }
    }

    /// Runs `f` on a peer, then arms the peer's timer.
    fn with_peer(&mut self, id: NodeId, f: impl FnOnce(&mut Peer, &mut Local<'_>, &mut Outbox)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut local = Local {
            address: self.address,
            identity: &self.identity,
            entropy: &mut self.entropy,
            capabilities: self.capabilities,
            candidates: &self.candidates,
            checks: &mut self.checks,
            nat: &mut self.nat,
        };
        f(peer, &mut local, &mut self.outbox);
        let (wants_punch, change) = (peer.take_wants_punch(), peer.take_path_change());
        let handshake = peer.take_handshake();
        let wants_beacons = peer.take_wants_beacons();
        if let Some((to, datagrams)) = peer.take_sockets() {
            self.events.push_back(Event::SocketsNeeded { to, datagrams });
        }
        if let Some(at) = peer.poll_timeout()
            && self.peer_armed.get(&id).is_none_or(|armed| at < *armed)
        {
            self.peer_armed.insert(id, at);
            self.timers.push(Reverse((at, TimerOwner::Peer(id))));
        }
        if let Some(took) = handshake {
            self.figures.handshake.add(took);
        }
        if self.is_traced() {
            self.take_peer_trace(id);
        }
        if wants_beacons {
            self.ask_beacons_seldom(self.recorder.now);
        }
        if wants_punch {
            self.request_punch(self.recorder.now, id);
        }
        if let Some(switch) = change {
            if switch.is_other {
                self.on_path_in_use(id, switch.route);
            }
            self.on_route_changed(self.recorder.now, id, switch);
        }
    }

    /// Terminates every connection with a peer.
    fn fail_peer(&mut self, node: NodeId, reason: CloseReason) {
        self.pending.remove(&node);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.connection.terminate(reason);
                self.queue(id);
                self.drain_connection(id);
            }
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.deactivate();
        }
    }

    /// The expiry sweep: removes silent peers without connections, and idle rate limiters.
    fn sweep(&mut self, now: Instant) {
        let config = &self.config;
        let by_peer = &self.by_peer;
        let before = self.peers.len();
        self.peers.retain(|id, peer| {
            by_peer.contains_key(id) || now.saturating_since(peer.last_rx()) < config.peer_lifetime
        });
        if self.peers.len() < before {
            self.unauthenticated.renew_keys();
        }
        let peers = &self.peers;
        self.peer_armed.retain(|id, _| peers.contains_key(id));
        self.pending.retain(|id, _| peers.contains_key(id));
        self.early.retain(|id| peers.contains_key(&id));
        self.gate.sweep(now);
        self.syn_pacing.sweep(now);
        self.syn_bucket.retain(|_, bucket| !bucket.is_full(now));
        self.unauthenticated.sweep(now);
        self.arm(now + self.config.sweep_interval, TimerOwner::Sweep);
    }
}
