//! What is sent to addresses that have proven nothing.

use super::*;

/// Bytes of datagrams with their IPv4 and UDP headers.
fn wire_bytes(datagrams: &[(SocketAddr, Vec<u8>)], to: SocketAddr) -> usize {
    datagrams.iter().filter(|(at, _)| *at == to).map(|(_, bytes)| bytes.len() + 28).sum()
}

fn is_reply(bytes: &[u8]) -> bool {
    bytes[0] == 0x02
}

#[test]
fn a_node_with_a_key_is_reached_once_it_has_returned_the_cookie() {
    let mut fixture = Fixture::new();
    let from = at(1, 4000);
    let first = discover(1, Some([1; 32]));
    let sent = fixture.send(from, &first);
    assert!(sent.len() == 1 && sent[0].1.len() <= first.len(), "no amplification");
    assert_eq!((fixture.place(1), fixture.beacon.holdings().nodes), (None, 1));
    let mut second = first;
    AddressCookie::in_reply(&sent[0].1).unwrap().emit(&mut second);
    // From elsewhere it proves nothing.
    fixture.send(at(1, 4001), &second);
    assert_eq!(fixture.place(1), None);
    let sent = fixture.send(from, &second);
    assert_eq!(sent, [(from, emitted(&Message::DiscoverReply(from)))]);
    assert_eq!(fixture.place(1), Some(from));
}

/// Whoever forges a victim's address makes the beacon send it one reply for each announcement, a command to
/// prove itself now and then, and nothing else.
#[test]
fn forged_sources_are_sent_next_to_nothing() {
    let mut fixture = Fixture::new();
    let victim = at(1, 4000);
    fixture.announce(2, at(2, 4000), 2, true);
    let mut to_victim = Vec::new();
    let mut forged = 0;
    for n in 0..1000_u32 {
        let announced = discover(1, None);
        forged += announced.len() + 28;
        to_victim.extend(fixture.send(victim, &announced));
        // Others ask for the forged node.
        to_victim.extend(fixture.send(at(2, 4000), &relay(2, 1, &[b"PILS".as_slice(), &[0; 1400]].concat())));
        to_victim.extend(fixture.send(at(2, 4000), &request(2, 1)));
        fixture.beacon.notify(fixture.now, NodeId(1), 1);
        to_victim.extend(fixture.sent());
        fixture.now += Duration::from_millis(u64::from(100 + n % 7));
    }
    let (replies, others): (Vec<_>, Vec<_>) =
        to_victim.into_iter().filter(|(to, _)| *to == victim).partition(|(_, bytes)| is_reply(bytes));
    assert_eq!(replies.len(), 1000);
    assert!(wire_bytes(&replies, victim) <= forged + 3 * 1000);
    // Challenges, one in 20 s.
    assert!(others.iter().all(|(_, bytes)| bytes.len() == 8 && bytes[0] == 0x04), "{others:?}");
    assert!(others.len() <= 7, "{}", others.len());
}

/// Nobody is made to punch at an address by a request with a forged source.
#[test]
fn forged_punch_requests_direct_nobody_at_the_victim() {
    let mut fixture = Fixture::new();
    let victim = at(1, 4000);
    fixture.announce(2, at(2, 4000), 2, true);
    for _ in 0..10 {
        let sent = fixture.send(victim, &request(1, 2));
        assert!(sent.iter().all(|(to, _)| *to == victim), "{sent:?}");
        assert!(wire_bytes(&sent, victim) <= 2 * 37);
        fixture.wait(1);
    }
    // A node that is known elsewhere cannot be asked for in its name.
    fixture.announce(1, at(3, 4000), 1, true);
    fixture.refuses("dropped_spoofed", victim, &request(1, 2));
    fixture.refuses("dropped_unknown", at(3, 4000), &request(1, 1));
    fixture.refuses("dropped_unknown", at(3, 4000), &request(1, 77));
    fixture.refuses("dropped_spoofed", at(3, 4000), &request(0, 2));
}

#[test]
fn punch_requests_are_limited_per_source_and_target() {
    let mut fixture = Fixture::new();
    for node in 1..=40 {
        fixture.announce(node, at(u8::try_from(node).unwrap(), 4000), 1, true);
    }
    let commands = |fixture: &mut Fixture, from: u32, target: u32| {
        fixture.send(at(u8::try_from(from).unwrap(), 4000), &request(from, target)).len()
    };
    let of_one: usize = (2..=40).map(|target| commands(&mut fixture, 1, target)).sum();
    assert_eq!(of_one, 2 * 20);
    fixture.wait(100);
    let at_one: usize = (2..=40).map(|from| commands(&mut fixture, from, 1)).sum();
    assert_eq!(at_one, 2 * 20);
    assert!(fixture.beacon.counters().dropped_rate >= 38);
}

