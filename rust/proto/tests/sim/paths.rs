//! Path validation, migration and authentication of peers (RFC 9000 sections 8 and 9).

use std::{net::SocketAddr, time::Duration};

use pilot_proto::{
    crypto::Suite,
    node::{DialOptions, Event},
    transport::{OldPath, PathKey},
    wire::{
        addr::{Address, NetworkId, NodeId, Port},
        beacon::Message,
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
        tunnel::Frame,
    },
};

use crate::{
    hand::{Hand, PEER, SELF, at, packet, with_sender},
    rng::{Rng, pattern},
    script::{Script, data, plain, seg, sending},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Each generation of peers.
const PEERS: [Option<Suite>; 3] = [None, Some(Suite::G2), Some(Suite::G1)];

fn datagram() -> Header {
    packet(Protocol::Datagram, Flags::NONE, (5, 9), 0)
}

impl Hand {
    /// How many frames went to an address since the last look.
    fn sent_to(&mut self, n: u8) -> usize {
        let count = self.sent.iter().filter(|(to, _)| *to == at(n)).count();
        self.sent.retain(|(to, _)| *to != at(n));
        count
    }

    fn send_datagram(&mut self) {
        let now = self.now;
        self.node.send_datagram(now, Port(5), Address::backbone(PEER), Port(9), b"for the peer").unwrap();
        self.drain();
    }

    fn datagrams(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Datagram { .. })).count()
    }
}

/// An on-path attacker forwards a frame from its own address, and cannot answer challenges.
#[test]
fn a_forwarded_frame_does_not_migrate_the_peer() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        hand.ping(at(66));
        hand.send_datagram();
        assert_eq!(hand.endpoint(), Some(at(1)), "{old:?}");
        hand.wait(20 * SECOND);
        assert!(hand.is_within_limit(at(66)), "{:?}", hand.traffic);
        assert!(hand.sent_to(66) <= 3);
        assert_eq!(hand.endpoint(), Some(at(1)));
    }
}

/// It passes the challenge on to the peer, whose answer it sends on as well. The peer answers where it is
/// too.
#[test]
fn an_answer_from_the_old_address_cancels_a_migration() {
    for (is_first, moves) in [(false, 0), (true, 2)] {
        let mut hand = Hand::connected(None);
        hand.ping(at(66));
        if is_first {
            assert_eq!(hand.answer(at(66)), 1);
            assert_eq!(hand.endpoint(), Some(at(66)));
            hand.send_datagram();
        }
        assert!(hand.answer(at(1)) > 0, "both are asked");
        assert_eq!(hand.endpoint(), Some(at(1)));
        assert_eq!(hand.node.stats().counters.moved, moves);
        // The address is not challenged again at once, and is sent nothing.
        hand.sent.clear();
        hand.ping(at(66));
        assert_eq!((hand.sent_to(66), hand.sent_to(1)), (0, 0));
        hand.send_datagram();
        assert_eq!((hand.sent_to(66), hand.sent_to(1)), (0, 1));
        hand.wait(2 * SECOND);
        hand.ping(at(66));
        assert_eq!(hand.sent_to(66), 2, "a challenge and the answer");
    }
}

#[test]
fn a_nat_rebinding_is_followed_in_one_round_trip() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        let begin = hand.now;
        hand.ping(at(11));
        hand.send_datagram();
        assert_eq!(hand.endpoint(), Some(at(1)));
        hand.now += 50 * MS;
        hand.answer(at(11));
        assert_eq!(hand.endpoint(), Some(at(11)), "{old:?}");
        assert_eq!(hand.now, begin + 50 * MS);
        hand.sent.clear();
        hand.send_datagram();
        assert_eq!((hand.sent_to(11), hand.sent_to(1)), (1, 0));
        hand.wait(10 * SECOND);
        assert_eq!(hand.endpoint(), Some(at(11)));
        assert_eq!(hand.node.stats().counters.moved, 1);
    }
}

