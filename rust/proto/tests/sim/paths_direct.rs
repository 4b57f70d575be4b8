//! From the relay to a direct path and back: punching, candidates, upgrade, failover, roaming.

use std::time::Duration;

use pilot_proto::{
    crypto::Suite,
    node::{DialOptions, Event, PathKind},
    tunnel::{Candidate, CandidateKind, CandidateState, Candidates, Capabilities, PathClass, Source},
    wire::{
        addr::{Address, Port},
        beacon::Message,
        packet::{Flags, Protocol},
    },
};

use crate::{
    hand::{Hand, PEER, at, packet},
    nat_net::{LATENCY, Nat, NatNet, beacon},
    paths_relayed::BEACON,
    rng::{Rng, pattern},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn host(address: std::net::SocketAddr) -> Candidate {
    Candidate { kind: CandidateKind::Host, address }
}

/// Names the hosts' own addresses, as their daemons do.
fn name_hosts(net: &mut NatNet, hosts: u32) {
    for n in 1..=hosts {
        let (now, inside) = (net.now, net.inside(n));
        net.of(n).set_candidates(now, vec![host(inside)]);
    }
}

fn until_direct(net: &mut NatNet, limit: Duration) -> Duration {
    net.run_until(limit, |net| (net.is_direct(1, 2) && net.is_direct(2, 1)).then_some(())).1
}

/// The first byte never waits for punching, and no byte is lost by the change.
#[test]
fn two_cones_talk_through_the_relay_first_and_directly_within_a_second() {
    let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
    net.start();
    let begin = net.now;
    let ((a, b), took) = net.connect(1, 2);
    assert!(took <= 16 * LATENCY + 100 * MS, "{took:?}");
    let mut at = None;
    net.transfer_with(((1, a), (2, b)), &pattern(2_000_000), |net, _| {
        if at.is_none() && net.is_direct(1, 2) && net.is_direct(2, 1) {
            at = Some(net.now);
        }
    });
    let took = at.expect("a direct path").saturating_since(begin);
    assert!(took <= SECOND, "{took:?}");
    let stats = net.of(1).connection(a).unwrap().stats();
    assert_eq!((stats.counters.retransmits, net.of(1).stats().counters.moved), (0, 0), "nothing was lost");
    let before = net.beacons[&beacon(1)].relayed;
    net.transfer((2, b), (1, a), &pattern(500_000));
    let relayed = net.beacons[&beacon(1)].relayed - before;
    assert!(relayed < 20, "{relayed} frames through the relay");
    assert!(net.take_event(1, |event| matches!(event, Event::PathChanged(..)).then_some(())).is_some());
    let peer = net.peer(1, 2);
    assert_eq!(peer.class, Some(PathClass::Direct));
    assert!(peer.rtt.is_some_and(|rtt| rtt >= 4 * LATENCY && rtt < 8 * LATENCY), "{:?}", peer.rtt);
}

#[test]
fn figures_tell_by_which_kinds_of_paths_bytes_went_and_how_long_dials_took() {
    let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
    net.start();
    let ((a, b), took) = net.connect(1, 2);
    until_direct(&mut net, SECOND);
    net.transfer((1, a), (2, b), &pattern(100_000));
    let figures = net.of(1).figures();
    let bytes = |kind| figures.paths().find(|(path, _)| *path == kind).unwrap().1;
    let (relay, direct) = (bytes(PathKind::Relay), bytes(PathKind::Direct(PathClass::Direct)));
    assert!(relay.sent > 0 && relay.received > 0, "{relay:?}");
    assert!((100_000..150_000).contains(&direct.sent) && direct.received > 0, "{direct:?}");
    let sum: u64 = figures.paths().map(|(_, path)| path.sent).sum();
    assert_eq!(sum, net.of(1).stats().counters.bytes_sent);
    assert_eq!(
        (figures.dial.counts.iter().sum::<u64>(), figures.handshake.counts.iter().sum::<u64>()),
        (1, 1)
    );
    assert!(figures.handshake.sum > 2 * LATENCY && figures.dial.sum > figures.handshake.sum);
    assert!(figures.dial.sum <= took, "{:?} of {took:?}", figures.dial.sum);
    let samples = u32::try_from(figures.rtt.counts.iter().sum::<u64>()).unwrap();
    assert!(samples > 0 && figures.rtt.sum / samples >= 4 * LATENCY, "{:?}", figures.rtt);
    let (_, service) = figures.services().next().unwrap();
    assert_eq!((service.streams, service.counters.bytes_sent), (1, 100_000));
    assert!(figures.failed_dials.is_empty());
}

#[test]
fn a_symmetric_caller_reaches_an_open_node_directly() {
    let mut net = NatNet::new(&[Nat::Symmetric, Nat::Open]);
    net.start();
    let ((a, b), took) = net.connect(1, 2);
    assert!(took <= 12 * LATENCY, "{took:?}");
    net.transfer((2, b), (1, a), &pattern(200_000));
    assert!(net.is_direct(1, 2) && net.is_direct(2, 1));
}

/// The one behind the NAT is called: its own challenge, asked for through the relay, opens the way.
#[test]
fn an_open_node_reaches_a_symmetric_one_directly() {
    let mut net = NatNet::new(&[Nat::Open, Nat::Symmetric]);
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    until_direct(&mut net, 6 * SECOND);
    net.transfer((2, b), (1, a), &pattern(100_000));
}

#[test]
fn where_no_direct_path_is_possible_the_relay_stays_and_tries_are_bounded() {
    let mut net = NatNet::new(&[Nat::Cone, Nat::Symmetric]);
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(1_000_000));
    net.run_for(20 * SECOND);
    assert!(!net.is_direct(1, 2) && !net.is_direct(2, 1));
    let states: Vec<_> = net.peer(1, 2).candidates.iter().map(|candidate| candidate.state).collect();
    assert!(states.contains(&CandidateState::Failed), "{states:?}");
    // Without traffic nothing is tried.
    let punches = net.beacons[&beacon(1)].punches;
    net.run_for(60 * SECOND);
    assert!(net.beacons[&beacon(1)].punches - punches <= 12);
}

