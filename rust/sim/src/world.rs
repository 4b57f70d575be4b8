//! The simulated network: hosts, paths and virtual time.

mod transfers;

use core::{fmt, net::SocketAddr, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
};

use crate::{
    channel::{Channel, LinkId, Links, Path},
    flow::{Flow, FlowId, HostId},
    qlog::Recorder,
    rng::Rng,
};
use pilot_proto::{
    config::NodeConfig,
    crypto::identity::Identity,
    node::{ConnectionId, DialOptions, Event, Node, NodeError, TooBig},
    time::Instant,
    trace::Detail,
    wire::addr::{Address, NodeId, Port},
};

/// The port on which every host accepts transfers.
const FLOW_PORT: Port = Port(80);
/// Bytes of a datagram quoted by an ICMP message, which has at most 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTED: usize = 576 - 20 - 8 - 20 - 8;
/// Largest number of datagrams per batch.
const BATCH: usize = 16;

/// Why a run ended before its condition was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// The time limit was reached.
    TooLong(Instant),
    /// There are no further events.
    Forever(Instant),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(at) => write!(f, "not done at {at:?} of virtual time"),
            Self::Forever(at) => write!(f, "nothing will ever happen after {at:?} of virtual time"),
        }
    }
}

impl std::error::Error for Stuck {}

#[derive(Debug)]
struct Host {
    node: Node,
    boots: u8,
    /// Events that belong to no transfer.
    events: VecDeque<Event>,
}

impl Host {
    fn receive(&mut self, now: Instant, parcel: Parcel) {
        match parcel {
            Parcel::Datagram { from, mut bytes } => {
                self.node.handle_datagram(now, endpoint(from), &mut bytes);
            }
            Parcel::TooBig { destination, mtu, quote } => {
                let destination = endpoint(destination);
                let report = TooBig { destination, max_datagram: mtu, quote: Some(&quote) };
                self.node.handle_too_big(now, &report);
            }
        }
    }
}

/// Something in flight to a host.
#[derive(Debug)]
enum Parcel {
    Datagram {
        from: HostId,
        bytes: Vec<u8>,
    },
    /// A PTB message about the host's datagram to `destination`.
    TooBig {
        destination: HostId,
        mtu: usize,
        quote: Vec<u8>,
    },
}

/// A simulated network.
#[derive(Debug)]
pub struct World {
    /// The virtual time.
    pub now: Instant,
    /// Source of all randomness.
    pub rng: Rng,
    config: NodeConfig,
    hosts: Vec<Host>,
    flows: Vec<Flow>,
    senders: BTreeMap<(HostId, ConnectionId), FlowId>,
    receivers: BTreeMap<(HostId, ConnectionId), FlowId>,
    default_path: Path,
    channels: BTreeMap<(HostId, HostId), Channel>,
    links: Links,
    cut: BTreeSet<(HostId, HostId)>,
    wire: BTreeMap<(Instant, u64), (HostId, Parcel)>,
    serial: u64,
    datagrams: u64,
    buffer: Vec<u8>,
    recorder: Option<Recorder>,
}

fn endpoint(host: HostId) -> SocketAddr {
    let [.., high, low] = host.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 4000))
}

fn host_of(at: SocketAddr) -> HostId {
    match at.ip() {
        core::net::IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            usize::from(high) * 256 + usize::from(low)
        }
        core::net::IpAddr::V6(_) => HostId::MAX,
    }
}

fn node_id(host: HostId) -> NodeId {
    NodeId(u32::try_from(host + 1).unwrap_or(u32::MAX))
}

fn identity_seed(host: HostId) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(host as u64 + 1).to_be_bytes());
    seed
}

