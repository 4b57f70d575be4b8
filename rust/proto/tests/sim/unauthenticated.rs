//! Floods of unauthenticated frames: dials still succeed in both directions, and memory does not grow.

use std::{net::SocketAddr, time::Duration};

use crate::{
    node::{Net, at, configured, seed_of},
    rng::Rng,
};
use pilot_proto::{
    config::NodeConfig,
    crypto::identity::Identity,
    node::{DialOptions, Event, NodeCounters},
    time::Instant,
    wire::{
        addr::{Address, NodeId, Port},
        tunnel::{BareKey, CookieReply, Frame, SIGNED_KEY_LEN, SignedKey},
    },
};

const VICTIM: u32 = 1;
/// Frames and duration of one step of a flood: 20,000 frames per second.
const STEP: usize = 200;
const STEP_TIME: Duration = Duration::from_millis(10);

/// Produces frames with their source addresses.
type Flood<'a> = &'a dyn Fn(&mut Rng) -> (SocketAddr, Vec<u8>);

fn anywhere(rng: &mut Rng) -> SocketAddr {
    SocketAddr::from(((rng.next() as u32 | 1 << 30).to_be_bytes(), rng.next() as u16))
}

fn bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    std::array::from_fn(|_| rng.next() as u8)
}

fn made_up(rng: &mut Rng) -> NodeId {
    NodeId(1000 + rng.below(1 << 30) as u32)
}

fn bare(sender: NodeId, rng: &mut Rng) -> Vec<u8> {
    BareKey { sender, exchange_key: bytes(rng) }.emit().to_vec()
}

/// A signed key frame with an invalid signature.
fn forged(sender: NodeId, rng: &mut Rng) -> Vec<u8> {
    let identity_key = Identity::from_seed(&seed_of(sender.0)).unwrap().public_key();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&bytes::<32>(rng));
    SignedKey { sender, exchange_key: bytes(rng), identity_key, signature }.emit().to_vec()
}

/// A signed key of an identity that the registry does not name.
fn self_signed(sender: NodeId, rng: &mut Rng) -> Vec<u8> {
    let identity = Identity::from_seed(&bytes(rng)).unwrap();
    identity.sign_exchange_key(sender, bytes(rng)).unwrap().emit().to_vec()
}

fn sealed(sender: NodeId, rng: &mut Rng) -> Vec<u8> {
    [b"PILS".as_slice(), &sender.0.to_be_bytes(), &bytes::<80>(rng)].concat()
}

impl Net {
    fn flood(&mut self, flood: Flood<'_>, rng: &mut Rng, steps: usize) {
        for _ in 0..steps {
            for _ in 0..STEP {
                let (from, mut frame) = flood(rng);
                let now = self.now;
                self.of(VICTIM).handle_datagram(now, from, &mut frame);
            }
            self.run_for(STEP_TIME);
        }
    }

    /// Dials during the flood and returns the duration.
    fn dial_in(&mut self, flood: Flood<'_>, rng: &mut Rng, from: u32, to: u32) -> Duration {
        let begin = self.now;
        let id =
            self.of(from).connect(begin, Address::backbone(NodeId(to)), Port(80), DialOptions::default());
        let id = id.unwrap();
        while !self.has_event(from, |event| *event == Event::Connected(id)) {
            assert!(!self.has_event(from, |event| matches!(event, Event::Closed(..))), "{from} to {to}");
            assert!(self.now.saturating_since(begin) < Duration::from_secs(19), "{from} to {to}");
            self.flood(flood, rng, 1);
        }
        self.now.saturating_since(begin)
    }
}

/// Runs a flood against node 1, which talks to 2, dials 3 and is dialled by 4, and returns its counters.
fn withstand(name: &str, flood: Flood<'_>) -> NodeCounters {
    let mut net = Net::new(4);
    let mut rng = Rng(5);
    for n in 1..=4 {
        net.of(n).listen(Port(80)).unwrap();
    }
    let (a, b) = net.connect(VICTIM, 2);
    net.flood(flood, &mut rng, 100);
    for (from, to) in [(VICTIM, 3), (4, VICTIM)] {
        let took = net.dial_in(flood, &mut rng, from, to);
        assert!(took < Duration::from_secs(4), "{name}: {from} to {to} took {took:?}");
    }
    net.transfer((VICTIM, a), (2, b), &[1; 100_000]);
    let stats = net.of(VICTIM).stats();
    assert_eq!((stats.peers, stats.encrypted_peers), (3, 3), "{name}");
    stats.counters
}

#[test]
fn bare_keys_make_no_peers() {
    let counters = withstand("made-up senders", &|rng| (anywhere(rng), bare(made_up(rng), rng)));
    assert!(counters.dropped_bare_keys > 20_000);
    let shared = |rng: &mut Rng| SocketAddr::new(at(4).ip(), 5000 + rng.below(4) as u16);
    withstand("one sender, from the address of a peer", &|rng| (shared(rng), bare(NodeId(77_777), rng)));
    withstand("peers, from elsewhere", &|rng| (anywhere(rng), bare(NodeId(2 + rng.below(3) as u32), rng)));
}