#[test]
fn lost_challenges_are_retried() {
    let mut hand = Hand::connected(None);
    for _ in 0..3 {
        hand.ping(at(11));
    }
    hand.sent.clear();
    hand.wait(300 * MS);
    assert_eq!(hand.answer(at(11)), 1);
    assert_eq!(hand.endpoint(), Some(at(11)));
}

/// Frames sent before the move may arrive after later ones.
#[test]
fn a_reordered_frame_does_not_migrate_the_peer() {
    let mut hand = Hand::connected(None);
    let late = hand.seal(datagram(), b"late");
    hand.ping(at(11));
    hand.answer(at(11));
    assert_eq!(hand.endpoint(), Some(at(11)));
    hand.wait(20 * SECOND);
    hand.sent.clear();
    hand.deliver(at(1), &late);
    assert_eq!((hand.datagrams(), hand.sent_to(1)), (1, 0));
    assert_eq!(hand.endpoint(), Some(at(11)));
}

/// An answer counts only once, with the challenge data, from the challenged address.
#[test]
fn unsolicited_answers_validate_nothing() {
    let mut hand = Hand::connected(None);
    hand.ping(at(66));
    let challenge =
        hand.sent.iter().find(|(to, frame)| *to == at(66) && frame.len() == 89).unwrap().1.clone();
    let pong = hand.take(&challenge).unwrap();
    hand.deliver(at(67), &pong);
    assert_eq!(hand.endpoint(), Some(at(1)));
    let mut rng = Rng(5);
    for _ in 0..20_000 {
        let (port, seq) = (0x8000 | rng.next() as u16, rng.next() as u32);
        let guess = packet(Protocol::Control, Flags::ACK, (0, port), seq);
        let frame = hand.seal(guess, b"pong");
        hand.deliver(at(66), &frame);
    }
    assert_eq!(hand.endpoint(), Some(at(1)));
}

/// A peer spoofs a third party's address and acknowledges unseen data.
#[test]
fn blind_acknowledgements_draw_nothing_to_a_third_party() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        let syn = packet(Protocol::Stream, Flags::SYN, (50_000, 80), 1000);
        let frame = hand.seal(syn, &[]);
        hand.deliver(at(1), &frame);
        hand.answer(at(1));
        let mut una = hand.first_number + 1;
        let ack =
            Header { ack: SeqNumber::new(una), ..packet(Protocol::Stream, Flags::ACK, (50_000, 80), 1001) };
        let frame = hand.seal(ack, &[]);
        hand.deliver(at(1), &frame);
        let id = hand.accepted().unwrap();
        let data = pattern(4_000_000);
        hand.node.with_connection(id, |connection| connection.send(&data).ok());
        hand.drain();
        assert!(hand.sent_to(1) > 10, "where it is, it is sent data");
        for _ in 0..400 {
            una = una.wrapping_add(10_000);
            let ack = Header {
                ack: SeqNumber::new(una),
                ..packet(Protocol::Stream, Flags::ACK, (50_000, 80), 1001)
            };
            let frame = hand.seal(ack, &[]);
            hand.deliver(at(99), &frame);
            hand.wait(10 * MS);
            assert!(hand.is_within_limit(at(99)), "{old:?} {:?}", hand.traffic);
        }
        let (sent, received) = hand.traffic[&at(99)];
        assert!(sent < received / 4, "{sent} of {received}: challenges only");
    }
}

/// Anti-amplification limit.
#[test]
fn an_address_that_does_not_answer_gets_three_times_what_it_sent() {
    for seed in 0..50 {
        let mut rng = Rng(seed);
        let mut hand = if seed % 2 == 0 { Hand::new(None) } else { Hand::connected(None) };
        for n in 0..200 {
            let from = at(20 + rng.below(6) as u8);
            match rng.below(8) {
                0 => hand.send_key(from),
                1 => {
                    let key = hand.bare_key();
                    hand.deliver(from, &key);
                }
                2 => {
                    let mut junk = b"PILS\0\0\0\x01".to_vec();
                    junk.extend((0..28 + rng.below(100)).map(|_| rng.next() as u8));
                    hand.deliver(from, &junk);
                }
                3 => hand.restart(30 + (n % 100) as u8),
                4 => hand.wait(rng.below(3000) as u32 * MS),
                5 if seed % 4 == 1 => hand.send_datagram(),
                _ if hand.session.is_some() => hand.ping(from),
                _ => {
                    // Our key, captured from the wire.
                    for (_, frame) in std::mem::take(&mut hand.sent) {
                        hand.take(&frame);
                    }
                }
            }
            for n in 20..26 {
                assert!(hand.is_within_limit(at(n)), "{seed} {n}: {:?}", hand.traffic);
            }
        }
        if seed % 2 == 1 {
            assert_eq!(hand.endpoint(), Some(at(1)), "{seed}: it has shown to be there");
        }
    }
}