impl World {
    /// A network without hosts. Added hosts get this configuration, and paths default to `path`. If
    /// `SIM_QLOG` names a folder, qlog files are written there when the run gets stuck or panics.
    pub fn new(seed: u64, config: NodeConfig, path: Path) -> Self {
        let mut world = Self {
            now: Instant::from_millis(1),
            rng: Rng(seed),
            config,
            hosts: Vec::new(),
            flows: Vec::new(),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            default_path: path,
            channels: BTreeMap::new(),
            links: Links::default(),
            cut: BTreeSet::new(),
            wire: BTreeMap::new(),
            serial: 0,
            datagrams: 0,
            buffer: vec![0; 65_536],
            recorder: None,
        };
        if let Some(dir) = std::env::var_os("SIM_QLOG").filter(|dir| !dir.is_empty()) {
            world.record(dir.into(), seed);
        }
        world
    }

    /// Traces hosts added from now on, into a subfolder of `dir`.
    pub fn record(&mut self, dir: PathBuf, seed: u64) {
        self.config.trace = Some(Detail::Packets);
        self.recorder = Some(Recorder::new(dir, seed));
    }

    /// A network of two hosts.
    pub fn pair(seed: u64, config: NodeConfig, path: Path) -> Self {
        let mut world = Self::new(seed, config, path);
        world.add_host();
        world.add_host();
        world
    }

    /// Adds a host that accepts transfers.
    pub fn add_host(&mut self) -> HostId {
        let host = self.hosts.len();
        let node = self.boot(host, 0);
        self.hosts.push(Host { node, boots: 0, events: VecDeque::new() });
        host
    }

    #[allow(clippy::expect_used, reason = "a derived seed is never refused")]
    fn boot(&mut self, host: HostId, boots: u8) -> Node {
        let mut seed = identity_seed(host);
        seed[31] = boots;
        seed[16..24].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        let mut node = Node::new(self.now, &identity_seed(host), &seed, self.config.clone())
            .expect("the identity's seed is taken");
        node.set_address(Address::backbone(node_id(host)));
        let _ = node.listen(FLOW_PORT);
        node
    }

    /// Replaces a host's node with a new one, as after a crash.
    pub fn restart(&mut self, host: HostId) {
        let boots = self.hosts[host].boots.wrapping_add(1);
        let node = self.boot(host, boots);
        self.hosts[host] = Host { node, boots, events: VecDeque::new() };
        self.senders.retain(|(owner, _), _| *owner != host);
        self.receivers.retain(|(owner, _), _| *owner != host);
        for flow in self.flows.iter_mut().filter(|flow| flow.from == host || flow.to == host) {
            flow.is_orphan = true;
        }
    }

    /// Adds a bottleneck of `rate` bytes per second with a queue of `queue` bytes.
    pub fn add_link(&mut self, rate: u64, queue: usize) -> LinkId {
        self.links.add(rate, queue)
    }

    /// Datagrams dropped at a bottleneck's tail.
    pub fn dropped_at(&self, link: LinkId) -> u64 {
        self.links.0.get(link.0).map_or(0, |link| link.dropped)
    }

    /// Sets one direction between two hosts.
    pub fn set_path(&mut self, from: HostId, to: HostId, path: Path) {
        self.channels.insert((from, to), Channel::new(path));
    }