/// Both sit behind the same box, which does not send back what comes from inside.
#[test]
fn two_nodes_of_one_site_use_its_network() {
    let mut net = NatNet::new(&[Nat::Symmetric]);
    net.add(2, 1, Nat::Symmetric);
    net.start();
    name_hosts(&mut net, 2);
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    until_direct(&mut net, 2 * SECOND);
    let peer = net.peer(1, 2);
    assert_eq!((peer.class, peer.endpoint), (Some(PathClass::Lan), Some(net.inside(2))));
    assert!(peer.candidates.iter().any(|candidate| candidate.source == Source::Peer(CandidateKind::Host)
        && candidate.state == CandidateState::InUse));
}

/// The direct path falls silent: the relay takes over, no connection is reset, and the path is used again.
#[test]
fn the_relay_takes_over_from_a_silent_path_and_gives_back() {
    for size in [3_000_000, 20_000_000] {
        let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &pattern(100_000));
        until_direct(&mut net, 2 * SECOND);
        net.run_for(SECOND);
        let (mut cut_at, mut resumed_at, mut before) = (None, None, 0);
        net.transfer_with(((1, a), (2, b)), &pattern(size), |net, received| {
            if cut_at.is_none() && received > size / 4 {
                net.cuts.extend([(1, 2), (2, 1)]);
                (cut_at, before) = (Some(net.now), received);
            }
            // What was on its way still arrives for a moment.
            let is_later = cut_at.is_some_and(|at| net.now > at + 4 * LATENCY);
            if resumed_at.is_none() && is_later && received > before {
                resumed_at = Some(net.now);
            }
            if !is_later {
                before = received;
            }
        });
        let stall = resumed_at.unwrap().saturating_since(cut_at.unwrap());
        // The silence begins when the last answer arrives.
        assert!(stall <= 3 * 200 * MS + 4 * LATENCY, "{stall:?}");
        assert!(!net.is_direct(1, 2));
        assert_eq!(net.of(1).stats().counters.relay_fallbacks, 1);
        net.cuts.clear();
        net.transfer((2, b), (1, a), &pattern(100_000));
        let mut sent = 0;
        net.run_until(20 * SECOND, |net| {
            // Traffic goes on.
            if net.now.as_nanos() / 500_000_000 > sent {
                sent = net.now.as_nanos() / 500_000_000;
                for (n, id) in [(1, a), (2, b)] {
                    net.of(n).with_connection(id, |c| c.send(b"tick").ok());
                }
            }
            (net.is_direct(1, 2) && net.is_direct(2, 1)).then_some(())
        });
    }
}

