//! Port policies of networks: dials, SYNs and datagrams, and policies that changed at the registry.

use std::time::Duration;

use pilot_proto::{
    node::{Caller, ConnectionId, DialOptions, Event, NodeError},
    transport::CloseReason,
    wire::addr::{Address, NetworkId, NodeId, Port},
};

use crate::node::{Net, closed};

const HOUR: Duration = Duration::from_secs(3600);
const NETWORK: NetworkId = NetworkId(7);

fn address(node: u32) -> Address {
    Address { network: NETWORK, node: NodeId(node) }
}

fn caller(node: u32) -> Caller {
    Caller { node: NodeId(node), network: NETWORK }
}

/// Two members of a network that admit each other; node 2 listens on two ports.
fn members() -> Net {
    let mut net = Net::new(2);
    let now = net.now;
    for node in [1, 2] {
        net.of(node).set_networks(now, [NETWORK]);
        net.of(node).on_admission(now, caller(3 - node), true, HOUR);
    }
    for port in [7, 80] {
        net.of(2).listen(Port(port)).unwrap();
    }
    net
}

fn allow(net: &mut Net, node: u32, ports: &[u16]) {
    let now = net.now;
    net.of(node).set_network_policy(now, NETWORK, ports.iter().copied().map(Port));
}

fn dial(net: &mut Net, port: u16) -> Result<ConnectionId, NodeError> {
    let now = net.now;
    net.of(1).connect(now, address(2), Port(port), DialOptions::default())
}

fn connected(net: &mut Net, id: ConnectionId) {
    net.event(1, |event| (*event == Event::Connected(id)).then_some(()));
}

fn asked(net: &mut Net, node: u32) {
    net.event(node, |event| (*event == Event::PolicyNeeded(NETWORK)).then_some(()));
}

fn send(net: &mut Net, from: u32, src_port: u16, dst_port: u16) -> Result<(), NodeError> {
    let now = net.now;
    net.of(from).send_datagram(now, Port(src_port), address(3 - from), Port(dst_port), b"hello")
}

fn arrived(net: &mut Net, node: u32) -> Port {
    net.event(node, |event| match event {
        Event::Datagram { dst_port, .. } => Some(*dst_port),
        _ => None,
    })
}

#[test]
fn dials_to_other_ports_are_refused_where_they_are_made() {
    let mut net = members();
    allow(&mut net, 1, &[7]);
    assert_eq!(dial(&mut net, 80), Err(NodeError::Prohibited));
    let id = dial(&mut net, 7).unwrap();
    connected(&mut net, id);
    assert_eq!(send(&mut net, 1, 5, 80), Err(NodeError::Prohibited));
    send(&mut net, 1, 5, 7).unwrap();
    assert_eq!(arrived(&mut net, 2), Port(7));
    // No policy holds on the backbone.
    let now = net.now;
    net.of(1).connect(now, Address::backbone(NodeId(2)), Port(80), DialOptions::default()).unwrap();
}

#[test]
fn arrivals_at_other_ports_are_refused_whatever_the_sender_knows() {
    let mut net = members();
    allow(&mut net, 2, &[7]);
    let refused = dial(&mut net, 80).unwrap();
    assert_eq!(net.event(1, closed(refused)), CloseReason::Refused);
    send(&mut net, 1, 5, 80).unwrap();
    send(&mut net, 1, 5, 7).unwrap();
    assert_eq!(arrived(&mut net, 2), Port(7));
    assert_eq!(net.of(2).stats().counters.dropped_prohibited, 2);
    let id = dial(&mut net, 7).unwrap();
    connected(&mut net, id);
}

#[test]
fn the_answer_to_a_datagram_comes_to_the_port_that_asked() {
    let mut net = members();
    allow(&mut net, 1, &[7]);
    allow(&mut net, 2, &[7]);
    send(&mut net, 2, 7, 50_000).unwrap();
    assert_eq!(arrived(&mut net, 1), Port(50_000));
    assert_eq!(send(&mut net, 2, 50_000, 60_000), Err(NodeError::Prohibited));
    assert_eq!(send(&mut net, 2, 7, 1001), Err(NodeError::Prohibited));
}