    /// Cuts or restores both directions between two hosts.
    pub fn set_partition(&mut self, a: HostId, b: HostId, is_cut: bool) {
        for pair in [(a, b), (b, a)] {
            if is_cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// A host's node.
    pub fn node(&mut self, host: HostId) -> &mut Node {
        &mut self.hosts[host].node
    }

    /// A host's address.
    pub fn address(&self, host: HostId) -> Address {
        Address::backbone(node_id(host))
    }

    /// The next event of a host that belongs to no transfer.
    pub fn poll_event(&mut self, host: HostId) -> Option<Event> {
        self.hosts[host].events.pop_front()
    }

    /// Datagrams sent so far.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// Dials from one host to another and sends `total` bytes; with `is_echo` they come back.
    ///
    /// # Errors
    /// [`NodeError`] at the node's limits.
    pub fn start_flow(
        &mut self,
        from: HostId,
        to: HostId,
        total: u64,
        options: DialOptions,
        is_echo: bool,
    ) -> Result<FlowId, NodeError> {
        let address = self.address(to);
        let sender = self.hosts[from].node.connect(self.now, address, FLOW_PORT, options)?;
        let id = FlowId(self.flows.len());
        self.flows.push(Flow {
            from,
            to,
            total,
            sent: 0,
            received: 0,
            started: self.now,
            connected: None,
            finished: None,
            closed: None,
            is_reading: true,
            stats: Default::default(),
            is_orphan: false,
            sender,
            receiver: None,
            is_echo,
            echoed: 0,
            returned: 0,
        });
        self.senders.insert((from, sender), id);
        Ok(id)
    }

    /// A transfer.
    pub fn flow(&self, id: FlowId) -> &Flow {
        &self.flows[id.0]
    }

    /// The `n`th transfer, from 0.
    pub fn nth_flow(&self, n: usize) -> Option<FlowId> {
        (n < self.flows.len()).then_some(FlowId(n))
    }

    /// All transfers.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Resets a transfer's connection from the sender's side.
    pub fn abort(&mut self, id: FlowId) {
        let flow = &self.flows[id.0];
        if !flow.is_orphan {
            self.hosts[flow.from].node.abort(self.now, flow.sender);
        }
    }

    /// Stops writing: FIN follows the data written so far. Receiving goes on.
    pub fn finish(&mut self, id: FlowId) {
        let flow = &mut self.flows[id.0];
        if flow.sent == 0 || flow.closed.is_some() || flow.is_orphan {
            return;
        }
        flow.total = flow.sent;
        let is_done = flow.received == flow.total && !flow.is_echo || flow.returned == flow.total;
        let node = &mut self.hosts[flow.from].node;
        node.with_connection(flow.sender, |connection| connection.shutdown());
        if is_done {
            flow.finished.get_or_insert(self.now);
        }
    }

    /// Makes a transfer's receiver start or stop reading.
    pub fn set_reading(&mut self, id: FlowId, is_reading: bool) {
        self.flows[id.0].is_reading = is_reading;
        if is_reading {
            self.pump_receiver(id);
        }
    }

    /// Advances to the next event.
    ///
    /// # Errors
    /// [`Stuck::Forever`] when there is none.
    pub fn step(&mut self) -> Result<(), Stuck> {
        let next = self.next_at().ok_or(Stuck::Forever(self.now))?;
        self.advance(next);
        Ok(())
    }

    /// Time of the next event, after sending everything that can be sent now.
    fn next_at(&mut self) -> Option<Instant> {
        for host in 0..self.hosts.len() {
            self.drain(host);
        }
        let timer = self.hosts.iter().filter_map(|host| host.node.poll_timeout()).min();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(arrival).min()
    }

    /// Advances the time to `at` and processes its events.
    fn advance(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, parcel) = entry.remove();
            if let Some(host) = self.hosts.get_mut(to) {
                host.receive(self.now, parcel);
            }
            self.drain(to);
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].node.poll_timeout().is_some_and(|at| at <= self.now) {
                self.hosts[host].node.handle_timeout(self.now);
                self.drain(host);
            }
        }
    }

    /// Runs until `is_done`, for at most `limit` of virtual time.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Stuck> {
        let end = self.now + limit;
        while !is_done(self) {
            let result = if self.now > end { Err(Stuck::TooLong(self.now)) } else { self.step() };
            if result.is_err() {
                self.recorder.iter_mut().for_each(Recorder::save);
                return result;
            }
        }
        Ok(())
    }

    /// Runs for exactly this time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_at().filter(|at| *at <= end) {
            self.advance(at);
        }
        self.now = end;
    }

    /// Drains a host's datagrams and events.
    fn drain(&mut self, host: HostId) {
        if host >= self.hosts.len() {
            return;
        }
        loop {
            let mut is_idle = true;
            while self.transmit(host) {
                is_idle = false;
            }
            while let Some(event) = self.hosts[host].node.poll_event() {
                is_idle = false;
                self.on_event(host, event);
            }
            if is_idle {
                break;
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.take(host, &mut self.hosts[host].node);
        }
    }

    fn transmit(&mut self, from: HostId) -> bool {
        let Some(transmit) = self.hosts[from].node.poll_transmit(self.now, &mut self.buffer, BATCH) else {
            return false;
        };
        let to = host_of(transmit.destination);
        let size = transmit.segment_size.unwrap_or(transmit.len).max(1);
        let default = self.default_path;
        for frame in self.buffer[..transmit.len].chunks(size) {
            self.datagrams += 1;
            if self.cut.contains(&(from, to)) {
                continue;
            }
            let channel = self.channels.entry((from, to)).or_insert_with(|| Channel::new(default));
            let fate = channel.send(self.now, frame.len(), &mut self.links, &mut self.rng);
            for at in [fate.first, fate.second].into_iter().flatten() {
                self.serial += 1;
                let parcel = Parcel::Datagram { from, bytes: frame.to_vec() };
                self.wire.insert((at, self.serial), (to, parcel));
            }
            if let Some(at) = fate.refused {
                self.serial += 1;
                let quote = frame[..frame.len().min(QUOTED)].to_vec();
                let parcel = Parcel::TooBig { destination: to, mtu: channel.path.mtu, quote };
                self.wire.insert((at, self.serial), (from, parcel));
            }
        }
        true
    }

    fn on_event(&mut self, host: HostId, event: Event) {
        match event {
            Event::RecordNeeded(id) => self.answer_record(host, id),
            Event::KeyNeeded(id) => self.answer_key(host, id),
            Event::Connected(id) => {
                if let Some(flow) = self.senders.get(&(host, id)).copied() {
                    self.flows[flow.0].connected = Some(self.now);
                    self.pump_sender(flow);
                }
            }
            Event::Accepted(id) => self.accept(host, id),
            Event::Writable(id) => match self.senders.get(&(host, id)).copied() {
                Some(flow) => self.pump_sender(flow),
                None => self.pump_receiver_of(host, id),
            },
            Event::Readable(id) => match self.senders.get(&(host, id)).copied() {
                Some(flow) => self.pump_returned(flow),
                None => self.pump_receiver_of(host, id),
            },
            Event::Closed(id, reason) => {
                if let Some(flow) = self.senders.get(&(host, id)).copied() {
                    self.flows[flow.0].closed = Some(reason);
                } else {
                    self.hosts[host].events.push_back(Event::Closed(id, reason));
                }
            }
            Event::AdmissionNeeded(..)
            | Event::EndpointDiscovered(_)
            | Event::RemoteFinished(_)
            | Event::Datagram { .. } => {
                self.hosts[host].events.push_back(event);
            }
        }
    }

    /// Answers a record request as the registry, which knows every host.
    fn answer_record(&mut self, host: HostId, id: NodeId) {
        let other = (0..self.hosts.len()).find(|other| node_id(*other) == id);
        let node = &mut self.hosts[host].node;
        match other.map(|other| (other, Identity::from_seed(&identity_seed(other)))) {
            Some((other, Ok(identity))) => {
                node.on_record(self.now, id, identity.public_key(), Some(endpoint(other)));
            }
            Some((_, Err(_))) | None => node.on_no_record(id),
        }
    }

    fn answer_key(&mut self, host: HostId, id: NodeId) {
        let other = (0..self.hosts.len()).find(|other| node_id(*other) == id);
        let identity = other.and_then(|other| Identity::from_seed(&identity_seed(other)).ok());
        let key = identity.map(|identity| identity.public_key());
        self.hosts[host].node.on_key(self.now, id, key);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.recorder.iter_mut().for_each(Recorder::save);
        }
    }
}
