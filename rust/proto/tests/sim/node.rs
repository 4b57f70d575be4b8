//! Whole nodes in virtual time: key exchange, sealing, restart, invalid input.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use crate::rng::{Rng, pattern};
use pilot_proto::{
    config::NodeConfig,
    crypto::identity::Identity,
    node::{ConnectionId, DialOptions, Event, Node},
    time::Instant,
    transport::CloseReason,
    wire::addr::{Address, NodeId, Port},
};

const LATENCY: Duration = Duration::from_millis(5);

pub(crate) struct Net {
    pub(crate) now: Instant,
    nodes: BTreeMap<SocketAddr, Node>,
    events: BTreeMap<SocketAddr, VecDeque<Event>>,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    serial: u64,
    loss: u64,
    rng: Rng,
    seen: Vec<Vec<u8>>,
    /// Identity seeds that replace the original ones in the registry.
    pub(crate) seeds: BTreeMap<u32, [u8; 32]>,
    /// Endpoints that replace the original ones in the registry.
    pub(crate) moved: BTreeMap<u32, SocketAddr>,
}

pub(crate) fn at(n: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8], 4000))
}

pub(crate) fn seed_of(n: u32) -> [u8; 32] {
    [n as u8; 32]
}

fn node(n: u32, boot: u8) -> Node {
    configured(n, boot, NodeConfig::default())
}

pub(crate) fn configured(n: u32, boot: u8, config: NodeConfig) -> Node {
    let mut node = Node::new(Instant::ZERO, &seed_of(n), &[boot; 32], config).unwrap();
    node.set_address(Address::backbone(NodeId(n)));
    node
}

impl Net {
    pub(crate) fn new(count: u32) -> Self {
        let nodes = (1..=count).map(|n| (at(n), node(n, n as u8 + 100))).collect();
        Self {
            now: Instant::ZERO,
            nodes,
            events: BTreeMap::new(),
            wire: BTreeMap::new(),
            serial: 0,
            loss: 0,
            rng: Rng(7),
            seen: Vec::new(),
            seeds: BTreeMap::new(),
            moved: BTreeMap::new(),
        }
    }

    /// Replaces a node.
    pub(crate) fn replace(&mut self, n: u32, node: Node) {
        self.nodes.insert(at(n), node);
    }

    /// Datagrams in flight to an address without a node.
    pub(crate) fn sent_to(&self, address: SocketAddr) -> Vec<&[u8]> {
        let frames = self.wire.values().filter(|(_, to, _)| *to == address);
        frames.map(|(_, _, frame)| frame.as_slice()).collect()
    }

    pub(crate) fn of(&mut self, n: u32) -> &mut Node {
        self.nodes.get_mut(&at(n)).unwrap()
    }

    /// Moves a node to the address of another.
    pub(crate) fn relocate(&mut self, n: u32, place: u32) {
        let node = self.nodes.remove(&at(n)).unwrap();
        self.nodes.insert(at(place), node);
    }

    /// Crashes a node.
    pub(crate) fn remove(&mut self, n: u32) {
        self.nodes.remove(&at(n));
    }