#[test]
fn announcements_are_limited_per_source_and_leave_others_alone() {
    let mut fixture = Fixture::new();
    let mut answered = |host: u8, tries: u16| {
        (0..tries).filter(|port| !fixture.send(at(host, *port), &discover(5, None)).is_empty()).count()
    };
    assert_eq!(answered(1, 10_000), 2000);
    assert_eq!(answered(2, 10), 10);
}

/// Programs of one host share its address; each has the limits of a source.
#[test]
fn sockets_of_this_host_are_sources_of_their_own() {
    let mut fixture = Fixture::new();
    for node in 1..=3 {
        fixture.send(local(u16::try_from(node).unwrap()), &discover(node, None));
    }
    let commands = |fixture: &mut Fixture, from: u16, target: u32| {
        let requests = (0..100).map(|_| fixture.send(local(from), &request(u32::from(from), target)).len());
        requests.sum::<usize>()
    };
    assert_eq!(commands(&mut fixture, 1, 2), 2 * 20);
    assert_eq!(commands(&mut fixture, 3, 1), 2 * 20);
    assert_eq!(commands(&mut fixture, 2, 2), 0);
}

/// A node of another generation behind a NAT that maps each destination to another port.
#[test]
fn nodes_of_other_generations_prove_themselves_by_punching() {
    let mut fixture = Fixture::new();
    let (native, legacy) = (at(2, 4000), at(1, 4000));
    fixture.announce(2, native, 2, true);
    fixture.send(legacy, &discover(1, None));
    let sent = fixture.send(native, &request(2, 1));
    let challenge = sent.iter().find(|(to, _)| *to == legacy).unwrap();
    let Ok(Message::PunchCommand(secret)) = Message::parse(&challenge.1) else { panic!() };
    assert_eq!(secret.ip().to_string(), OURS);
    let port = PROBE_PORTS.iter().position(|port| *port == secret.port()).unwrap();
    fixture.beacon.handle_probe(fixture.now, port, at(1, 4321), b"PILT");
    assert_eq!(fixture.beacon.counters().dropped_probe, 1);
    fixture.beacon.handle_probe(fixture.now, port, at(1, 4321), b"PILP");
    // The punch that waited takes place.
    let sent = fixture.sent();
    assert!(
        sent.contains(&(legacy, command(native))) && sent.contains(&(native, command(legacy))),
        "{sent:?}"
    );
    assert_eq!(fixture.place(1), Some(legacy));
}

/// Without ports for proofs, a node of another generation is sent as much as it sends.
#[test]
fn without_a_proof_bytes_are_paid_with_bytes() {
    let mut fixture = Fixture::new();
    let (native, legacy) = (at(2, 4000), at(1, 4000));
    fixture.announce(2, native, 2, true);
    fixture.send(legacy, &discover(1, None));
    let frame = [b"PILA".as_slice(), &[0; 132]].concat();
    assert!(fixture.send(native, &relay(2, 1, &frame)).iter().all(|(_, bytes)| bytes[0] == 0x04));
    let sent = fixture.send(legacy, &relay(1, 2, &frame));
    assert_eq!(sent, [(native, delivered(1, &frame))]);
    assert_eq!(fixture.send(native, &relay(2, 1, &frame)), [(legacy, delivered(2, &frame))]);
    fixture.refuses("dropped_unproven", native, &relay(2, 1, &frame));
}

/// Ids of nodes with a key cannot be claimed from elsewhere, whatever is sent.
#[test]
fn forged_announcements_move_nothing() {
    let mut fixture = Fixture::new();
    fixture.announce(2, at(2, 4000), 2, true);
    let forger = at(6, 6666);
    for bytes in [
        discover(2, None),
        discover(2, Some(identity(2).public_key())),
        discover(2, Some([6; 32])),
        [discover(2, Some(identity(2).public_key())).as_slice(), b"PILV", &[0; 72]].concat(),
    ] {
        let sent = fixture.send(forger, &bytes);
        assert!(sent.len() == 1 && is_reply(&sent[0].1));
        assert_eq!(fixture.place(2), Some(at(2, 4000)));
    }
    fixture.refuses("dropped_spoofed", forger, &relay(2, 2, b"PILS"));
}