#[test]
fn invalid_signatures_cost_few_checks() {
    for (name, names) in [("made-up senders", 0), ("peers", 1)] {
        let sender = |rng: &mut Rng| if names == 0 { made_up(rng) } else { NodeId(2 + rng.below(3) as u32) };
        let counters = withstand(name, &|rng| (anywhere(rng), forged(sender(rng), rng)));
        assert!(counters.dropped_keys < 1500, "{name}: {counters:?}");
        assert!(counters.dropped_key_checks > 20_000 && counters.cookies_sent > 0, "{name}");
        withstand(name, &|rng| (SocketAddr::new(at(4).ip(), 5000), forged(sender(rng), rng)));
    }
}

/// Whoever can write a peer's address and port as the source: the peer's own key comes through with a cookie.
#[test]
fn forged_keys_from_the_endpoints_of_peers_do_not_keep_them_out() {
    let counters = withstand("peers, from their endpoints", &|rng| {
        let sender = NodeId(2 + rng.below(3) as u32);
        // About 500 per second: each answer may be the one that the peer needs.
        let from = if rng.chance(2) { at(sender.0) } else { anywhere(rng) };
        (from, forged(sender, rng))
    });
    assert!(counters.dropped_key_checks > 20_000);
}

#[test]
fn self_signed_keys_cost_few_registry_lookups() {
    let counters = withstand("made-up senders", &|rng| (anywhere(rng), self_signed(made_up(rng), rng)));
    assert!(counters.dropped_questions > 0 && counters.dropped_keys < 1000, "{counters:?}");
    let peer = |rng: &mut Rng| NodeId(2 + rng.below(3) as u32);
    withstand("peers", &|rng| (anywhere(rng), self_signed(peer(rng), rng)));
}

#[test]
fn unauthenticated_sealed_frames_and_cookies_change_no_state() {
    withstand("made-up senders", &|rng| (anywhere(rng), sealed(made_up(rng), rng)));
    withstand("peers", &|rng| (anywhere(rng), sealed(NodeId(2 + rng.below(3) as u32), rng)));
    let counters = withstand("cookies", &|rng| {
        let sender = NodeId(2 + rng.below(3) as u32);
        (at(sender.0), CookieReply::new(sender, &bytes(rng), bytes(rng)).emit().to_vec())
    });
    assert!(counters.dropped_cookies > 20_000);
}

/// What is sent to an address is at most three times what came from it, and nothing at all for a
/// beginning of a frame.
#[test]
fn unvalidated_addresses_get_at_most_three_times_what_they_sent() {
    let mut net = Net::new(1);
    let mut rng = Rng(5);
    type Make = fn(&mut Rng) -> Vec<u8>;
    let makes: [(Make, u32); 4] = [
        (|rng| bare(made_up(rng), rng), 3),
        (|rng| sealed(made_up(rng), rng), 3),
        (|rng| forged(made_up(rng), rng), 1),
        (|rng| sealed(made_up(rng), rng)[..60].to_vec(), 0),
    ];
    for (kind, (make, times)) in makes.into_iter().enumerate() {
        for n in 0..2000 {
            let from = SocketAddr::from(([10, kind as u8 + 1, 0, n as u8], 1000 + n));
            let mut received = 0;
            for _ in 0..1 + n % 3 {
                let mut frame = make(&mut rng);
                received += frame.len();
                let now = net.now;
                net.of(1).handle_datagram(now, from, &mut frame);
            }
            net.run_for(Duration::from_millis(1));
            let sent: usize = net.sent_to(from).iter().map(|frame| frame.len()).sum();
            assert!(sent <= times as usize * received, "kind {kind}: {sent} for {received}");
        }
    }
}

/// A bare key is answered without being remembered, and yet by the key that a session will have.
#[test]
fn the_stateless_answer_carries_the_key_of_the_later_session() {
    let mut net = Net::new(2);
    net.of(1).listen(Port(80)).unwrap();
    let from = SocketAddr::from(([10, 0, 9, 9], 1));
    let answer = |net: &mut Net| {
        for _ in 0..2 {
            let now = net.now;
            net.of(1).handle_datagram(now, from, &mut bare(NodeId(2), &mut Rng(1)));
        }
        net.run_for(Duration::from_millis(1));
        let parse = |frame: &[u8]| match Frame::parse(frame) {
            Ok(Frame::SignedKey(frame)) => Some(frame.exchange_key),
            _ => None,
        };
        let keys: Vec<_> = net.sent_to(from).into_iter().filter_map(parse).collect();
        net.run_for(Duration::from_secs(10));
        keys[0]
    };
    let before = answer(&mut net);
    assert_eq!(net.of(1).stats().peers, 0);
    let (dialled, accepted) = net.connect(2, 1);
    assert_eq!(net.of(1).stats().peers, 1);
    assert_eq!(answer(&mut net), before);
    let now = net.now;
    net.of(2).close(now, dialled);
    net.of(1).close(now, accepted);
    net.run_for(Duration::from_secs(600));
    assert_eq!(net.of(1).stats().peers, 0, "it is forgotten");
    assert_ne!(answer(&mut net), before, "a key that made a session makes no other");
}

