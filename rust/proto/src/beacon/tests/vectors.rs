//! The published vectors, byte by byte: what nodes of other generations see.

use serde_json::Value;

use super::*;

fn file() -> Value {
    serde_json::from_str(include_str!("../../../../../tests/vectors/beacon.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn endpoint(case: &Value) -> SocketAddr {
    let port = case["port"].as_u64().unwrap().try_into().unwrap();
    SocketAddr::new(case["ip"].as_str().unwrap().parse().unwrap(), port)
}

#[test]
fn every_discover_is_answered_with_every_endpoint() {
    let file = file();
    let plain = file["discover"].as_array().unwrap().iter().chain([&file["discover_ex_g2"]]);
    for case in plain {
        for reply in file["discover_reply"].as_array().unwrap() {
            let mut fixture = Fixture::new();
            let from = endpoint(reply);
            assert_eq!(fixture.send(from, &bytes(&case["wire"])), [(from, bytes(&reply["wire"]))]);
        }
    }
    // The reply to a key begins alike; nodes that know no cookie ignore what follows.
    for reply in file["discover_reply"].as_array().unwrap() {
        let from = endpoint(reply);
        let sent = Fixture::new().send(from, &bytes(&file["discover_with_pubkey_g2beacon"]["wire"]));
        let expected = bytes(&reply["wire"]);
        assert!(sent.len() == 1 && sent[0].0 == from && sent[0].1.starts_with(&expected));
        assert_eq!(sent[0].1.len(), expected.len() + AddressCookie::LEN);
    }
}

/// A node of another generation, which proves its address by punching where it is told to.
fn prove(fixture: &mut Fixture, node: u32, from: SocketAddr) {
    fixture.send(from, &discover(node, None));
    fixture.beacon.notify(fixture.now, NodeId(node), 1);
    let sent = fixture.sent();
    let [(to, challenge)] = &sent[..] else { panic!("{sent:?}") };
    let Ok(Message::PunchCommand(secret)) = Message::parse(challenge) else { panic!("{challenge:?}") };
    assert_eq!(*to, from);
    let port = PROBE_PORTS.iter().position(|port| *port == secret.port()).unwrap();
    fixture.beacon.handle_probe(fixture.now, port, from, b"PILP");
    assert_eq!(fixture.sent(), [(from, vec![0x0a, 1])], "what waited for the proof");
}

#[test]
fn punch_requests_are_answered_with_every_endpoint() {
    let file = file();
    let commands = file["punch_command"].as_array().unwrap();
    for form in ["punch_request", "punch_request_with_grant_g2"] {
        for (first, second) in commands.iter().zip(commands.iter().skip(1)) {
            let (a, b) = (endpoint(first), endpoint(second));
            let mut fixture = Fixture::new();
            prove(&mut fixture, 42, a);
            prove(&mut fixture, 0x0102_0304, b);
            let sent = fixture.send(a, &bytes(&file[form]["wire"]));
            assert_eq!(sent, [(a, bytes(&second["wire"])), (b, bytes(&first["wire"]))]);
        }
    }
}

#[test]
fn relayed_frames_are_delivered_in_the_form_that_their_receiver_knows() {
    let file = file();
    let wire = |name: &str| bytes(&file[name]["wire"]);
    let (a, b) = (at(1, 4000), at(2, 4000));
    let mut fixture = Fixture::new();
    prove(&mut fixture, 42, a);
    prove(&mut fixture, 0x0102_0304, b);
    assert_eq!(fixture.send(a, &wire("relay")), [(b, wire("relay_deliver"))]);
    fixture.send(b, &[&[0x08][..], &0x0102_0304_u32.to_be_bytes()].concat());
    assert_eq!(fixture.send(a, &wire("relay")), [(b, wire("relay_deliver_dest_g2"))]);
}

#[test]
fn lists_of_nodes_are_told_and_taken() {
    let file = file();
    let (other, node) = (at(7, 9001), at(1, 4000));
    for case in file["sync"].as_array().unwrap() {
        let mut fixture = Fixture::of(case["beacon_id"].as_u64().unwrap().try_into().unwrap());
        let nodes: Vec<u32> = serde_json::from_value(case["nodes"].clone()).unwrap();
        for id in &nodes {
            fixture.announce(*id, node, 1, false);
        }
        fixture.beacon.set_beacons(fixture.now, [other]);
        fixture.beacon.handle_timeout(fixture.now);
        assert_eq!(fixture.sent(), [(other, bytes(&case["wire"]))]);
        let mut taker = Fixture::of(1);
        taker.beacon.set_beacons(taker.now, [other]);
        assert!(taker.send(other, &bytes(&case["wire"])).is_empty());
        assert_eq!(taker.beacon.holdings().routes, nodes.len());
        // A frame for one of them goes there as it is.
        if let [_, _, id] = nodes[..] {
            taker.announce(42, node, 1, false);
            let frame = relay(42, id, b"PILS");
            assert_eq!(taker.send(node, &frame), [(other, frame)]);
        }
    }
}

#[test]
fn notices_are_sent_as_published() {
    let file = file();
    let mut fixture = Fixture::new();
    fixture.announce(42, at(1, 4000), 1, false);
    fixture.beacon.notify(fixture.now, NodeId(42), 1);
    assert_eq!(fixture.sent(), [(at(1, 4000), bytes(&file["notify_g2"]["wire"]))]);
    assert_eq!(bytes(&file["punch_packet"]), crate::wire::tunnel::PUNCH);
}

#[test]
fn malformed_messages_are_counted() {
    let file = file();
    for case in file["reject"].as_array().unwrap().iter().filter(|case| case["wire"].is_string()) {
        Fixture::new().refuses("dropped_malformed", at(1, 4000), &bytes(&case["wire"]));
    }
    for code in 0..=255 {
        Fixture::new().send(at(1, 4000), &[code]);
    }
}