/// A key that a stranger passes on gets no further than an answer.
#[test]
fn a_key_from_elsewhere_does_not_keep_a_dial_from_where_the_registry_says() {
    let mut hand = Hand::new(None);
    hand.send_key(at(66));
    let now = hand.now;
    let to = Address::backbone(PEER);
    hand.node.connect(now, to, Port(80), DialOptions::default()).unwrap();
    hand.drain();
    assert_eq!(hand.endpoint(), Some(at(1)));
    assert!(hand.sent.iter().any(|(to, frame)| *to == at(1) && frame.starts_with(b"PILA")));
    assert!(hand.is_within_limit(at(66)));
}

#[test]
fn the_registry_names_another_place_and_the_peer_answers_there() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        hand.told = at(11);
        hand.wait(1100 * MS);
        hand.sent.clear();
        let now = hand.now;
        hand.node.connect(now, Address::backbone(PEER), Port(80), DialOptions::default()).unwrap();
        hand.drain();
        assert_eq!(hand.endpoint(), Some(at(1)));
        hand.answer(at(11));
        assert_eq!(hand.endpoint(), Some(at(11)), "{old:?}");
        // The SYN is retransmitted to the peer's new address.
        assert!(hand.sent_to(11) >= 1);
    }
}

/// Who was heard a moment ago is not asked for at the registry until it leaves a SYN unanswered.
#[test]
fn a_dial_to_a_peer_that_has_just_restarted_elsewhere_finds_it_after_a_second() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        hand.ping(at(1));
        hand.told = at(11);
        let now = hand.now;
        hand.node.connect(now, Address::backbone(PEER), Port(80), DialOptions::default()).unwrap();
        hand.drain();
        assert_eq!(hand.sent_to(11), 0, "{old:?}");
        hand.wait(1500 * MS);
        assert!(hand.sent_to(11) > 0, "{old:?}");
    }
}

/// A peer that crashes again and again comes back elsewhere each time.
#[test]
fn places_that_the_registry_names_are_called_at_once_a_few_times_and_then_slowly() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        let mut called = Vec::new();
        for place in 11..=22 {
            hand.told = at(place);
            hand.sent.clear();
            hand.wait(1100 * MS);
            let now = hand.now;
            let id =
                hand.node.connect(now, Address::backbone(PEER), Port(80), DialOptions::default()).unwrap();
            hand.drain();
            if hand.sent_to(place) > 0 {
                called.push(place);
            }
            hand.node.abort(now, id);
        }
        assert_eq!(called[..4], [11, 12, 13, 14], "{old:?}");
        // Then one try in four seconds.
        assert!((6..=8).contains(&called.len()), "{old:?}: {called:?}");
    }
}

/// Under G1 nothing binds a frame to its sender, and the key is the same in both directions.
#[test]
fn reflected_frames_are_refused() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        for _ in 0..30 {
            hand.send_datagram();
            hand.wait(SECOND);
        }
        let frames: Vec<_> = hand.sent.drain(..).filter(|(_, frame)| frame.starts_with(b"PILS")).collect();
        assert!(frames.len() >= 30);
        let (before, opened) = (hand.node.stats().counters, hand.endpoint());
        for (_, frame) in &frames {
            hand.deliver(at(66), &with_sender(frame, PEER));
            hand.deliver(at(66), frame);
        }
        let after = hand.node.stats().counters;
        assert_eq!(after.dropped_reflected - before.dropped_reflected, frames.len() as u64, "{old:?}");
        assert_eq!((after.opened, hand.endpoint()), (before.opened, opened));
        assert_eq!((hand.sent_to(66), hand.datagrams()), (0, 0));
        hand.ping(at(1));
        assert_eq!(hand.node.stats().counters.opened, before.opened + 1);
    }
}

