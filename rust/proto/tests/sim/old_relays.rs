//! An older node that lost us for some seconds sends everything through its beacon from then on. It is reached again within five seconds of our return, at the same and at another port.

use std::time::Duration;

use pilot_proto::{
    config::NodeConfig,
    crypto::Suite,
    node::{DialOptions, Event, Node},
    wire::{
        addr::{Address, Port},
        beacon::Message,
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
    },
};

use crate::{
    hand::{Hand, PEER, SELF, at, packet},
    paths_relayed::BEACON,
};

const OUTAGE: Duration = Duration::from_secs(45);
const RETURN: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(50);
const OLD: [Suite; 2] = [Suite::G1, Suite::G2];

impl Hand {
    /// The beacon answers our next question, to the `n`th address.
    fn announce(&mut self, n: u8) {
        self.node.set_beacons(self.now, vec![at(BEACON)]);
        self.drain();
        let begin = self.now;
        let is_question = |(to, bytes): &(_, Vec<u8>)| {
            *to == at(BEACON) && matches!(Message::parse(bytes), Ok(Message::Discover { .. }))
        };
        while !self.sent.iter().any(is_question) {
            assert!(self.now.saturating_since(begin) < RETURN, "the beacon is not asked");
            self.wait(STEP);
        }
        let mut bytes = Vec::new();
        Message::DiscoverReply(at(n)).emit(&mut bytes);
        self.deliver(at(BEACON), &bytes);
    }

    /// Lets time pass while nothing arrives anywhere.
    fn lose(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.wait(STEP);
            self.sent.clear();
        }
    }

    /// Lets time pass while the peer reads what we send either way and answers through the beacon, until one of our packets is
    /// found.
    fn hear(&mut self, mut is_found: impl FnMut(&Header) -> bool) -> Duration {
        let begin = self.now;
        loop {
            let mut frames = self.taken_from_relay();
            let is_direct = |(to, _): &(_, Vec<u8>)| *to == at(1);
            frames.extend(self.sent.extract_if(.., |sent| is_direct(sent)).map(|(_, frame)| frame));
            for frame in frames {
                let had = self.session_key();
                if let Some(pong) = self.take(&frame) {
                    self.relay(at(BEACON), &pong, None);
                }
                if self.session_key() != had {
                    // An older node answers a key with its own.
                    let key = self.signed_key();
                    self.relay(at(BEACON), &key, None);
                }
                if self.opened(&frame).is_some_and(|header| is_found(&header)) {
                    return self.now.saturating_since(begin);
                }
            }
            let took = self.now.saturating_since(begin);
            assert!(took < RETURN, "nothing within {took:?}");
            self.wait(STEP);
        }
    }

    /// The peer dials us through the beacon, as often as an older node does.
    fn call(&mut self) -> Duration {
        let syn = packet(Protocol::Stream, Flags::SYN, (50_000, 80), 1000);
        let frame = self.seal(syn, &[]);
        self.relay(at(BEACON), &frame, None);
        self.hear(|header| header.flags == Flags::SYN.union(Flags::ACK) && header.dst_port == Port(50_000))
    }

    /// We dial the peer, which answers through the beacon.
    fn dial_old(&mut self) {
        let remote = Address::backbone(PEER);
        let id = self.node.connect(self.now, remote, Port(7), DialOptions::default()).unwrap();
        self.drain();
        let mut syn = None;
        self.hear(|header| {
            let is_syn = header.flags == Flags::SYN;
            syn = syn.or(is_syn.then_some((header.src_port.0, header.seq.value())));
            is_syn
        });
        let (port, seq) = syn.unwrap();
        let flags = Flags::SYN.union(Flags::ACK);
        let answer = Header { ack: SeqNumber::new(seq) + 1, ..packet(Protocol::Stream, flags, (7, port), 0) };
        let frame = self.seal(answer, &[]);
        self.relay(at(BEACON), &frame, None);
        assert!(self.events.contains(&Event::Connected(id)));
    }
}

#[test]
fn an_older_node_that_relays_after_our_silence_is_reached_at_the_same_port() {
    for suite in OLD {
        let mut hand = Hand::connected(Some(suite));
        hand.announce(2);
        hand.lose(OUTAGE);
        hand.announce(2);
        hand.call();
        hand.dial_old();
    }
}

#[test]
fn an_older_node_that_relays_after_our_silence_is_reached_at_another_port() {
    for suite in OLD {
        let mut hand = Hand::connected(Some(suite));
        hand.announce(2);
        hand.lose(OUTAGE);
        // We start again, remember the peer and contact it.
        hand.node = Node::new(hand.now, &[2; 32], &[4; 32], NodeConfig::default()).unwrap();
        hand.node.set_address(Address::backbone(SELF));
        hand.node.listen(Port(80)).unwrap();
        hand.announce(3);
        let now = hand.now;
        hand.node.send_datagram(now, Port(0), Address::backbone(PEER), Port(7), b"").unwrap();
        hand.drain();
        hand.hear(|header| header.protocol == Protocol::Control);
        hand.call();
        hand.dial_old();
    }
}

/// What the older node seals under the old keys tells us that it is there, even if nobody remembers it.
#[test]
fn an_older_node_that_nobody_remembers_is_reached_by_its_own_frames() {
    for suite in OLD {
        let mut hand = Hand::connected(Some(suite));
        hand.announce(2);
        hand.lose(OUTAGE);
        hand.node = Node::new(hand.now, &[2; 32], &[4; 32], NodeConfig::default()).unwrap();
        hand.node.set_address(Address::backbone(SELF));
        hand.node.listen(Port(80)).unwrap();
        hand.announce(3);
        // It offers its key anew when nothing comes back, within four seconds.
        let key = hand.signed_key();
        hand.relay(at(BEACON), &key, None);
        hand.hear(|header| header.protocol == Protocol::Control);
        hand.call();
    }
}