    /// Sets the loss rate in percent; 100 also drops the datagrams in flight.
    pub(crate) fn set_loss(&mut self, percent: u64) {
        self.loss = percent;
        if percent == 100 {
            self.drain();
            self.wire.clear();
        }
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 65536];
        for (from, node) in &mut self.nodes {
            loop {
                let mut is_idle = true;
                while let Some(transmit) = node.poll_transmit(self.now, &mut buffer, 16) {
                    is_idle = false;
                    for frame in buffer[..transmit.len].chunks(transmit.segment_size.unwrap_or(transmit.len))
                    {
                        self.seen.push(frame.to_vec());
                        if self.rng.chance(self.loss) {
                            continue;
                        }
                        self.serial += 1;
                        let key = (self.now + LATENCY, self.serial);
                        self.wire.insert(key, (*from, transmit.destination, frame.to_vec()));
                    }
                }
                while let Some(event) = node.poll_event() {
                    is_idle = false;
                    if let Event::RecordNeeded(id) = event {
                        let seed = self.seeds.get(&id.0).copied().unwrap_or_else(|| seed_of(id.0));
                        let key = Identity::from_seed(&seed).unwrap().public_key();
                        if id.0 < 100 {
                            let endpoint = self.moved.get(&id.0).copied().unwrap_or(at(id.0));
                            node.on_record(self.now, id, key, Some(endpoint));
                        } else {
                            node.on_no_record(id);
                        }
                        continue;
                    }
                    if let Event::KeyNeeded(id) = event {
                        let seed = self.seeds.get(&id.0).copied().unwrap_or_else(|| seed_of(id.0));
                        let key = Identity::from_seed(&seed).unwrap().public_key();
                        node.on_key(self.now, id, (id.0 < 100).then_some(key));
                        continue;
                    }
                    self.events.entry(*from).or_default().push_back(event);
                }
                if is_idle {
                    break;
                }
            }
        }
    }

    /// Advances the time.
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

    /// Time of the next event.
    fn next(&self) -> Instant {
        let timer = self.nodes.values().filter_map(Node::poll_timeout).min();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(arrival).min().expect("a node always has a deadline")
    }

    fn advance(&mut self, to: Instant) {
        self.now = self.now.max(to);
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, mut frame) = entry.remove();
            if let Some(node) = self.nodes.get_mut(&to) {
                node.handle_datagram(self.now, from, &mut frame);
            }
        }
        for node in self.nodes.values_mut() {
            node.handle_timeout(self.now);
        }
    }

    pub(crate) fn run_until<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = self.now + limit;
        loop {
            self.drain();
            if let Some(found) = find(self) {
                return found;
            }
            let next = self.next();
            assert!(next <= end, "not within {limit:?}");
            self.advance(next);
        }
    }

    pub(crate) fn event<T>(&mut self, n: u32, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        self.run_until(Duration::from_secs(60), |net| {
            let queue = net.events.entry(at(n)).or_default();
            let position = queue.iter().position(|event| find(event).is_some())?;
            find(&queue.remove(position).unwrap())
        })
    }

    pub(crate) fn has_event(&self, n: u32, find: impl Fn(&Event) -> bool) -> bool {
        self.events.get(&at(n)).is_some_and(|queue| queue.iter().any(find))
    }

    pub(crate) fn connect(&mut self, from: u32, to: u32) -> (ConnectionId, ConnectionId) {
        let now = self.now;
        let dialled = self
            .of(from)
            .connect(now, Address::backbone(NodeId(to)), Port(80), DialOptions::default())
            .unwrap();
        let accepted = self.event(to, |event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        });
        self.event(from, |event| (*event == Event::Connected(dialled)).then_some(()));
        (dialled, accepted)
    }

    pub(crate) fn transfer(
        &mut self,
        (from, sender): (u32, ConnectionId),
        (to, receiver): (u32, ConnectionId),
        data: &[u8],
    ) {
        let (mut sent, mut received) = (0, Vec::<u8>::new());
        self.run_until(Duration::from_secs(600), |net| {
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
            (received.len() == data.len()).then_some(())
        });
        assert!(received == data);
    }
}

pub(crate) fn closed(id: ConnectionId) -> impl FnMut(&Event) -> Option<CloseReason> {
    move |event| match event {
        Event::Closed(closed, reason) if *closed == id => Some(*reason),
        _ => None,
    }
}

#[test]
fn two_nodes_talk_encrypted() {
    let mut net = Net::new(2);
    net.loss = 2;
    net.of(2).listen(Port(80)).unwrap();
    let (a, b) = net.connect(1, 2);
    let data = b"a secret that must not be seen ".repeat(10_000);
    net.transfer((1, a), (2, b), &data);
    net.transfer((2, b), (1, a), &data);
    assert!(net.seen.iter().all(|frame| !frame.windows(8).any(|part| part == b"a secret")));
    assert!(
        net.seen.iter().all(|frame| frame.starts_with(b"PILA")
            || frame.starts_with(b"PILS")
            || frame.starts_with(b"PILK"))
    );
}