#[test]
fn reflected_keys_are_refused() {
    let mut hand = Hand::new(None);
    hand.send_key(at(1));
    let Frame::SignedKey(own) = Frame::parse(&hand.sent[0].1).unwrap() else { panic!("no key") };
    hand.sent.clear();
    hand.wait(SECOND);
    hand.sent.clear();
    let bare = pilot_proto::wire::tunnel::BareKey { sender: PEER, exchange_key: own.exchange_key };
    hand.deliver(at(66), &bare.emit());
    let signed = pilot_proto::wire::tunnel::SignedKey { sender: PEER, ..own };
    hand.deliver(at(66), &signed.emit());
    assert_eq!((hand.sent_to(66), hand.node.stats().counters.dropped_reflected), (0, 2));
}

/// A peer proves itself, not others: a packet that names another source moves nothing at all.
#[test]
fn a_packet_of_another_source_changes_no_state() {
    let others = [
        Header { src: Address::backbone(NodeId(3)), ..datagram() },
        Header { src: Address::backbone(SELF), ..datagram() },
        Header { src: Address::backbone(NodeId(0)), ..datagram() },
        Header { dst: Address::backbone(NodeId(3)), ..datagram() },
        Header { src: Address { network: NetworkId(5), node: PEER }, ..datagram() },
        Header { dst: Address { network: NetworkId(5), node: SELF }, ..datagram() },
    ];
    for header in others {
        let mut hand = Hand::connected(None);
        let frame = hand.seal(header, b"of another");
        hand.wait(5 * SECOND);
        hand.sent.clear();
        hand.deliver(at(66), &frame);
        assert_eq!((hand.sent_to(66), hand.datagrams()), (0, 0), "{header:?}");
        assert_eq!(hand.endpoint(), Some(at(1)));
        let counters = hand.node.stats().counters;
        // The registry may have put us into network 5, so that one is asked about.
        let asked = hand.events.iter().filter(|event| matches!(event, Event::AdmissionNeeded(..))).count();
        assert_eq!(counters.dropped_misaddressed + counters.dropped_networks + asked as u64, 1);
        // It does not count as a sign of life either: a dial requests a record.
        let now = hand.now;
        hand.told = at(11);
        hand.node.connect(now, Address::backbone(PEER), Port(80), DialOptions::default()).unwrap();
        hand.drain();
        assert!(hand.sent_to(11) > 0);
    }
}

/// The inner source is looked at before a new key is taken into use.
#[test]
fn a_new_key_is_not_taken_into_use_by_a_packet_of_another_source() {
    let mut hand = Hand::connected(Some(Suite::G2));
    let syn = packet(Protocol::Stream, Flags::SYN, (50_000, 80), 1000);
    let frame = hand.seal(syn, &[]);
    hand.deliver(at(1), &frame);
    let connections = hand.node.stats().connections;
    assert_eq!(connections, 1);
    hand.restart(12);
    hand.send_key(at(1));
    let key = hand.sent.iter().rev().find(|(_, frame)| frame.starts_with(b"PILA")).unwrap().1.clone();
    hand.take(&key);
    let frame = hand.seal(Header { src: Address::backbone(NodeId(3)), ..datagram() }, b"of another");
    hand.deliver(at(1), &frame);
    assert_eq!(hand.node.stats().connections, 1, "nobody restarted");
    hand.ping(at(1));
    assert_eq!(hand.node.stats().connections, 0);
}