/// Whoever has proved to be somebody takes the place of who has nothing to do with us, and our own calls
/// always get one.
#[test]
fn a_full_peer_table_evicts_idle_peers_and_admits_dials() {
    let mut net = Net::new(6);
    net.replace(1, configured(1, 201, NodeConfig { max_peers: 2, ..NodeConfig::default() }));
    net.of(1).listen(Port(80)).unwrap();
    for n in 2..=6 {
        net.of(n).listen(Port(80)).unwrap();
    }
    let (kept, _) = net.connect(1, 2);
    for n in [3, 4] {
        let (theirs, ours) = net.connect(n, 1);
        let now = net.now;
        net.of(n).close(now, theirs);
        net.of(1).close(now, ours);
        net.run_for(Duration::from_secs(20));
    }
    assert_eq!(net.of(1).stats().peers, 2);
    net.connect(1, 5);
    net.connect(1, 6);
    assert_eq!(net.of(1).stats().peers, 3, "all of them are in use");
    assert!(net.of(1).connection(kept).is_some());
    let now = net.now;
    let refused = net.of(4).connect(now, Address::backbone(NodeId(1)), Port(80), DialOptions::default());
    let refused = refused.unwrap();
    net.run_for(Duration::from_secs(5));
    assert!(!net.has_event(4, |event| *event == Event::Connected(refused)));
    assert!(net.of(1).stats().counters.dropped_limited > 0);
}

/// Somebody claims to be the node that we call: our own question is asked all the same, and the answer to
/// the other one ends nothing.
#[test]
fn a_lookup_for_a_sender_does_not_replace_the_one_of_a_dial() {
    let mut node = configured(1, 201, NodeConfig::default());
    let now = Instant::from_millis(1);
    let events =
        |node: &mut pilot_proto::node::Node| std::iter::from_fn(|| node.poll_event()).collect::<Vec<_>>();
    let mut claim = self_signed(NodeId(2), &mut Rng(3));
    node.handle_datagram(now, at(9), &mut claim);
    assert_eq!(events(&mut node), [Event::KeyNeeded(NodeId(2))]);
    let id = node.connect(now, Address::backbone(NodeId(2)), Port(80), DialOptions::default()).unwrap();
    assert_eq!(events(&mut node), [Event::RecordNeeded(NodeId(2))]);
    node.on_key(now, NodeId(2), None);
    assert!(!matches!(events(&mut node)[..], [Event::Closed(..)]));
    assert!(node.connection(id).is_some());
    // The frame of the true owner is not evicted by forged ones.
    let identity = Identity::from_seed(&seed_of(2)).unwrap();
    let mut proof = identity.sign_exchange_key(NodeId(2), bytes(&mut Rng(4))).unwrap().emit();
    node.handle_datagram(now, at(2), &mut proof);
    for n in 0..200 {
        node.handle_datagram(now, at(n), &mut self_signed(made_up(&mut Rng(9)), &mut Rng(u64::from(n))));
    }
    node.on_record(now, NodeId(2), identity.public_key(), Some(at(2)));
    let mut buffer = vec![0; 65_536];
    let mut left = Vec::new();
    while let Some(transmit) = node.poll_transmit(now, &mut buffer, 1) {
        left.push((transmit.destination, buffer[..4].to_vec()));
    }
    assert!(left.contains(&(at(2), b"PILS".to_vec())), "it is pinged under its key: {left:?}");
    assert!(left.iter().all(|(to, frame)| *to == at(2) || frame != b"PILS"));
}

#[test]
fn a_cookie_gets_a_key_checked_during_a_flood() {
    let mut node = configured(1, 201, NodeConfig::default());
    let now = Instant::from_millis(1);
    let mut rng = Rng(6);
    for _ in 0..2000 {
        let (from, mut frame) = (anywhere(&mut rng), forged(made_up(&mut rng), &mut rng));
        node.handle_datagram(now, from, &mut frame);
    }
    let mut buffer = vec![0; 65_536];
    while node.poll_transmit(now, &mut buffer, 1).is_some() {}
    let identity = Identity::from_seed(&seed_of(2)).unwrap();
    let proof = identity.sign_exchange_key(NodeId(2), bytes(&mut rng)).unwrap();
    let mut frame = proof.emit().to_vec();
    node.handle_datagram(now, at(2), &mut frame);
    assert_eq!(node.poll_event(), None, "there is no time");
    let transmit = node.poll_transmit(now, &mut buffer, 1).unwrap();
    let Ok(Frame::CookieReply(reply)) = Frame::parse(&buffer[..transmit.len]) else { panic!("no cookie") };
    assert!(transmit.destination == at(2) && reply.is_about(&proof.exchange_key));
    for (from, cookie, expected) in [
        (at(3), reply.cookie, None),
        (at(2), [0; 16], None),
        (at(2), reply.cookie, Some(Event::KeyNeeded(NodeId(2)))),
    ] {
        frame.truncate(SIGNED_KEY_LEN);
        frame.extend(cookie);
        node.handle_datagram(now, from, &mut frame);
        assert_eq!(node.poll_event(), expected);
    }
}