#[test]
fn a_refused_port_and_an_unknown_node_fail_by_name() {
    let mut net = Net::new(2);
    let now = net.now;
    let refused =
        net.of(1).connect(now, Address::backbone(NodeId(2)), Port(81), DialOptions::default()).unwrap();
    assert_eq!(net.event(1, closed(refused)), CloseReason::Refused);
    let now = net.now;
    let unknown =
        net.of(1).connect(now, Address::backbone(NodeId(100)), Port(80), DialOptions::default()).unwrap();
    assert_eq!(net.event(1, closed(unknown)), CloseReason::Unreachable);
    let now = net.now;
    let silent =
        net.of(1).connect(now, Address::backbone(NodeId(50)), Port(80), DialOptions::default()).unwrap();
    assert_eq!(net.event(1, closed(silent)), CloseReason::Unreachable);
}

#[test]
fn a_node_talks_to_itself() {
    let mut net = Net::new(1);
    net.of(1).listen(Port(80)).unwrap();
    let (a, b) = net.connect(1, 1);
    net.transfer((1, a), (1, b), &pattern(200_000));
}

#[test]
fn simultaneous_dials_succeed() {
    let mut net = Net::new(2);
    net.of(1).listen(Port(80)).unwrap();
    net.of(2).listen(Port(80)).unwrap();
    let now = net.now;
    let a = net.of(1).connect(now, Address::backbone(NodeId(2)), Port(80), DialOptions::default()).unwrap();
    let b = net.of(2).connect(now, Address::backbone(NodeId(1)), Port(80), DialOptions::default()).unwrap();
    net.event(1, |event| (*event == Event::Connected(a)).then_some(()));
    net.event(2, |event| (*event == Event::Connected(b)).then_some(()));
}

#[test]
fn a_restarted_peer_breaks_its_connections_and_is_reachable_at_once() {
    for is_survivor_dialling in [true, false] {
        let mut net = Net::new(2);
        net.of(1).listen(Port(80)).unwrap();
        net.of(2).listen(Port(80)).unwrap();
        let (a, b) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &pattern(100_000));
        net.nodes.insert(at(2), node(2, 222));
        net.of(2).listen(Port(80)).unwrap();
        let begin = net.now;
        let (from, to) = if is_survivor_dialling { (1, 2) } else { (2, 1) };
        let (c, d) = net.connect(from, to);
        assert!(
            net.now.saturating_since(begin) < Duration::from_secs(1),
            "{is_survivor_dialling} {:?}",
            net.now.saturating_since(begin)
        );
        assert_eq!(net.event(1, closed(a)), CloseReason::PeerRestarted);
        net.transfer((from, c), (to, d), &pattern(100_000));
    }
}

#[test]
fn a_peer_restarted_during_the_key_exchange_is_found() {
    let mut net = Net::new(2);
    let now = net.now;
    net.of(2).connect(now, Address::backbone(NodeId(1)), Port(80), DialOptions::default()).unwrap();
    // Node 1 has the peer's key, but no proof that the peer is still reachable.
    net.run_until(Duration::from_secs(1), |net| {
        (net.of(1).stats().peers == 1 && net.of(1).stats().encrypted_peers == 0).then_some(())
    });
    net.drain();
    net.nodes.remove(&at(2));
    net.wire.clear();
    net.moved.insert(2, at(12));
    net.nodes.insert(at(12), node(2, 222));
    net.nodes.get_mut(&at(12)).unwrap().listen(Port(80)).unwrap();
    let now = net.now;
    let id = net.of(1).connect(now, Address::backbone(NodeId(2)), Port(80), DialOptions::default()).unwrap();
    net.event(1, |event| (*event == Event::Connected(id)).then_some(()));
}

