//! Gossip between beacons.

use super::*;
use crate::beacon::routes::ROUTE_TTL;

fn other(n: u8) -> SocketAddr {
    at(200 + n, 9001)
}

fn sync(id: u32, nodes: &[u32]) -> Vec<u8> {
    let nodes: Vec<u8> = nodes.iter().flat_map(|node| node.to_be_bytes()).collect();
    emitted(&Message::Sync { beacon: id, nodes: &nodes })
}

/// A beacon with node 1, beside two others.
fn meshed() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.beacon.set_beacons(fixture.now, [other(1), other(2)]);
    fixture.announce(1, at(1, 4000), 1, true);
    fixture
}

#[test]
fn lists_are_taken_from_beacons_of_the_registry_only() {
    let mut fixture = meshed();
    for from in [at(3, 9001), at(201, 9002), local(9001)] {
        fixture.refuses("dropped_sync", from, &sync(9, &[7]));
    }
    assert_eq!(fixture.beacon.holdings().routes, 0);
    fixture.refuses("dropped_unknown", at(1, 4000), &relay(1, 7, b"PILS"));
    fixture.send(other(1), &sync(9, &[7]));
    assert_eq!(fixture.send(at(1, 4000), &relay(1, 7, b"PILS")), [(other(1), relay(1, 7, b"PILS"))]);
    assert_eq!(fixture.beacon.counters().forwarded, 1);
}

#[test]
fn nodes_that_are_here_are_here_whatever_others_say() {
    let mut fixture = meshed();
    fixture.announce(2, at(2, 4000), 2, true);
    fixture.send(other(1), &sync(9, &[2]));
    assert_eq!(fixture.place(2), Some(at(2, 4000)));
    // Until they are silent, and then they may have moved.
    fixture.wait(80);
    fixture.send(other(1), &sync(9, &[2]));
    assert_eq!(fixture.place(2), Some(other(1)));
    fixture.announce(2, at(2, 4000), 2, true);
    assert_eq!(fixture.place(2), Some(at(2, 4000)));
}

#[test]
fn routes_expire() {
    let mut fixture = meshed();
    fixture.send(other(1), &sync(9, &[7]));
    fixture.now += ROUTE_TTL;
    fixture.announce(1, at(1, 4000), 1, true);
    fixture.refuses("dropped_unknown", at(1, 4000), &relay(1, 7, b"PILS"));
}

#[test]
fn a_forwarded_frame_is_delivered_and_not_forwarded_again() {
    let mut fixture = meshed();
    assert_eq!(
        fixture.send(other(1), &relay(8, 1, b"PILS")),
        [(at(1, 4000), delivered(8, b"PILS"))],
        "a node of another beacon, before that has told of it"
    );
    // Both say that the other has it.
    fixture.send(other(2), &sync(9, &[7]));
    fixture.refuses("dropped_loop", other(1), &relay(8, 7, b"PILS"));
    fixture.refuses("dropped_unknown", other(1), &relay(8, 6, b"PILS"));
    // Nobody but beacons forwards, and not in the name of nodes that are here.
    fixture.refuses("dropped_spoofed", at(3, 9001), &relay(8, 1, b"PILS"));
    fixture.refuses("dropped_spoofed", other(1), &relay(1, 1, b"PILS"));
}

#[test]
fn every_beacon_is_told_every_ten_seconds_in_parts() {
    let mut fixture = meshed();
    for node in 1..=300 {
        fixture.announce(node, local(4000), 1, false);
    }
    fixture.beacon.handle_timeout(fixture.now);
    let first = fixture.sent();
    let sizes: Vec<_> = first.iter().map(|(to, bytes)| (*to, (bytes.len() - 7) / 4)).collect();
    assert_eq!(sizes, [(other(1), 290), (other(2), 290), (other(1), 10), (other(2), 10)]);
    assert!(first.iter().all(|(_, bytes)| bytes.len() <= 1200));
    fixture.wait(9);
    fixture.beacon.handle_timeout(fixture.now);
    assert!(fixture.sent().is_empty());
    fixture.wait(1);
    assert!(fixture.beacon.poll_timeout().is_some_and(|due| due <= fixture.now));
    fixture.beacon.handle_timeout(fixture.now);
    assert_eq!(fixture.sent(), first);
    // A beacon that is alone tells nobody.
    fixture.beacon.set_beacons(fixture.now, []);
    fixture.wait(10);
    fixture.beacon.handle_timeout(fixture.now);
    assert!(fixture.sent().is_empty());
}
