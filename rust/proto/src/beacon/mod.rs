//! A beacon: tells nodes their endpoints, coordinates hole punching, and relays frames between nodes that
//! cannot reach each other (`docs/reference/protocol/beacon.md`).
//!
//! It knows nothing of tunnels: relayed frames are opaque, and only the nodes' own encryption protects them.
//! No message is authenticated by itself, so what one may change depends on what its sender has proven
//! (`nodes`), and an address that has proven nothing is sent no more than came from it (`claims`).
//!
//! As elsewhere in the core, time is an argument and nothing is sent from here: after every input, the driver
//! drains [`Beacon::poll_transmit`].

mod announce;
mod claims;
mod cookies;
mod counters;
mod gossip;
mod keys;
mod limits;
mod nodes;
mod punch;
mod queue;
mod relay;
mod routes;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

pub use self::counters::Counters;
use self::{
    claims::Claims,
    gossip::Gossip,
    keys::Keys,
    limits::{Limits, host_of},
    nodes::Nodes,
    queue::Queue,
    relay::Flow,
    routes::Routes,
};
use crate::{
    crypto::{entropy::Entropy, prf::Prf},
    time::{Duration, Instant},
    wire::{addr::NodeId, beacon::Message},
};

/// Replies and commands that may wait to be sent.
const MAX_SMALL: usize = 16_384;
/// Interval of the search for what has expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of a buffer for [`Beacon::handle_buffer`].
pub const BUFFER_LEN: usize = queue::BUFFER_LEN;
/// Most ports of the beacon that a node may be told to punch at.
pub const MAX_PROBE_PORTS: usize = 64;

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct BeaconConfig {
    /// The beacon's number among the beacons of a registry; 0 if it is alone.
    pub id: u32,
    /// Secret from which cookies and choices derive.
    pub seed: [u8; 32],
    /// Whether datagrams from loopback addresses prove their source, and each socket there is a source of its
    /// own: they cannot come from another host (RFC 1122 section 3.2.1.3).
    pub trusts_loopback: bool,
    /// Ports, other than the beacon's own, at which nodes are told to punch to prove their address.
    pub probe_ports: Vec<u16>,
    /// The beacon's own public addresses, for hosts whose sockets have others; at most one of each family.
    pub public_ips: Vec<IpAddr>,
}

/// Where a datagram, or several of one batch, came from.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The source.
    pub from: SocketAddr,
    /// The address of ours that it was sent to, if known.
    pub local: Option<IpAddr>,
    /// Length of each datagram of the batch but the last.
    pub stride: usize,
}

/// Datagrams to be sent, whose bytes are in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where they go.
    pub destination: SocketAddr,
    /// Bytes of all of them.
    pub len: usize,
    /// Length of each but the last, if there are several.
    pub segment_size: Option<usize>,
}

/// What a beacon holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    /// Nodes at proven addresses.
    pub nodes: usize,
    /// Nodes whose address is not proven.
    pub claims: usize,
    /// Nodes that other beacons said to serve.
    pub routes: usize,
    /// Other beacons.
    pub beacons: usize,
    /// Bytes of relayed frames that wait, with overhead.
    pub waiting_bytes: usize,
}

impl Holdings {
    /// The name of each and its value.
    pub fn each(&self) -> [(&'static str, usize); 5] {
        [
            ("nodes", self.nodes),
            ("claims", self.claims),
            ("routes", self.routes),
            ("beacons", self.beacons),
            ("waiting_bytes", self.waiting_bytes),
        ]
    }
}

/// A beacon.
#[derive(Debug)]
pub struct Beacon {
    config: BeaconConfig,
    prf: Prf,
    entropy: Entropy,
    limits: Limits,
    nodes: Nodes,
    keys: Keys,
    claims: Claims,
    routes: Routes,
    gossip: Gossip,
    is_gossips_turn: bool,
    queue: Queue,
    /// Where frames like the last one go; void as soon as anything else happens.
    flow: Option<Flow>,
    /// Replies and commands that wait to be sent.
    small: VecDeque<(SocketAddr, Vec<u8>)>,
    sweep_at: Option<Instant>,
    counters: Counters,
}

impl Beacon {
    /// A beacon that knows nobody.
    pub fn new(mut config: BeaconConfig) -> Self {
        config.probe_ports.truncate(MAX_PROBE_PORTS);
        let mut entropy = Entropy::new(&config.seed);
        Self {
            prf: Prf::new(&entropy.next_32()),
            limits: Limits::new(&mut entropy),
            nodes: Nodes::default(),
            keys: Keys::default(),
            claims: Claims::default(),
            routes: Routes::default(),
            gossip: Gossip::default(),
            is_gossips_turn: false,
            queue: Queue::default(),
            flow: None,
            small: VecDeque::new(),
            sweep_at: None,
            counters: Counters::default(),
            config,
            entropy,
        }
    }

    /// Takes one datagram.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.handle_batch(now, Arrival { from, local: None, stride: bytes.len() }, bytes);
    }