/// Neither the direct path nor the relay carries for a while, as when a site loses its uplink.
#[test]
fn an_outage_of_everything_ends_soon_after_it_is_over() {
    for seconds in [2, 20] {
        let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &pattern(100_000));
        until_direct(&mut net, 2 * SECOND);
        net.of(1).with_connection(a, |c| c.send(&[7; 5000]).unwrap());
        net.cuts.extend([(1, 2), (2, 1)]);
        net.beacons.get_mut(&beacon(1)).unwrap().is_down = true;
        net.run_for(seconds * SECOND);
        net.cuts.clear();
        net.beacons.get_mut(&beacon(1)).unwrap().is_down = false;
        let begin = net.now;
        net.run_until(15 * SECOND, |net| {
            let mut scratch = [0; 65536];
            let got = net.of(2).with_connection(b, |c| c.recv(&mut scratch));
            matches!(got, Some(Ok(Some(1..)))).then_some(())
        });
        let took = net.now.saturating_since(begin);
        assert!(took <= SECOND + seconds.min(10) * SECOND, "{seconds}: {took:?}");
    }
}

/// A path that comes and goes is left for longer each time.
#[test]
fn a_flapping_path_does_not_oscillate() {
    let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
    net.start();
    let ((a, b), _) = net.connect(1, 2);
    net.transfer((1, a), (2, b), &pattern(100_000));
    until_direct(&mut net, 2 * SECOND);
    let mut scratch = [0; 65536];
    for n in 0..600 {
        for (node, id) in [(1, a), (2, b)] {
            net.of(node).with_connection(id, |c| {
                while matches!(c.recv(&mut scratch), Ok(Some(1..))) {}
                c.send(&[7; 1000]).ok()
            });
        }
        match n % 40 {
            0 => net.cuts.extend([(1, 2), (2, 1)]),
            20 => net.cuts.clear(),
            _ => {}
        }
        net.run_for(100 * MS);
    }
    let fallbacks = net.of(1).stats().counters.relay_fallbacks;
    assert!((2..=8).contains(&fallbacks), "{fallbacks} in a minute with 15 outages");
    assert_eq!(net.of(1).stats().connections, 1);
}

/// One side moves to another network in the middle of a transfer, and notices it.
#[test]
fn a_transfer_survives_a_change_of_address() {
    for (mover, is_cone) in [(1, true), (2, true), (1, false), (2, false)] {
        let nat = if is_cone { Nat::Cone } else { Nat::Symmetric };
        let mut net = NatNet::new(&[nat, if is_cone { Nat::Cone } else { Nat::Open }]);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &pattern(100_000));
        until_direct(&mut net, 3 * SECOND);
        let size = 4_000_000;
        let (mut moved_at, mut before, mut resumed_at) = (None, 0, None);
        net.transfer_with(((1, a), (2, b)), &pattern(size), |net, received| {
            if moved_at.is_none() && received > size / 4 {
                net.remap(mover, 77);
                let now = net.now;
                net.of(mover).on_own_address(now);
                (moved_at, before) = (Some(now), received);
            }
            let is_later = moved_at.is_some_and(|at| net.now > at + 4 * LATENCY);
            if resumed_at.is_none() && is_later && received > before {
                resumed_at = Some(net.now);
            }
            if !is_later {
                before = received;
            }
        });
        let stall = resumed_at.unwrap().saturating_since(moved_at.unwrap());
        assert!(stall <= 4 * LATENCY + 200 * MS, "{mover} {is_cone}: {stall:?}");
        assert_eq!(net.of(1).stats().connections, 1, "nothing was reset");
    }
}

/// The box forgets its bindings, and nobody says so.
#[test]
fn a_transfer_survives_the_reboot_of_a_box() {
    for rebooted in [1, 2] {
        let mut net = NatNet::new(&[Nat::Cone, Nat::Cone]);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &pattern(100_000));
        until_direct(&mut net, 2 * SECOND);
        let mut is_done = false;
        net.transfer_with(((1, a), (2, b)), &pattern(4_000_000), |net, received| {
            if !is_done && received > 1_000_000 {
                is_done = true;
                net.remap(rebooted, rebooted as u8);
            }
        });
        assert_eq!(net.of(1).stats().connections, 1);
    }
}

#[test]
fn an_idle_connection_costs_few_datagrams() {
    for is_relayed in [false, true] {
        let mut net = NatNet::new(&[if is_relayed { Nat::Symmetric } else { Nat::Cone }; 2]);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        // A second connection costs nothing.
        net.connect(2, 1);
        net.transfer((1, a), (2, b), &pattern(100_000));
        if !is_relayed {
            until_direct(&mut net, 2 * SECOND);
        }
        net.run_for(30 * SECOND);
        let sent = |net: &mut NatNet| {
            let relayed = [1, 2].map(|n| net.of(n).stats().counters.relayed_sent);
            [1, 2].map(|n| net.direct.get(&n).map_or(0, |n| *n as u64) + relayed[n as usize - 1])
        };
        let before = sent(&mut net);
        net.run_for(600 * SECOND);
        let after = sent(&mut net);
        for n in 0..2 {
            let per_minute = (after[n] - before[n]) as f64 / 10.0;
            assert!(per_minute <= 4.0, "{is_relayed} {n}: {per_minute}");
        }
        assert_eq!(net.of(1).stats().connections, 2, "they live on");
    }
}

