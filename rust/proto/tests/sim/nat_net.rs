//! Nodes behind NAT boxes, and a beacon, in virtual time. The boxes filter by address and port (RFC 4787
//! section 5), which is the strictest behaviour.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use pilot_proto::{
    config::NodeConfig,
    crypto::identity::Identity,
    node::{ConnectionId, DialOptions, Event, Node},
    time::Instant,
    tunnel::PeerStatus,
    wire::{
        addr::{Address, NodeId, Port},
        beacon::Message,
    },
};

use crate::node::{configured, seed_of};

/// One way from a host to the public network, and between hosts of one site.
pub(crate) const LATENCY: Duration = Duration::from_millis(10);

/// What stands between a host and the public network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nat {
    /// Nothing.
    Open,
    /// Endpoint-independent mapping.
    Cone,
    /// Address- and port-dependent mapping.
    Symmetric,
    /// The same, with ports that follow each other at this distance.
    Sequential(u16),
}

struct Host {
    node: Node,
    site: u8,
    nat: Nat,
    /// External ports by destination (the same for all behind a cone), with whom may answer there.
    mappings: BTreeMap<Option<SocketAddr>, (u16, BTreeSet<SocketAddr>)>,
    /// The last port of a sequential box.
    last_port: u16,
    events: Vec<Event>,
    endpoint: Option<SocketAddr>,
}

/// A beacon that checks nothing.
#[derive(Default)]
pub(crate) struct BeaconBox {
    pub(crate) nodes: BTreeMap<u32, SocketAddr>,
    pub(crate) is_down: bool,
    /// Whether it names the destination of what it delivers.
    pub(crate) is_extended: bool,
    pub(crate) relayed: usize,
    pub(crate) punches: usize,
}

pub(crate) struct NatNet {
    pub(crate) now: Instant,
    hosts: BTreeMap<u32, Host>,
    pub(crate) beacons: BTreeMap<SocketAddr, BeaconBox>,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    serial: u64,
    /// Pairs of hosts between which nothing passes but through a beacon.
    pub(crate) cuts: BTreeSet<(u32, u32)>,
    next_port: u16,
    /// Datagrams between hosts that did not pass a beacon, by sender.
    pub(crate) direct: BTreeMap<u32, usize>,
    /// Whether the registry names no endpoints.
    pub(crate) is_hidden: bool,
}

pub(crate) fn beacon(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 9001))
}

/// The public address of a site.
fn outside(site: u8) -> [u8; 4] {
    [203, 0, 113, site]
}

impl NatNet {
    /// Hosts 1, 2, … each at a site of its own, and one beacon.
    pub(crate) fn new(nats: &[Nat]) -> Self {
        let mut net = Self {
            now: Instant::from_millis(1000),
            hosts: BTreeMap::new(),
            beacons: BTreeMap::from([(beacon(1), BeaconBox::default())]),
            wire: BTreeMap::new(),
            serial: 0,
            cuts: BTreeSet::new(),
            next_port: 20_000,
            direct: BTreeMap::new(),
            is_hidden: false,
        };
        for (n, nat) in (1..).zip(nats) {
            net.add(n, n as u8, *nat);
        }
        net
    }

    pub(crate) fn add(&mut self, n: u32, site: u8, nat: Nat) {
        let node = configured(n, n as u8 + 100, NodeConfig::default());
        let host = Host {
            node,
            site,
            nat,
            mappings: BTreeMap::new(),
            last_port: 30_000 + 1000 * u16::from(site),
            events: Vec::new(),
            endpoint: None,
        };
        self.hosts.insert(n, host);
    }

    /// Names the beacons to every host and lets them answer.
    pub(crate) fn start(&mut self) {
        let beacons: Vec<_> = self.beacons.keys().copied().collect();
        let now = self.now;
        for host in self.hosts.values_mut() {
            let _ = host.node.listen(Port(80));
            host.node.set_beacons(now, beacons.clone());
        }
        self.run_for(10 * LATENCY);
    }

    pub(crate) fn of(&mut self, n: u32) -> &mut Node {
        &mut self.hosts.get_mut(&n).unwrap().node
    }

    /// The address of a host at its site.
    pub(crate) fn inside(&self, n: u32) -> SocketAddr {
        let host = &self.hosts[&n];
        match host.nat {
            Nat::Open => SocketAddr::from((outside(host.site), 4000)),
            _ => SocketAddr::from(([192, 168, host.site, n as u8], 4000)),
        }
    }

    /// The box of a host is restarted, and the host may be moved to another site.
    pub(crate) fn remap(&mut self, n: u32, site: u8) {
        let host = self.hosts.get_mut(&n).unwrap();
        (host.site, host.mappings) = (site, BTreeMap::new());
    }

    /// Others behind the same box use ports.
    pub(crate) fn waste(&mut self, n: u32, count: u16) {
        let host = self.hosts.get_mut(&n).unwrap();
        if let Nat::Sequential(step) = host.nat {
            host.last_port += count * step;
        }
    }