/// Anybody may keep what a peer once sent, and send it again years later.
#[test]
fn replayed_keys_and_frames_of_forty_restarts_are_refused() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        let mut kept = Vec::new();
        for n in 0..40_u8 {
            if n > 0 {
                hand.restart(10 + n);
                hand.send_key(at(1));
                for _ in 0..4 {
                    hand.answer(at(1));
                    hand.wait(300 * MS);
                }
            }
            let frame = hand.seal(datagram(), b"once");
            hand.deliver(at(1), &frame);
            hand.answer(at(1));
            assert_eq!(hand.datagrams(), usize::from(n) + 1, "{old:?}: the live one is heard");
            kept.push((hand.signed_key(), frame));
            let before = hand.node.stats().counters.opened;
            for (key, frame) in &kept[..usize::from(n)] {
                for from in [66, 1] {
                    hand.deliver(at(from), key);
                    hand.deliver(at(from), frame);
                }
                hand.sent.clear();
            }
            assert_eq!(hand.datagrams(), usize::from(n) + 1, "{old:?} {n}");
            assert_eq!(hand.node.stats().counters.opened, before);
            assert_eq!(hand.endpoint(), Some(at(1)));
            hand.wait(20 * SECOND);
        }
    }
}

/// RFC 9000 section 9.4. A NAT that gave the peer another port is no other path, and what repairs itself
/// is left alone.
#[test]
fn migration_retransmits_outstanding_data_at_once() {
    for (key, ms, is_repeated) in [(1, 10, true), (0, 10, false), (0, 400, true)] {
        let mut script = sending(20);
        script.wait(ms * MS);
        script.connection.on_path_changed(script.now, PathKey(key), OldPath::Dead);
        let sent = data(&script.wait(MS));
        assert_eq!(sent.first().is_some_and(|first| first.0 == seg(0)), is_repeated, "{key} {ms}");
    }
    let mut script = Script::connecting(plain());
    script.connection.on_path_changed(script.now, PathKey(1), OldPath::Dead);
    assert_eq!(script.sent()[0].flags, Flags::SYN);
}

fn reply(hand: &mut Hand, port: u16) {
    let mut bytes = Vec::new();
    Message::DiscoverReply(SocketAddr::new(at(2).ip(), port)).emit(&mut bytes);
    hand.deliver(at(50), &bytes);
}

impl Hand {
    fn discovered(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::EndpointDiscovered(_))).count()
    }
}

#[test]
fn unsolicited_beacon_replies_are_ignored() {
    let mut hand = Hand::connected(None);
    hand.node.set_beacons(hand.now, vec![at(50)]);
    hand.drain();
    assert_eq!(hand.sent_to(50), 1);
    reply(&mut hand, 4000);
    hand.wait(3 * SECOND);
    for port in 5000..8000 {
        reply(&mut hand, port);
    }
    assert_eq!((hand.discovered(), hand.node.stats().counters.dropped_beacon), (1, 3000));
    assert_eq!(hand.sent_to(50), 0, "nor does it draw questions");
    // Repeated, and from another address.
    hand.wait(30 * SECOND);
    assert!(hand.sent_to(50) >= 1);
    let mut bytes = Vec::new();
    Message::DiscoverReply(at(9)).emit(&mut bytes);
    for _ in 0..9 {
        hand.deliver(at(51), &bytes);
    }
    assert_eq!(hand.discovered(), 1);
}

#[test]
fn an_own_address_change_is_announced_to_peers() {
    for old in PEERS {
        let mut hand = Hand::connected(old);
        hand.node.set_beacons(hand.now, vec![at(50)]);
        reply(&mut hand, 4000);
        hand.wait(31 * SECOND);
        hand.ping(at(1));
        hand.sent.clear();
        for n in 0..3 {
            assert_eq!((hand.discovered(), hand.sent_to(1)), (1, 0), "{n}");
            reply(&mut hand, 4001);
            hand.wait(if n < 2 { 700 * MS } else { Duration::ZERO });
        }
        assert_eq!(hand.discovered(), 2);
        let expected = if old == Some(Suite::G2) { 1 } else { 2 };
        let what = "a ping, a long one for credit, and a key for who learns from nothing else";
        assert_eq!(hand.sent_to(1), expected, "{old:?}: {what}");
    }
}