/// Both lose their addresses in the same moment, as when a site's uplink changes; the registry learns the
/// new ones.
#[test]
fn two_peers_that_both_moved_find_each_other_and_keep_their_connections() {
    let mut net = Net::new(2);
    net.of(2).listen(Port(80)).unwrap();
    let (a, b) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    for (n, to) in [(1, 11), (2, 12)] {
        let node = net.nodes.remove(&at(n)).unwrap();
        net.nodes.insert(at(to), node);
        net.moved.insert(n, at(to));
    }
    let later = net.now + Duration::from_secs(2);
    net.run_until(Duration::from_secs(10), |net| (net.now >= later).then_some(()));
    let begin = net.now;
    let dialled =
        net.of(11).connect(begin, Address::backbone(NodeId(2)), Port(80), DialOptions::default()).unwrap();
    net.event(11, |event| (*event == Event::Connected(dialled)).then_some(()));
    // The registry is asked, both addresses are challenged, and SYN is retransmitted.
    assert!(net.now.saturating_since(begin) <= 4 * LATENCY, "{:?}", net.now.saturating_since(begin));
    for (n, other) in [(11, 12), (12, 11)] {
        let endpoints: Vec<_> = net.of(n).peers().map(|(_, peer)| peer.endpoint).collect();
        assert_eq!(endpoints, [Some(at(other))]);
    }
    net.transfer((11, a), (12, b), &pattern(200_000));
}

#[test]
fn datagrams_are_queued_until_the_session() {
    let mut net = Net::new(2);
    let now = net.now;
    net.of(1).send_datagram(now, Port(5), Address::backbone(NodeId(2)), Port(9), b"hello").unwrap();
    let (src, src_port, data) = net.event(2, |event| match event {
        Event::Datagram { src, src_port, data, .. } => Some((*src, *src_port, data.clone())),
        _ => None,
    });
    assert_eq!((src, src_port, &data[..]), (Address::backbone(NodeId(1)), Port(5), &b"hello"[..]));
}

#[test]
fn replayed_and_altered_frames_change_nothing() {
    let mut net = Net::new(2);
    net.of(2).listen(Port(80)).unwrap();
    let (a, b) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(50_000));
    let frames = std::mem::take(&mut net.seen);
    let before = net.of(2).stats().counters;
    let mut rng = Rng(3);
    for frame in &frames {
        let now = net.now;
        let mut copy = frame.clone();
        net.of(2).handle_datagram(now, at(99), &mut copy);
        let mut copy = frame.clone();
        let position = rng.below(copy.len() as u64) as usize;
        copy[position] ^= 1 << rng.below(8);
        net.of(2).handle_datagram(now, at(99), &mut copy);
        let mut copy = frame[..rng.below(frame.len() as u64) as usize].to_vec();
        net.of(2).handle_datagram(now, at(99), &mut copy);
    }
    let after = net.of(2).stats().counters;
    assert_eq!(after.opened, before.opened);
    assert!(after.dropped_replayed > before.dropped_replayed);
    assert!(after.dropped_unauthentic > before.dropped_unauthentic);
    net.transfer((1, a), (2, b), &pattern(50_000));
}

#[test]
fn random_bytes_are_dropped_and_bounded() {
    let mut net = Net::new(1);
    let mut rng = Rng(11);
    for round in 0..20_000 {
        let mut bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
        if round % 3 > 0 && bytes.len() >= 4 {
            bytes[..4].copy_from_slice([b"PILS", b"PILA", b"PILK", b"PILT"][rng.below(4) as usize]);
        }
        let now = net.now;
        let from = SocketAddr::from(([10, 1, 0, rng.below(250) as u8], 1));
        net.of(1).handle_datagram(now, from, &mut bytes);
    }
    let stats = net.of(1).stats();
    assert!(stats.peers <= NodeConfig::default().max_peers);
    assert_eq!(stats.counters.opened, 0);
    assert!(stats.counters.dropped_malformed > 0 && stats.counters.dropped_plaintext > 0);
}
