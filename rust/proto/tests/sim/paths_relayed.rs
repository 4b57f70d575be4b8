//! Paths through a beacon: dialling, streams, and what a beacon or its impostor cannot do.

use std::time::Duration;

use pilot_proto::{
    crypto::Suite,
    node::{DialOptions, Event},
    tunnel::Route,
    wire::{
        addr::{Address, NodeId, Port},
        beacon::Message,
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
        tunnel::Frame,
    },
};

use crate::{
    hand::{Hand, PEER, SELF, at, packet},
    nat_net::{LATENCY, Nat, NatNet, beacon},
    rng::pattern,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The beacon of the scripted peer.
pub(crate) const BEACON: u8 = 50;
const RELAY: Route = Route::Relayed {
    beacon: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, BEACON)), 4000),
    node: PEER,
};

/// The first byte needs two round trips through the relay: keys, then the handshake.
#[test]
fn a_node_that_cannot_be_reached_directly_is_dialled_through_the_relay() {
    for is_extended in [false, true] {
        let mut net = NatNet::new(&[Nat::Symmetric, Nat::Symmetric]);
        net.beacons.get_mut(&beacon(1)).unwrap().is_extended = is_extended;
        net.start();
        let ((a, b), took) = net.connect(1, 2);
        let relay_rtt = 8 * LATENCY;
        assert!(took <= 2 * relay_rtt + 100 * MS, "{took:?}");
        net.transfer((1, a), (2, b), &pattern(300_000));
        net.transfer((2, b), (1, a), &pattern(300_000));
        assert!(!net.is_direct(1, 2) && !net.is_direct(2, 1));
        assert_eq!(net.direct.values().sum::<usize>(), 0, "all of it through the beacon");
        let counters = net.of(1).stats().counters;
        assert!(counters.relayed_sent > 50 && counters.relayed_recv > 50);
    }
}

/// The registry knows the node, but no endpoint of it.
#[test]
fn a_node_without_an_endpoint_is_dialled_through_the_relay() {
    let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
    net.is_hidden = true;
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
}

#[test]
fn a_dial_before_the_beacon_answers_waits_for_it() {
    let mut net = NatNet::new(&[Nat::Symmetric, Nat::Symmetric]);
    net.is_hidden = true;
    net.beacons.get_mut(&beacon(1)).unwrap().is_down = true;
    net.start();
    let id = net.dial(1, 2);
    net.run_for(2 * SECOND);
    net.beacons.get_mut(&beacon(1)).unwrap().is_down = false;
    net.run_until(10 * SECOND, |net| {
        net.take_event(1, |event| (*event == Event::Connected(id)).then_some(()))
    });
}

#[test]
fn datagrams_pass_the_relay() {
    let mut net = NatNet::new(&[Nat::Symmetric, Nat::Symmetric]);
    net.start();
    let now = net.now;
    net.of(1).send_datagram(now, Port(5), Address::backbone(NodeId(2)), Port(9), b"hello").unwrap();
    net.run_until(5 * SECOND, |net| {
        net.take_event(2, |event| matches!(event, Event::Datagram { .. }).then_some(()))
    });
}

/// Nodes that reach each other through one beacon only go on when it is back.
#[test]
fn relayed_streams_survive_an_outage_of_the_only_beacon() {
    let mut net = NatNet::new(&[Nat::Symmetric, Nat::Symmetric]);
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    net.beacons.get_mut(&beacon(1)).unwrap().is_down = true;
    net.run_for(40 * SECOND);
    let own = net.beacons.get_mut(&beacon(1)).unwrap();
    // It has forgotten everybody.
    own.nodes.clear();
    own.is_down = false;
    let took = net.transfer((1, a), (2, b), &pattern(100_000));
    assert!(took <= 30 * SECOND, "{took:?}");
    assert_eq!(net.of(1).stats().connections, 1);
}