fn punch(hand: &mut Hand, from: std::net::SocketAddr, to: std::net::SocketAddr) -> usize {
    let before = hand.sent.len();
    let mut bytes = Vec::new();
    Message::PunchCommand(to).emit(&mut bytes);
    hand.deliver(from, &bytes);
    hand.wait(200 * MS);
    hand.sent[before..].iter().filter(|(place, frame)| *place == to && frame == b"PILP").count()
}

/// Commands come from our beacons only, name a possible endpoint, and are limited.
#[test]
fn punch_commands_are_limited_and_only_beacons_give_them() {
    let mut hand = Hand::connected(None);
    hand.node.set_beacons(hand.now, vec![at(50)]);
    hand.drain();
    assert_eq!(punch(&mut hand, at(50), at(20)), 3);
    assert_eq!(punch(&mut hand, at(51), at(21)), 0, "no beacon of ours");
    for text in ["224.0.0.1:4", "10.0.0.9:0", "127.0.0.1:4", "0.0.0.0:4", "169.254.1.1:4"] {
        assert_eq!(punch(&mut hand, at(50), text.parse().unwrap()), 0, "{text}");
    }
    let begin = hand.now;
    let mut sent = 0;
    for n in 0..1000_u32 {
        let to = std::net::SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 5));
        let mut bytes = Vec::new();
        Message::PunchCommand(to).emit(&mut bytes);
        hand.sent.clear();
        hand.deliver(at(50), &bytes);
        hand.wait(10 * MS);
        sent += hand.sent.iter().filter(|(_, frame)| frame == b"PILP").count();
    }
    let seconds = hand.now.saturating_since(begin).as_secs() as usize;
    assert!(sent <= 3 * (32 + 16 * (seconds + 1)), "{sent} in {seconds} s");
    // A punch datagram is not answered.
    hand.sent.clear();
    hand.deliver(at(20), b"PILP");
    assert!(hand.sent.is_empty());
}

impl Hand {
    /// A ping that names addresses of the peer.
    fn naming(&mut self, named: &[std::net::SocketAddr]) -> Vec<u8> {
        let mut payload = Capabilities { boot_id: 77, max_segment: 4096 }.emit().to_vec();
        Candidates::new(named.iter().copied().map(host)).emit(&mut payload);
        self.seal(packet(Protocol::Control, Flags::NONE, (1, 0), 1), &payload)
    }

    /// A peer that was dialled through the relay.
    fn dialled() -> Self {
        let mut hand = Self::relayed(None);
        let now = hand.now;
        let remote = Address::backbone(PEER);
        hand.node.connect(now, remote, Port(80), DialOptions::default()).unwrap();
        hand.drain();
        let hello = hand.taken_from_relay();
        hand.take(&hello[0]);
        let key = hand.signed_key();
        hand.relay(at(BEACON), &key, None);
        assert_eq!(hand.answer_relayed(), 1);
        hand
    }
}

/// The addresses that a peer names are those that it chose.
#[test]
fn a_hostile_peer_does_not_draw_more_to_others_than_it_sends() {
    let mut hand = Hand::dialled();
    hand.traffic.clear();
    for round in 0..200_u32 {
        let named: Vec<_> =
            (0..8).map(|n| std::net::SocketAddr::from(([172, 16, round as u8, n], 9))).collect();
        let frame = hand.naming(&named);
        hand.relay(at(BEACON), &frame, None);
        hand.wait(50 * MS);
    }
    let others = hand.traffic.iter().filter(|(to, _)| **to != at(1) && **to != at(BEACON));
    let sent: usize = others.map(|(_, (sent, _))| *sent).sum();
    let received = hand.traffic[&at(BEACON)].1;
    assert!(sent > 0, "they are tried");
    assert!(sent <= received, "{sent} of {received}");
}

#[test]
fn addresses_that_no_other_host_can_have_are_not_tried() {
    let mut hand = Hand::dialled();
    hand.sent.clear();
    let named = ["127.0.0.1:22", "[::1]:22", "169.254.3.4:5", "[fe80::1]:5", "224.0.0.1:5"];
    let named = named.map(|text| text.parse().unwrap());
    let frame = hand.naming(&named);
    hand.relay(at(BEACON), &frame, None);
    hand.wait(10 * SECOND);
    assert!(hand.sent.iter().all(|(to, _)| *to == at(1) || *to == at(BEACON)), "{:?}", hand.sent);
}

