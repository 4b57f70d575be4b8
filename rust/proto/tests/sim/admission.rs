//! Admission to a private node and to networks, and silence towards refused peers.

use std::time::Duration;

use pilot_proto::{
    crypto::identity::Identity,
    node::{Caller, ConnectionId, DialOptions, Event},
    transport::CloseReason,
    wire::addr::{Address, NetworkId, NodeId, Port},
};

use crate::{
    node::{Net, closed, seed_of},
    rng::pattern,
};

const HOUR: Duration = Duration::from_secs(3600);

fn caller(node: u32) -> Caller {
    Caller { node: NodeId(node), network: NetworkId::BACKBONE }
}

/// Node 2 is private and listens; node 1 is public.
fn private_pair() -> Net {
    let mut net = Net::new(2);
    net.of(2).set_private(true);
    for port in [80, 444, 1001] {
        net.of(2).listen(Port(port)).unwrap();
    }
    net
}

fn dial(net: &mut Net, from: u32, to: Address, port: u16) -> ConnectionId {
    let now = net.now;
    net.of(from).connect(now, to, Port(port), DialOptions::default()).unwrap()
}

fn asked(net: &mut Net, n: u32) -> (Caller, [u8; 32]) {
    net.event(n, |event| match event {
        Event::AdmissionNeeded(caller, key) => Some((*caller, *key)),
        _ => None,
    })
}

fn connected(net: &mut Net, n: u32, id: ConnectionId) {
    net.event(n, |event| (*event == Event::Connected(id)).then_some(()));
}

fn accepted(net: &mut Net, n: u32) -> ConnectionId {
    net.event(n, |event| match event {
        Event::Accepted(id) => Some(*id),
        _ => None,
    })
}

fn decide(net: &mut Net, n: u32, caller: Caller, is_admitted: bool) {
    let now = net.now;
    net.of(n).on_admission(now, caller, is_admitted, HOUR);
}

#[test]
fn a_refused_peer_hears_nothing_and_is_queried_once() {
    let mut net = private_pair();
    let now = net.now;
    net.of(1).send_datagram(now, Port(5), Address::backbone(NodeId(2)), Port(9), b"let me in").unwrap();
    let id = dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    let key = Identity::from_seed(&seed_of(1)).unwrap().public_key();
    assert_eq!(asked(&mut net, 2), (caller(1), key));
    decide(&mut net, 2, caller(1), false);
    // A closed port is not answered either.
    let closed_port = dial(&mut net, 1, Address::backbone(NodeId(2)), 81);
    assert_eq!(net.event(1, closed(id)), CloseReason::SynTimeout);
    assert_eq!(net.event(1, closed(closed_port)), CloseReason::SynTimeout);
    let counters = net.of(2).stats().counters;
    assert!(counters.dropped_stranger_syns >= 10, "{counters:?}");
    assert_eq!(counters.dropped_stranger_datagrams, 1);
    let told = net.of(2).stats();
    assert_eq!(told.connections, 0);
    assert!(!net.has_event(2, |event| matches!(event, Event::AdmissionNeeded(..))));
}

#[test]
fn an_admitted_peer_sees_no_loss() {
    let mut net = private_pair();
    let id = dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    let now = net.now;
    net.of(1).send_datagram(now, Port(5), Address::backbone(NodeId(2)), Port(9), b"hello").unwrap();
    asked(&mut net, 2);
    let before = net.now;
    decide(&mut net, 2, caller(1), true);
    connected(&mut net, 1, id);
    accepted(&mut net, 2);
    let wait = net.now.saturating_since(before);
    assert!(wait < Duration::from_millis(100), "the first SYN was lost: {wait:?}");
    net.event(2, |event| matches!(event, Event::Datagram { .. }).then_some(()));
    let (a, b) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    assert_eq!(net.of(2).stats().counters.dropped_stranger_syns, 0);
}

#[test]
fn a_dialled_peer_may_call_back_to_two_ports_for_a_while() {
    let mut net = private_pair();
    net.of(1).listen(Port(80)).unwrap();
    net.connect(2, 1);
    for port in [444, 1001] {
        let id = dial(&mut net, 1, Address::backbone(NodeId(2)), port);
        connected(&mut net, 1, id);
    }
    // The refusal applies to other ports as well.
    dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    asked(&mut net, 2);
    decide(&mut net, 2, caller(1), false);
    let id = dial(&mut net, 1, Address::backbone(NodeId(2)), 444);
    connected(&mut net, 1, id);
    net.now += Duration::from_secs(300);
    let late = dial(&mut net, 1, Address::backbone(NodeId(2)), 444);
    assert_eq!(net.event(1, closed(late)), CloseReason::SynTimeout);
}