    fn map(&mut self, n: u32, to: SocketAddr) -> SocketAddr {
        let next = &mut self.next_port;
        let host = self.hosts.get_mut(&n).unwrap();
        let key = match host.nat {
            Nat::Open => return SocketAddr::from((outside(host.site), 4000)),
            Nat::Cone => None,
            Nat::Symmetric | Nat::Sequential(_) => Some(to),
        };
        let (port, peers) = host.mappings.entry(key).or_insert_with(|| {
            if let Nat::Sequential(step) = host.nat {
                host.last_port += step;
                return (host.last_port, BTreeSet::new());
            }
            *next += 7;
            (*next, BTreeSet::new())
        });
        peers.insert(to);
        SocketAddr::from((outside(host.site), *port))
    }

    /// The host that a datagram reaches.
    fn receiver(&self, from: SocketAddr, to: SocketAddr) -> Option<u32> {
        self.hosts.iter().find_map(|(n, host)| {
            let is_open = host.nat == Nat::Open && to == SocketAddr::from((outside(host.site), 4000));
            let is_mapped = host.mappings.values().any(|(port, peers)| {
                to == SocketAddr::from((outside(host.site), *port)) && peers.contains(&from)
            });
            (is_open || is_mapped).then_some(*n)
        })
    }

    fn send(&mut self, n: u32, to: SocketAddr, frame: Vec<u8>) {
        let local = self.hosts.keys().copied().find(|other| {
            self.inside(*other) == to && self.hosts[other].site == self.hosts[&n].site && *other != n
        });
        let from = if local.is_some() { self.inside(n) } else { self.map(n, to) };
        let hops = if local.is_some() { 1 } else { 2 };
        self.serial += 1;
        self.wire.insert((self.now + hops * LATENCY, self.serial), (from, to, frame));
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 65536];
        for n in self.hosts.keys().copied().collect::<Vec<_>>() {
            loop {
                let mut is_idle = true;
                while let Some(sent) =
                    self.hosts.get_mut(&n).unwrap().node.poll_transmit(self.now, &mut buffer, 16)
                {
                    is_idle = false;
                    let frames = buffer[..sent.len].chunks(sent.segment_size.unwrap_or(sent.len));
                    for frame in frames.map(<[u8]>::to_vec).collect::<Vec<_>>() {
                        self.send(n, sent.destination, frame);
                    }
                }
                while let Some(event) = self.of(n).poll_event() {
                    is_idle = false;
                    self.on_event(n, event);
                }
                if is_idle {
                    break;
                }
            }
        }
    }

    fn on_event(&mut self, n: u32, event: Event) {
        let now = self.now;
        match event {
            Event::RecordNeeded(id) => {
                let key = Identity::from_seed(&seed_of(id.0)).unwrap().public_key();
                let endpoint = self.hosts.get(&id.0).and_then(|host| host.endpoint);
                let endpoint = endpoint.filter(|_| !self.is_hidden);
                self.of(n).on_record(now, id, key, endpoint);
            }
            Event::KeyNeeded(id) => {
                let key = Identity::from_seed(&seed_of(id.0)).unwrap().public_key();
                self.of(n).on_key(now, id, Some(key));
            }
            Event::EndpointDiscovered(endpoint) => {
                self.hosts.get_mut(&n).unwrap().endpoint = Some(endpoint);
            }
            event => self.hosts.get_mut(&n).unwrap().events.push(event),
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, frame: &mut [u8]) {
        if self.beacons.contains_key(&to) {
            self.on_beacon(from, to, frame);
            return;
        }
        let local = self.hosts.keys().copied().find(|n| {
            let is_neighbour =
                |other: &u32| self.inside(*other) == from && self.hosts[other].site == self.hosts[n].site;
            self.inside(*n) == to && self.hosts.keys().any(is_neighbour)
        });
        let Some(n) = self.receiver(from, to).or(local) else { return };
        let sender = self.hosts.keys().copied().find(|other| {
            let host = &self.hosts[other];
            from == self.inside(*other) || from.ip() == SocketAddr::from((outside(host.site), 1)).ip()
        });
        if let Some(sender) = sender.filter(|_| !self.beacons.contains_key(&from)) {
            if self.cuts.contains(&(sender, n)) {
                return;
            }
            *self.direct.entry(sender).or_default() += 1;
        }
        let now = self.now;
        self.of(n).handle_datagram(now, from, frame);
    }

    fn on_beacon(&mut self, from: SocketAddr, at: SocketAddr, bytes: &[u8]) {
        let Some(own) = self.beacons.get_mut(&at).filter(|own| !own.is_down) else { return };
        let mut out = Vec::new();
        let mut answers = Vec::new();
        match Message::parse(bytes) {
            Ok(Message::Discover { node, .. }) => {
                own.nodes.insert(node.0, from);
                Message::DiscoverReply(from).emit(&mut out);
                answers.push((from, out));
            }
            Ok(Message::PunchRequest { requester, target }) => {
                own.punches += 1;
                own.nodes.insert(requester.0, from);
                if let Some(other) = own.nodes.get(&target.0) {
                    for (to, told) in [(from, *other), (*other, from)] {
                        let mut out = Vec::new();
                        Message::PunchCommand(told).emit(&mut out);
                        answers.push((to, out));
                    }
                }
            }
            Ok(Message::Relay { sender, destination, frame }) => {
                own.relayed += 1;
                let name = own.is_extended.then_some(destination);
                if let Some(to) = own.nodes.get(&destination.0) {
                    Message::RelayDeliver { sender, destination: name, frame }.emit(&mut out);
                    answers.push((*to, out));
                }
            }
            _ => {}
        }
        for (to, out) in answers {
            self.serial += 1;
            self.wire.insert((self.now + 2 * LATENCY, self.serial), (at, to, out));
        }
    }

    fn next(&self) -> Instant {
        let timer = self.hosts.values().filter_map(|host| host.node.poll_timeout()).min();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(arrival).min().expect("a node always has a deadline")
    }

    fn advance(&mut self, to: Instant) {
        self.now = self.now.max(to);
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, mut frame) = entry.remove();
            self.deliver(from, to, &mut frame);
        }
        for host in self.hosts.values_mut() {
            host.node.handle_timeout(self.now);
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let next = self.next();
            self.advance(next.min(end));
            if next >= end {
                self.drain();
                return;
            }
        }
    }

    /// Runs until `find` finds something, and returns how long it took.
    pub(crate) fn run_until<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut(&mut Self) -> Option<T>,
    ) -> (T, Duration) {
        let begin = self.now;
        loop {
            self.drain();
            if let Some(found) = find(self) {
                return (found, self.now.saturating_since(begin));
            }
            let next = self.next();
            assert!(next <= begin + limit, "not within {limit:?}");
            self.advance(next);
        }
    }

    pub(crate) fn take_event<T>(&mut self, n: u32, find: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let events = &mut self.hosts.get_mut(&n)?.events;
        let at = events.iter().position(|event| find(event).is_some())?;
        find(&events.remove(at))
    }

    pub(crate) fn dial(&mut self, from: u32, to: u32) -> ConnectionId {
        let now = self.now;
        let remote = Address::backbone(NodeId(to));
        self.of(from).connect(now, remote, Port(80), DialOptions::default()).unwrap()
    }

    /// Dials and waits until both ends are connected; also returns how long it took.
    pub(crate) fn connect(&mut self, from: u32, to: u32) -> ((ConnectionId, ConnectionId), Duration) {
        let dialled = self.dial(from, to);
        let is_connected = move |event: &Event| (*event == Event::Connected(dialled)).then_some(());
        let is_accepted = |event: &Event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        };
        let limit = Duration::from_secs(20);
        let ((), took) = self.run_until(limit, |net| net.take_event(from, is_connected));
        let (accepted, _) = self.run_until(limit, |net| net.take_event(to, is_accepted));
        ((dialled, accepted), took)
    }

    /// Sends data from one end and checks it at the other; returns how long it took.
    pub(crate) fn transfer(
        &mut self,
        (from, sender): (u32, ConnectionId),
        (to, receiver): (u32, ConnectionId),
        data: &[u8],
    ) -> Duration {
        self.transfer_with(((from, sender), (to, receiver)), data, |_, _| {})
    }

    /// The same, with a call after every step that gets the number of bytes received.
    pub(crate) fn transfer_with(
        &mut self,
        ((from, sender), (to, receiver)): ((u32, ConnectionId), (u32, ConnectionId)),
        data: &[u8],
        mut step: impl FnMut(&mut Self, usize),
    ) -> Duration {
        let (mut sent, mut received) = (0, Vec::<u8>::new());
        let ((), took) = self.run_until(Duration::from_secs(120), |net| {
            if sent < data.len() {
                sent += net.of(from).with_connection(sender, |c| c.send(&data[sent..]).unwrap()).unwrap();
            }
            let mut scratch = [0; 65536];
            while let Some(Ok(Some(n))) = net.of(to).with_connection(receiver, |c| c.recv(&mut scratch)) {
                if n == 0 {
                    break;
                }
                received.extend(&scratch[..n]);
            }
            step(net, received.len());
            (received.len() == data.len()).then_some(())
        });
        assert!(received == data, "each byte once and in order");
        took
    }

    /// What a host knows of a peer.
    pub(crate) fn peer(&mut self, n: u32, of: u32) -> PeerStatus {
        self.of(n).peers().find(|(id, _)| *id == NodeId(of)).expect("a peer").1
    }

    /// Whether frames go straight to a peer.
    pub(crate) fn is_direct(&mut self, n: u32, to: u32) -> bool {
        self.peer(n, to).route.is_some_and(|route| !route.is_relayed())
    }
}