#[test]
fn an_old_policy_refuses_nothing_before_it_was_asked_for_again() {
    let mut net = members();
    allow(&mut net, 1, &[7]);
    allow(&mut net, 2, &[7]);
    net.now += Duration::from_secs(60);
    // The dial waits for the answer, and then for that of the peer, which waits for its own.
    let id = dial(&mut net, 80).unwrap();
    asked(&mut net, 1);
    allow(&mut net, 1, &[7, 80]);
    net.event(2, |event| matches!(event, Event::AdmissionNeeded(..)).then_some(()));
    allow(&mut net, 2, &[7, 80]);
    let now = net.now;
    net.of(2).on_admission(now, caller(1), true, HOUR);
    connected(&mut net, id);
    net.now += Duration::from_secs(60);
    let id = dial(&mut net, 53).unwrap();
    asked(&mut net, 1);
    allow(&mut net, 1, &[7]);
    assert_eq!(net.event(1, closed(id)), CloseReason::Prohibited);
}

#[test]
fn a_narrower_policy_ends_the_connections_that_it_forbids() {
    let mut net = members();
    let (kept, lost) = (dial(&mut net, 7).unwrap(), dial(&mut net, 80).unwrap());
    connected(&mut net, kept);
    connected(&mut net, lost);
    allow(&mut net, 2, &[7]);
    assert_eq!(net.event(1, closed(lost)), CloseReason::Reset);
    assert_eq!(net.of(1).connections().filter(|(id, _)| *id == kept).count(), 1);
}

#[test]
fn nothing_arrives_at_a_port_that_an_unanswered_question_concerns() {
    let mut net = members();
    allow(&mut net, 2, &[7]);
    net.now += Duration::from_secs(60);
    dial(&mut net, 80).unwrap();
    net.event(2, |event| matches!(event, Event::AdmissionNeeded(..)).then_some(()));
    // The control plane could not ask, so what is known holds.
    let now = net.now;
    net.of(2).on_admission(now, caller(1), true, HOUR);
    net.run_until(HOUR, |net| (net.of(2).stats().counters.dropped_prohibited == 1).then_some(()));
}

#[test]
fn a_packet_for_a_network_that_we_joined_meanwhile_waits_until_we_know() {
    let mut net = Net::new(2);
    let now = net.now;
    net.of(1).set_networks(now, [NETWORK]);
    net.of(2).listen(Port(80)).unwrap();
    let id = dial(&mut net, 80).unwrap();
    let (caller_of_2, _) = net.event(2, |event| match event {
        Event::AdmissionNeeded(caller, key) => Some((*caller, *key)),
        _ => None,
    });
    assert_eq!(caller_of_2, caller(1));
    let before = net.now;
    net.of(2).set_networks(before, [NETWORK]);
    net.of(2).on_admission(before, caller(1), true, HOUR);
    connected(&mut net, id);
    let wait = net.now.saturating_since(before);
    assert!(wait < Duration::from_millis(100), "the first SYN was lost: {wait:?}");
}

#[test]
fn who_is_admitted_for_a_network_has_its_ports_on_the_backbone_as_well() {
    let mut net = members();
    net.of(2).set_private(true);
    let now = net.now;
    let on_backbone = Caller { node: NodeId(1), network: NetworkId::BACKBONE };
    net.of(2).limit_peer(NodeId(1), [Port(7)]);
    net.of(2).on_admission(now, on_backbone, true, HOUR);
    let ours = Address::backbone(NodeId(2));
    let refused = net.of(1).connect(now, ours, Port(80), DialOptions::default()).unwrap();
    assert_eq!(net.event(1, closed(refused)), CloseReason::Refused);
    let now = net.now;
    let id = net.of(1).connect(now, ours, Port(7), DialOptions::default()).unwrap();
    connected(&mut net, id);
    net.of(2).limit_peer(NodeId(1), []);
    let now = net.now;
    let id = net.of(1).connect(now, ours, Port(80), DialOptions::default()).unwrap();
    connected(&mut net, id);
}

#[test]
fn one_peer_asks_about_one_unknown_network_at_a_time() {
    let mut net = Net::new(2);
    let now = net.now;
    for network in 1..=50_u16 {
        let remote = Address { network: NetworkId(network), node: NodeId(2) };
        net.of(1).send_datagram(now, Port(5), remote, Port(9), b"hello").unwrap();
    }
    net.run_until(HOUR, |net| (net.of(2).stats().counters.dropped_networks == 49).then_some(()));
    let mut asked = Vec::new();
    while let Some(event) = net.of(2).poll_event() {
        asked.extend(matches!(event, Event::AdmissionNeeded(..)).then_some(()));
    }
    assert!(asked.len() <= 1);
}