/// A probe of another path does not move the peer, unless that path is nearer and answers.
#[test]
fn a_peer_that_tries_another_path_has_not_moved() {
    let mut hand = Hand::connected(None);
    hand.sent.clear();
    let payload = Capabilities { boot_id: 77, max_segment: 4096 }.emit();
    let frame = hand.seal(packet(Protocol::Control, Flags::NONE, (0x9000, 0), 1), &payload);
    hand.deliver(at(11), &frame);
    assert_eq!(hand.endpoint(), Some(at(1)));
    assert!(hand.sent.iter().all(|(to, _)| *to == at(11)), "the address in use is not questioned");
    assert_eq!(hand.sent.len(), 1, "and the probe is answered");
    assert!(hand.is_within_limit(at(11)));
    hand.wait(10 * SECOND);
    assert_eq!((hand.endpoint(), hand.node.stats().counters.moved), (Some(at(1)), 0));
}

/// Private nodes answer no pings of strangers, but these belong to the tunnel.
#[test]
fn path_probes_of_g2_peers_are_answered() {
    let mut hand = Hand::connected(Some(Suite::G2));
    hand.node.set_private(true);
    let frame = hand.seal(packet(Protocol::Control, Flags::NONE, (0, 0), 0), b"pathprobe.v1");
    hand.deliver(at(1), &frame);
    assert_eq!(hand.sent.len(), 1, "the echo");
    hand.sent.clear();
    let frame = hand.seal(packet(Protocol::Control, Flags::ACK, (0, 0), 1), b"");
    hand.deliver(at(1), &frame);
    assert_eq!(hand.sent.len(), 1, "any direct frame");
    let pong = hand.answer(at(1));
    assert_eq!(pong, 1);
    assert!(hand.sent.is_empty(), "and that is all");
}

/// Whether boxes that filter by address and port let two nodes meet without a prediction of ports.
fn can_meet(nats: [Nat; 2]) -> bool {
    nats.contains(&Nat::Open) || nats == [Nat::Cone, Nat::Cone]
}

/// Boxes reboot, hosts move with and without notice, paths break in one or both directions, the beacon comes
/// and goes: bytes arrive once and in order, and a direct path is found wherever one is possible.
#[test]
fn streams_survive_any_sequence_of_changes() {
    for seed in 0..100 {
        let mut rng = Rng(seed);
        let nats = [0, 1].map(|_| [Nat::Open, Nat::Cone, Nat::Symmetric][rng.below(3) as usize]);
        let mut net = NatNet::new(&nats);
        net.start();
        let ((a, b), _) = net.connect(1, 2);
        let size = 2_000_000;
        let (mut next, mut site, mut down_until) = (size / 10, 100, net.now);
        let mut said = Vec::new();
        let (from, to) = if seed % 2 == 0 { ((1, a), (2, b)) } else { ((2, b), (1, a)) };
        net.transfer_with((from, to), &pattern(size), |net, received| {
            net.beacons.get_mut(&beacon(1)).unwrap().is_down = net.now < down_until;
            if received < next {
                return;
            }
            next += size / 10;
            let mover = 1 + rng.below(2) as u32;
            let event = rng.below(7);
            said.push((received, event, mover));
            site += 1;
            match event {
                // An open host that moves has another address, and its peer is told by nobody but itself.
                0 => net.remap(mover, mover as u8),
                1 | 2 => {
                    net.remap(mover, site);
                    let now = net.now;
                    net.of(mover).on_own_address(now);
                }
                3 => net.cuts.extend([(1, 2), (2, 1)]),
                4 => net.cuts.extend([(mover, 3 - mover)]),
                5 => net.cuts.clear(),
                _ => down_until = net.now + rng.below(3000) as u32 * MS,
            }
        });
        assert_eq!(net.of(1).stats().connections, 1, "{seed} {nats:?}: {said:?}");
        net.cuts.clear();
        net.beacons.get_mut(&beacon(1)).unwrap().is_down = false;
        let mut scratch = [0; 65536];
        for _ in 0..600 {
            for (node, id) in [(1, a), (2, b)] {
                net.of(node).with_connection(id, |c| {
                    while matches!(c.recv(&mut scratch), Ok(Some(1..))) {}
                    c.send(&[7; 100]).ok()
                });
            }
            net.run_for(100 * MS);
        }
        let are_direct = net.is_direct(1, 2) && net.is_direct(2, 1);
        assert_eq!(are_direct, can_meet(nats), "{seed} {nats:?}: {said:?}");
    }
}
