//! Migration of a node to another address.

use std::{net::SocketAddr, time::Duration};

use crate::node::Net;
use pilot_proto::{
    node::{DialOptions, Event},
    wire::{
        addr::{Address, NodeId, Port},
        beacon::Message,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// The registry still names the old address; peers learn the new one from a ping.
#[test]
fn peers_that_know_a_node_follow_it_to_its_new_address() {
    let mut net = Net::new(3);
    net.of(1).listen(Port(80)).unwrap();
    net.of(2).listen(Port(80)).unwrap();
    net.connect(1, 2);
    net.relocate(1, 9);
    let now = net.now;
    net.of(9).on_own_address(now);
    net.run_until(SECOND, |net| {
        let (_, peer) = net.of(2).peers().find(|(id, _)| *id == NodeId(1))?;
        (peer.endpoint == Some(SocketAddr::from(([10, 0, 0, 9], 4000)))).then_some(())
    });
    let now = net.now;
    net.of(2).connect(now, Address::backbone(NodeId(1)), Port(80), DialOptions::default()).unwrap();
    net.event(9, |event| matches!(event, Event::Accepted(_)).then_some(()));
    assert!(net.now <= now + SECOND);
}

/// A lost ping is retried.
#[test]
fn a_lost_ping_is_retried() {
    let mut net = Net::new(2);
    net.of(2).listen(Port(80)).unwrap();
    net.connect(1, 2);
    net.relocate(1, 9);
    let now = net.now;
    net.of(9).on_own_address(now);
    let mut buffer = vec![0; 65536];
    while net.of(9).poll_transmit(now, &mut buffer, 1).is_some() {}
    net.run_until(2 * SECOND, |net| {
        let (_, peer) = net.of(2).peers().find(|(id, _)| *id == NodeId(1))?;
        (peer.endpoint == Some(SocketAddr::from(([10, 0, 0, 9], 4000)))).then_some(())
    });
}

#[test]
fn a_node_without_sessions_sends_nothing() {
    let mut net = Net::new(2);
    let now = net.now;
    net.of(1).on_own_address(now);
    assert!(net.of(1).poll_transmit(now, &mut [0; 65536], 1).is_none());
}

/// After a known address change one reply suffices.
#[test]
fn after_a_move_the_next_beacon_reply_is_accepted() {
    let mut net = Net::new(1);
    let beacon = SocketAddr::from(([10, 0, 0, 200], 9001));
    let told = |net: &mut Net, port: u16| {
        let endpoint = SocketAddr::from(([192, 0, 2, 1], port));
        let mut reply = Vec::new();
        Message::DiscoverReply(endpoint).emit(&mut reply);
        let now = net.now;
        net.of(1).handle_datagram(now, beacon, &mut reply);
        core::iter::from_fn(|| net.of(1).poll_event())
            .any(|event| event == Event::EndpointDiscovered(endpoint))
    };
    let now = net.now;
    net.of(1).set_beacons(now, vec![beacon]);
    assert!(told(&mut net, 1));
    net.of(1).set_beacons(now, vec![beacon]);
    assert!(!told(&mut net, 2), "one reply moves nothing");
    net.of(1).on_own_address(now);
    assert!(told(&mut net, 2), "the beacon was asked at once");
}

/// The registry was asked before the peer came back: whoever dials then asks again, and so does a node
/// whose keys nobody answers.
#[test]
fn a_peer_restarted_elsewhere_is_found_by_dials() {
    for pause in [Duration::from_millis(200), Duration::from_millis(3500)] {
        for dials_before in [true, false] {
            let mut net = Net::new(2);
            net.of(2).listen(Port(80)).unwrap();
            net.moved.insert(2, SocketAddr::from(([10, 0, 0, 77], 4000)));
            let dial = |net: &mut Net| {
                let now = net.now;
                let target = Address::backbone(NodeId(2));
                net.of(1).connect(now, target, Port(80), DialOptions::default()).unwrap()
            };
            if dials_before {
                dial(&mut net);
            } else {
                let now = net.now;
                net.of(1).send_datagram(now, Port(9), Address::backbone(NodeId(2)), Port(9), b"x").unwrap();
            }
            net.run_for(pause);
            net.moved.clear();
            let now = net.now;
            let bound = if dials_before {
                5 * SECOND
            } else {
                dial(&mut net);
                SECOND
            };
            net.event(2, |event| matches!(event, Event::Accepted(_)).then_some(()));
            assert!(net.now <= now + bound, "after {:?}", net.now.saturating_since(now));
        }
    }
}
