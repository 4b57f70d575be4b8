//! Relayed frames, and who may have them relayed.

use super::*;

fn pair() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.announce(1, at(1, 4000), 1, true);
    fixture.announce(2, at(2, 4000), 2, true);
    fixture
}

#[test]
fn a_batch_leaves_as_a_batch() {
    let mut fixture = pair();
    let frames: Vec<_> = (0..9_u8).map(|n| [b"PILS".as_slice(), &[n; 1200]].concat()).collect();
    let short = [b"PILS".as_slice(), &[9; 100]].concat();
    let mut batch: Vec<u8> = frames.iter().flat_map(|frame| relay(1, 2, frame)).collect();
    batch.extend(relay(1, 2, &short));
    let stride = 9 + 1204;
    let arrival = Arrival { from: at(1, 4000), local: None, stride };
    fixture.beacon.handle_batch(fixture.now, arrival, &batch);
    let mut buf = Vec::new();
    let transmit = fixture.beacon.poll_transmit(fixture.now, &mut buf, 64).unwrap();
    assert_eq!((transmit.destination, transmit.segment_size), (at(2, 4000), Some(5 + 1204)));
    let expected: Vec<_> = frames.iter().chain([&short]).flat_map(|frame| delivered(1, frame)).collect();
    assert_eq!(buf, expected);
    assert_eq!(fixture.beacon.poll_transmit(fixture.now, &mut buf, 64), None);
    assert_eq!(fixture.beacon.counters().relayed, 10);
    // A driver without GSO takes them one by one.
    fixture.beacon.handle_batch(fixture.now, arrival, &batch);
    for frame in frames.iter().chain([&short]) {
        let transmit = fixture.beacon.poll_transmit(fixture.now, &mut buf, 1).unwrap();
        assert_eq!((transmit.segment_size, &buf), (None, &delivered(1, frame)));
    }
    assert_eq!(fixture.beacon.holdings().waiting_bytes, 0);
}

/// Frames that keep their length leave as they came but for their code, whatever their number.
#[test]
fn long_batches_of_the_extended_form_are_whole_and_in_order() {
    let mut fixture = pair();
    fixture.send(at(2, 4000), &[&[0x08][..], &2_u32.to_be_bytes()].concat());
    for count in [1_u8, 2, 16, 53, 54, 120, 200] {
        let datagrams: Vec<_> = (0..count).map(|n| relay(1, 2, &[n.max(0x10); 1222])).collect();
        let mut batch = datagrams.concat();
        batch.extend(relay(1, 2, b"PILS short"));
        let arrival = Arrival { from: at(1, 4000), local: None, stride: 1231 };
        fixture.beacon.handle_batch(fixture.now, arrival, &batch);
        let mut expected = datagrams;
        expected.push(relay(1, 2, b"PILS short"));
        for datagram in &mut expected {
            datagram[0] = 0x09;
        }
        let sent: Vec<_> = fixture.sent().into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(sent, expected, "{count}");
    }
    assert_eq!(fixture.beacon.counters().dropped_pair, 0);
}

#[test]
fn only_who_announced_itself_from_there_is_a_sender() {
    let mut fixture = pair();
    let frame = relay(1, 2, b"PILS");
    assert_eq!(fixture.send(at(1, 4000), &frame), [(at(2, 4000), delivered(1, b"PILS"))]);
    for from in [at(1, 4001), at(3, 4000), at(2, 4000)] {
        fixture.refuses("dropped_spoofed", from, &frame);
    }
    fixture.refuses("dropped_spoofed", at(3, 4000), &relay(3, 2, b"PILS"));
    fixture.refuses("dropped_unknown", at(1, 4000), &relay(1, 3, b"PILS"));
    fixture.refuses("dropped_malformed", at(1, 4000), &relay(1, 2, b""));
    // In one batch, too, each is judged by itself.
    let batch = [relay(1, 2, b"PILS"), relay(3, 2, b"PILS"), relay(1, 2, b"PILT")].concat();
    let arrival = Arrival { from: at(1, 4000), local: None, stride: frame.len() };
    fixture.beacon.handle_batch(fixture.now, arrival, &batch);
    let sent: Vec<_> = fixture.sent().into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(sent, [delivered(1, b"PILS"), delivered(1, b"PILT")]);
}

#[test]
fn messages_of_beacons_to_nodes_are_not_served() {
    let mut fixture = pair();
    for bytes in [
        emitted(&Message::DiscoverReply(at(3, 1))),
        command(at(3, 1)),
        delivered(1, b"PILS"),
        emitted(&Message::Notify { kind: 1 }),
    ] {
        fixture.refuses("dropped_unserved", at(1, 4000), &bytes);
    }
}