#[test]
fn expect_call_admits_a_peer_without_a_dial() {
    let mut net = private_pair();
    let now = net.now;
    net.of(2).expect_call(now, NodeId(1));
    let id = dial(&mut net, 1, Address::backbone(NodeId(2)), 444);
    connected(&mut net, 1, id);
}

#[test]
fn verdicts_expire_and_dismissal_resets_both_sides() {
    let mut net = private_pair();
    decide(&mut net, 2, caller(1), true);
    let (a, b) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(10_000));
    let now = net.now;
    net.of(2).dismiss(now, NodeId(1));
    assert_eq!(net.event(2, closed(b)), CloseReason::Aborted);
    let now = net.now;
    net.of(2).close(now, b);
    assert_eq!(net.event(1, closed(a)), CloseReason::Reset);
    net.run_until(HOUR, |net| (net.of(2).stats().peers == 0).then_some(()));
    dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    assert_eq!(asked(&mut net, 2).0, caller(1));
    decide(&mut net, 2, caller(1), true);
    net.now += HOUR;
    dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    assert_eq!(asked(&mut net, 2).0, caller(1));
}

#[test]
fn held_packets_are_bounded() {
    let mut net = private_pair();
    for n in 0..50_u8 {
        let now = net.now;
        net.of(1).send_datagram(now, Port(5), Address::backbone(NodeId(2)), Port(9), &[n]).unwrap();
    }
    asked(&mut net, 2);
    net.run_until(HOUR, |net| (net.of(2).stats().counters.dropped_limited >= 46).then_some(()));
    decide(&mut net, 2, caller(1), true);
    for n in 0..4_u8 {
        net.event(2, |event| match event {
            Event::Datagram { data, .. } => (data[..] == [n]).then_some(()),
            _ => None,
        });
    }
}

#[test]
fn only_members_reach_a_network() {
    let mut net = private_pair();
    net.of(2).set_private(false);
    let network = NetworkId(7);
    let address = Address { network, node: NodeId(2) };
    let outside = dial(&mut net, 1, address, 80);
    // We may have become a member meanwhile, so the control plane is asked.
    assert_eq!(asked(&mut net, 2).0, Caller { node: NodeId(1), network });
    decide(&mut net, 2, Caller { node: NodeId(1), network }, false);
    assert_eq!(net.event(1, closed(outside)), CloseReason::SynTimeout);
    assert!(net.of(2).stats().counters.dropped_networks > 0);
    let now = net.now;
    net.of(1).set_networks(now, [network]);
    net.of(2).set_networks(now, [network]);
    let inside = dial(&mut net, 1, address, 80);
    let member = Caller { node: NodeId(1), network };
    assert_eq!(asked(&mut net, 2).0, member);
    decide(&mut net, 2, member, true);
    connected(&mut net, 1, inside);
    let accepted = accepted(&mut net, 2);
    // The backbone stays open to everybody, and leaving the network ends its connections.
    let (a, b) = net.connect(1, 2);
    let now = net.now;
    net.of(2).set_networks(now, []);
    assert_eq!(net.event(2, closed(accepted)), CloseReason::Aborted);
    assert_eq!(net.event(1, closed(inside)), CloseReason::Reset);
    net.transfer((1, a), (2, b), &pattern(10_000));
}

#[test]
fn a_rotated_key_ends_the_old_sessions_and_verdicts() {
    let mut net = private_pair();
    decide(&mut net, 2, caller(1), true);
    let (a, b) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(10_000));
    let seed = [77; 32];
    net.seeds.insert(1, seed);
    net.of(1).set_identity(&seed).unwrap();
    assert_eq!(net.event(2, closed(b)), CloseReason::PeerRestarted);
    assert_eq!(net.of(2).stats().counters.rekeyed, 1);
    dial(&mut net, 1, Address::backbone(NodeId(2)), 80);
    let key = Identity::from_seed(&seed).unwrap().public_key();
    assert_eq!(asked(&mut net, 2), (caller(1), key));
    decide(&mut net, 2, caller(1), true);
    accepted(&mut net, 2);
    let (c, d) = net.connect(1, 2);
    net.transfer((1, c), (2, d), &pattern(10_000));
}

#[test]
fn a_key_that_the_registry_does_not_name_changes_nothing() {
    let mut net = private_pair();
    decide(&mut net, 2, caller(1), true);
    let (a, b) = net.connect(1, 2);
    net.of(1).set_identity(&[66; 32]).unwrap();
    net.transfer((1, a), (2, b), &pattern(100_000));
    assert_eq!(net.of(2).stats().counters.rekeyed, 0);
}