/// Home is the first beacon of the list that answers, and another when that one stops.
#[test]
fn the_next_beacon_takes_over_when_the_first_one_dies() {
    let mut net = NatNet::new(&[Nat::Symmetric, Nat::Symmetric]);
    net.beacons.insert(beacon(2), Default::default());
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    assert_eq!(net.peer(1, 2).route.unwrap().next_hop(), beacon(1));
    net.beacons.get_mut(&beacon(1)).unwrap().is_down = true;
    net.transfer((1, a), (2, b), &pattern(100_000));
    assert_eq!(net.peer(1, 2).route.unwrap().next_hop(), beacon(2));
    let home_of = |event: &Event| if let Event::HomeChanged(home) = event { Some(*home) } else { None };
    let homes: Vec<_> = core::iter::from_fn(|| net.take_event(1, home_of)).collect();
    assert_eq!(homes, [beacon(1), beacon(2)]);
}

/// A peer of each generation behind a beacon that answers.
impl Hand {
    pub(crate) fn relayed(old: Option<Suite>) -> Self {
        let mut hand = Self::new(old);
        hand.node.set_beacons(hand.now, vec![at(BEACON)]);
        hand.drain();
        let mut bytes = Vec::new();
        Message::DiscoverReply(at(2)).emit(&mut bytes);
        hand.deliver(at(BEACON), &bytes);
        hand.sent.clear();
        hand
    }

    /// Delivers a frame through a beacon.
    pub(crate) fn relay(&mut self, from: std::net::SocketAddr, frame: &[u8], destination: Option<NodeId>) {
        let mut bytes = Vec::new();
        Message::RelayDeliver { sender: PEER, destination, frame }.emit(&mut bytes);
        self.deliver(from, &bytes);
    }

    /// Frames in Relay messages since the last look.
    pub(crate) fn taken_from_relay(&mut self) -> Vec<Vec<u8>> {
        let (relayed, rest) =
            std::mem::take(&mut self.sent).into_iter().partition(|(to, _)| *to == at(BEACON));
        self.sent = rest;
        let frames = relayed.into_iter().filter_map(|(_, bytes)| match Message::parse(&bytes) {
            Ok(Message::Relay { sender, destination, frame }) => {
                assert_eq!((sender, destination), (SELF, PEER));
                Some(frame.to_vec())
            }
            _ => None,
        });
        frames.collect()
    }

    /// Answers pings that came through the beacon, and learns our key. Returns how many.
    pub(crate) fn answer_relayed(&mut self) -> usize {
        let pongs: Vec<_> = self.taken_from_relay().iter().filter_map(|frame| self.take(frame)).collect();
        for pong in &pongs {
            self.relay(at(BEACON), pong, None);
        }
        pongs.len()
    }

    fn route(&self) -> Option<Route> {
        self.node.peers().find(|(id, _)| *id == PEER).and_then(|(_, peer)| peer.route)
    }
}

/// Keys, suite detection and a stream with a peer of every generation.
#[test]
fn sessions_and_streams_of_each_generation_pass_the_relay() {
    for old in [None, Some(Suite::G2), Some(Suite::G1)] {
        let mut hand = Hand::relayed(old);
        let now = hand.now;
        hand.node.connect(now, Address::backbone(PEER), Port(80), DialOptions::default()).unwrap();
        hand.drain();
        assert!(
            hand.sent.iter().any(|(to, frame)| *to == at(1) && frame.starts_with(b"PILA")),
            "directly, too"
        );
        let hello = hand.taken_from_relay();
        assert!(matches!(Frame::parse(&hello[0]), Ok(Frame::SignedKey(_))), "at once");
        hand.take(&hello[0]);
        let key = hand.signed_key();
        hand.relay(at(BEACON), &key, None);
        assert_eq!(hand.answer_relayed(), 1, "the ping under the peer's suite");
        assert_eq!(hand.route(), Some(RELAY), "{old:?}");
        // The SYN follows by the same way, and a stream of the peer.
        assert!(hand.answer_relayed() <= 1);
        let syn = packet(Protocol::Stream, Flags::SYN, (50_000, 80), 1000);
        let frame = hand.seal(syn, &[]);
        hand.relay(at(BEACON), &frame, Some(SELF));
        hand.answer_relayed();
        let una = hand.first_number.wrapping_add(1);
        let ack =
            Header { ack: SeqNumber::new(una), ..packet(Protocol::Stream, Flags::ACK, (50_000, 80), 1001) };
        let frame = hand.seal(ack, &[]);
        hand.relay(at(BEACON), &frame, None);
        assert!(hand.accepted().is_some(), "{old:?}");
    }
}