/// A node that moves is found at its new address as soon as it has proven that.
#[test]
fn a_node_that_moves_takes_its_frames_along() {
    let mut fixture = pair();
    fixture.send(at(5, 1), &discover(2, Some(identity(2).public_key())));
    assert_eq!(fixture.place(2), Some(at(2, 4000)), "not proven yet");
    fixture.announce(2, at(5, 1), 2, true);
    assert_eq!(fixture.place(2), Some(at(5, 1)));
}

/// Who has the key of a node, which is public, cannot have its frames.
#[test]
fn a_node_cannot_be_taken_over_without_its_private_key() {
    let mut fixture = pair();
    let attacker = at(6, 6666);
    for from in [attacker, local(6666)] {
        fixture.announce(2, from, 2, false);
        fixture.announce(2, from, 6, true);
        fixture.announce(2, from, 6, false);
        fixture.send(from, &discover(2, None));
    }
    assert_eq!(fixture.place(2), Some(at(2, 4000)));
    assert!(fixture.beacon.counters().dropped_key >= 5, "{:?}", fixture.beacon.counters());
    // A signature for one address serves for no other, and a forged one for none.
    let victim = identity(2);
    let first = discover(2, Some(victim.public_key()));
    let replies = fixture.send(attacker, &first);
    let cookie = AddressCookie::in_reply(&replies[0].1).unwrap();
    let mut forged = first.clone();
    cookie.emit(&mut forged);
    forged.extend([7; 64]);
    fixture.send(attacker, &forged);
    let mut replayed = first;
    AddressCookie([3; 8]).emit(&mut replayed);
    replayed.extend(victim.sign(&AddressCookie([3; 8]).signed_text(NodeId(2))).unwrap());
    fixture.send(attacker, &replayed);
    assert_eq!(fixture.place(2), Some(at(2, 4000)));
}

#[test]
fn a_restarted_beacon_relays_as_soon_as_nodes_announce_themselves() {
    let mut fixture = Fixture::new();
    fixture.refuses("dropped_spoofed", at(1, 4000), &relay(1, 2, b"PILS"));
    fixture.announce(1, at(1, 4000), 1, true);
    fixture.announce(2, at(2, 4000), 2, true);
    assert_eq!(fixture.send(at(1, 4000), &relay(1, 2, b"PILS")).len(), 1);
}

/// The tick of the beacon's clock, and what it forgets by it.
#[test]
fn silent_nodes_are_forgotten() {
    let mut fixture = pair();
    assert_eq!(fixture.beacon.holdings().nodes, 2);
    while let Some(due) = fixture.beacon.poll_timeout() {
        fixture.now = due;
        fixture.beacon.handle_timeout(due);
    }
    assert_eq!(fixture.beacon.holdings().nodes, 0);
    assert!(fixture.now >= Instant::from_millis(1_600_000), "{:?}", fixture.now);
}

/// Whether a buffer is taken as it is or copied, the same datagrams leave, and the same is counted.
#[test]
fn a_buffer_is_relayed_as_a_batch_is() {
    let frame = |len: usize| [b"PILS".as_slice(), &vec![5; len]].concat();
    let run = |sender, destination, count: usize, len| relay(sender, destination, &frame(len)).repeat(count);
    let batches = [
        run(1, 2, 16, 1200),
        run(1, 2, 3, 1200),
        [run(1, 2, 16, 1200), relay(1, 2, &frame(20))].concat(),
        [run(1, 2, 9, 1200), run(1, 3, 9, 1200)].concat(),
        run(1, 3, 16, 1200),
        run(9, 2, 16, 1200),
        [run(9, 2, 1, 1200), run(1, 2, 16, 1200)].concat(),
        run(1, 8, 16, 1200),
        vec![0xEE; 20_000],
        discover(1, None),
        Vec::new(),
    ];
    let nodes = || {
        let mut fixture = pair();
        let extended = Message::Discover { node: NodeId(2), identity_key: None, is_extended: true };
        fixture.send(at(2, 4000), &emitted(&extended));
        fixture.announce(3, at(3, 4000), 3, true);
        fixture
    };
    let (mut copying, mut owning) = (nodes(), nodes());
    let mut buffer = vec![0; super::super::BUFFER_LEN];
    for (n, batch) in batches.iter().enumerate() {
        let arrival = Arrival { from: at(1, 4000), local: None, stride: 9 + 1204 };
        copying.beacon.handle_batch(copying.now, arrival, batch);
        buffer[..batch.len()].copy_from_slice(batch);
        owning.beacon.handle_buffer(owning.now, arrival, &mut buffer, batch.len());
        assert_eq!(buffer.len(), super::super::BUFFER_LEN);
        assert_eq!(owning.sent(), copying.sent(), "batch {n}");
        assert!(owning.beacon.counters().each().eq(copying.beacon.counters().each()), "batch {n}");
    }
}