    /// Takes datagrams of one source.
    pub fn handle_batch(&mut self, now: Instant, mut arrival: Arrival, bytes: &[u8]) {
        arrival.from = SocketAddr::new(arrival.from.ip().to_canonical(), arrival.from.port());
        if bytes.is_empty() {
            self.counters.dropped_malformed += 1;
        }
        let stride = arrival.stride.max(1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut len = self.relay_like_last(arrival.from, rest, stride);
            if len == 0 {
                len = rest.len().min(stride);
                self.flow = None;
                self.handle_one(now, &arrival, &rest[..len]);
            }
            rest = &rest[len..];
        }
    }

    /// As [`Self::handle_batch`], for the first `len` bytes of a buffer of [`BUFFER_LEN`]. It may be replaced by
    /// another one of that length.
    pub fn handle_buffer(&mut self, now: Instant, mut arrival: Arrival, buffer: &mut Vec<u8>, len: usize) {
        arrival.from = SocketAddr::new(arrival.from.ip().to_canonical(), arrival.from.port());
        let stride = arrival.stride.max(1);
        let done = if len > stride { self.relay_owned(now, arrival.from, buffer, (len, stride)) } else { 0 };
        if done < len || len == 0 {
            self.handle_batch(now, arrival, &buffer[done..len]);
        }
    }

    fn handle_one(&mut self, now: Instant, arrival: &Arrival, bytes: &[u8]) {
        let from = arrival.from;
        match Message::parse(bytes) {
            Ok(Message::Relay { sender, destination, frame }) => {
                self.on_relay(now, from, (sender, destination), frame, bytes);
            }
            Ok(Message::Discover { node, identity_key, is_extended }) => {
                self.on_discover(now, arrival, bytes, (node, identity_key, is_extended));
            }
            Ok(Message::PunchRequest { requester, target }) => {
                self.on_punch_request(now, arrival, requester, target);
            }
            Ok(Message::Sync { nodes, .. }) => self.on_sync(now, from, nodes),
            Ok(
                Message::DiscoverReply(_)
                | Message::PunchCommand(_)
                | Message::RelayDeliver { .. }
                | Message::Notify { .. },
            ) => self.counters.dropped_unserved += 1,
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    /// Sets the other beacons, which the registry lists.
    pub fn set_beacons(&mut self, now: Instant, beacons: impl IntoIterator<Item = SocketAddr>) {
        self.flow = None;
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        self.routes.set_beacons(beacons.into_iter().map(canonical));
        self.gossip.arm(now, &self.routes);
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.sweep_at, self.gossip.due()].into_iter().flatten().min()
    }

    /// Acts on what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flow = None;
        if self.sweep_at.is_some_and(|at| now >= at) {
            self.nodes.sweep(now);
            self.routes.sweep(now);
            self.queue.sweep();
            self.sweep_at = None;
            self.arm_sweep(now);
        }
        self.gossip.handle_timeout(now, &self.routes);
    }

    /// Puts what is to be sent next at the begin of `buf`, at most `max_segments` datagrams.
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        max_segments: usize,
    ) -> Option<Transmit> {
        self.flow = None;
        if let Some((destination, bytes)) = self.small.pop_front() {
            *buf = bytes;
            return Some(Transmit { destination, len: buf.len(), segment_size: None });
        }
        // Between relayed batches, not before all of them.
        self.is_gossips_turn = !self.is_gossips_turn || self.queue.bytes() == 0;
        if self.is_gossips_turn
            && let Some(destination) = self.gossip.poll(now, self.config.id, &self.nodes, buf)
        {
            self.counters.syncs_sent += 1;
            return Some(Transmit { destination, len: buf.len(), segment_size: None });
        }
        let taken = self.queue.take(max_segments, buf)?;
        self.counters.dropped_greedy += self.queue.take_dropped();
        let segment_size = (taken.len > taken.segment).then_some(taken.segment);
        Some(Transmit { destination: taken.to, len: taken.len, segment_size })
    }

    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What it holds.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            nodes: self.nodes.len(),
            claims: self.claims.len(),
            routes: self.routes.len(),
            beacons: self.routes.beacons().count(),
            waiting_bytes: self.queue.bytes(),
        }
    }

    /// Sends a reply or command.
    fn send_small(&mut self, to: SocketAddr, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.send_bytes(to, bytes);
    }

    fn send_bytes(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if self.small.len() >= MAX_SMALL {
            self.counters.dropped_backlog += 1;
            return;
        }
        self.small.push_back((to, bytes));
    }

    /// Whether datagrams from this address prove that they come from there.
    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.config.trusts_loopback && ip.is_loopback()
    }

    /// Whose limits are charged for a datagram: its host's, and on this host those of its socket.
    fn source_of(&self, from: SocketAddr) -> u64 {
        if self.is_trusted(from.ip()) { u64::MAX - u64::from(from.port()) } else { host_of(from.ip()) }
    }

    /// Where a node is: at its proven address, else where it claims to be.
    fn endpoint_of(&self, now: Instant, node: NodeId) -> Option<SocketAddr> {
        let proven = self.nodes.find(now, node).map(|node| node.endpoint);
        proven.or_else(|| self.claims.find(now, node).map(|claim| claim.endpoint))
    }

    fn arm_sweep(&mut self, now: Instant) {
        if self.sweep_at.is_none() && (self.nodes.len() > 0 || self.routes.len() > 0) {
            self.sweep_at = Some(now + SWEEP_INTERVAL);
        }
    }
}