/// A relayed frame proves that the peer is somewhere, not that it left.
#[test]
fn a_relayed_frame_does_not_move_a_peer_with_a_validated_address() {
    for old in [None, Some(Suite::G2), Some(Suite::G1)] {
        let mut hand = Hand::connected(old);
        hand.node.set_beacons(hand.now, vec![at(BEACON)]);
        let mut bytes = Vec::new();
        Message::DiscoverReply(at(2)).emit(&mut bytes);
        hand.deliver(at(BEACON), &bytes);
        for _ in 0..3 {
            let ping = packet(Protocol::Control, Flags::NONE, (5, 0), 1);
            let frame = hand.seal(ping, b"ping");
            hand.relay(at(BEACON), &frame, None);
        }
        assert_eq!(hand.taken_from_relay().len(), 3, "answered where they came from");
        assert_eq!((hand.route(), hand.endpoint()), (Some(at(1).into()), Some(at(1))), "{old:?}");
    }
}

#[test]
fn deliveries_that_no_beacon_of_ours_sent_or_that_lie_are_refused() {
    let mut hand = Hand::relayed(None);
    let key = hand.signed_key();
    let counters = |hand: &Hand| hand.node.stats().counters;
    hand.relay(at(66), &key, None);
    assert_eq!(counters(&hand).dropped_beacon, 1, "not from a beacon");
    hand.relay(at(BEACON), &key, Some(NodeId(77)));
    assert_eq!(counters(&hand).dropped_beacon, 2, "for another node");
    let mut bytes = Vec::new();
    Message::RelayDeliver { sender: NodeId(9), destination: None, frame: &key }.emit(&mut bytes);
    hand.deliver(at(BEACON), &bytes);
    assert_eq!(counters(&hand).dropped_misaddressed, 1, "of another node");
    // A beacon message in a beacon message.
    let mut inner = Vec::new();
    Message::RelayDeliver { sender: PEER, destination: None, frame: &key }.emit(&mut inner);
    hand.relay(at(BEACON), &inner, None);
    assert_eq!(counters(&hand).dropped_beacon, 3);
    for (frame, expected) in [(&b"PILP"[..], 4), (b"PILT and a packet", 4)] {
        hand.relay(at(BEACON), frame, None);
        assert_eq!(counters(&hand).dropped_beacon, expected);
    }
    assert_eq!(counters(&hand).dropped_plaintext, 1);
    hand.relay(at(BEACON), b"??", None);
    assert_eq!(counters(&hand).dropped_malformed, 1);
    assert_eq!((counters(&hand).relayed_recv, hand.node.stats().peers), (0, 0));
    assert!(hand.taken_from_relay().is_empty());
    hand.relay(at(BEACON), &key, Some(SELF));
    assert_eq!(counters(&hand).relayed_recv, 1);
}

/// Who can write a beacon's address as a source is a stranger, whatever node it claims to be.
#[test]
fn a_flood_of_relayed_keys_is_limited_per_claimed_node_and_in_total() {
    let mut hand = Hand::relayed(None);
    let junk = |n: u32| {
        let mut frame = b"PILK".to_vec();
        frame.extend(n.to_be_bytes());
        frame.extend([7; 32]);
        let mut bytes = Vec::new();
        Message::RelayDeliver { sender: NodeId(n), destination: None, frame: &frame }.emit(&mut bytes);
        bytes
    };
    for _ in 0..100 {
        hand.deliver(at(BEACON), &junk(9));
    }
    let of_one = hand.sent.len();
    assert!(of_one <= 4, "{of_one}");
    for n in 100..2000 {
        for _ in 0..4 {
            hand.deliver(at(BEACON), &junk(n));
        }
    }
    assert!(hand.sent.len() <= 200, "{}", hand.sent.len());
    assert_eq!(hand.node.stats().peers, 0);
}
