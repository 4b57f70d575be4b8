//! A node and a scripted legacy peer: dialling it, and closing streams with it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::node::{at, configured, seed_of};
use pilot_proto::{
    config::NodeConfig,
    crypto::{exchange::ExchangeKey, identity::Identity},
    node::{ConnectionId, DialOptions, Event, Node},
    storage::token_bucket::TokenBucket,
    time::Instant,
    tunnel::Session,
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{Frame, SEALED_HEADER_LEN, TAG_LEN},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(5);
const OURS: u32 = 1;
const OLD: u32 = 2;

/// The legacy peer: echoes pings, silently drops SYNs above its rate, answers requests with a delay, and
/// takes FIN as the end of both directions.
struct OldNode {
    key: ExchangeKey,
    session: Option<Session>,
    syns: TokenBucket,
    syns_seen: usize,
    /// Scheduled answers.
    answers: VecDeque<(Instant, Header)>,
    out: Vec<Vec<u8>>,
}

impl OldNode {
    fn new(rate: u32, burst: u32) -> Self {
        Self {
            key: ExchangeKey::from_secret(&[77; 32]).unwrap(),
            session: None,
            syns: TokenBucket::new(rate, burst, Instant::ZERO),
            syns_seen: 0,
            answers: VecDeque::new(),
            out: Vec::new(),
        }
    }

    fn take(&mut self, now: Instant, bytes: &[u8]) {
        match Frame::parse(bytes) {
            Ok(Frame::SignedKey(frame)) if self.session.is_none() => {
                self.session = Session::new(&self.key, frame.exchange_key, 5).ok();
                let proof = Identity::from_seed(&seed_of(OLD)).unwrap();
                let proof = proof.sign_exchange_key(NodeId(OLD), self.key.public_key()).unwrap();
                self.out.push(proof.emit().to_vec());
            }
            Ok(Frame::Sealed(header)) => {
                let mut packet = Vec::new();
                let session = self.session.as_mut().unwrap();
                if session.open_to(header, bytes, &mut packet).is_ok() {
                    let (header, payload) = Header::parse(&packet).unwrap();
                    self.take_packet(now, &header, payload);
                }
            }
            _ => {}
        }
    }

    fn take_packet(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        if header.protocol == Protocol::Control {
            if !header.flags.contains(Flags::ACK) {
                self.answer(header, Flags::ACK, header.seq.value(), header.seq + 1, payload);
            }
        } else if header.flags == Flags::SYN {
            self.syns_seen += 1;
            if self.syns.take(now) {
                self.answer(header, Flags::SYN.union(Flags::ACK), 0, header.seq + 1, &[]);
            }
        } else if header.flags.contains(Flags::FIN) {
            // Both directions are closed, pending answers are discarded.
            self.answers.retain(|(_, request)| request.src_port != header.src_port);
            if !header.flags.contains(Flags::ACK) {
                self.answer(header, Flags::FIN.union(Flags::ACK), 1, header.seq + 1, &[]);
            }
        } else if !payload.is_empty() {
            self.answer(header, Flags::ACK, 1, header.seq + payload.len(), &[]);
            self.answers.push_back((now + Duration::from_millis(300), *header));
        }
    }

    fn answer(&mut self, to: &Header, flags: Flags, seq: u32, ack: SeqNumber, payload: &[u8]) {
        let header = Header {
            flags,
            protocol: to.protocol,
            src: to.dst,
            dst: to.src,
            src_port: to.dst_port,
            dst_port: to.src_port,
            seq: SeqNumber::new(seq),
            ack,
            window: 512,
        };
        let end = SEALED_HEADER_LEN + HEADER_LEN + payload.len();
        let mut frame = vec![0; end + TAG_LEN];
        frame[SEALED_HEADER_LEN + HEADER_LEN..end].copy_from_slice(payload);
        assert!(header.emit(&mut frame[SEALED_HEADER_LEN..end]));
        let session = self.session.as_mut().unwrap();
        session.seal(Instant::ZERO, NodeId(OLD), &mut frame).unwrap();
        self.out.push(frame);
    }

    fn act(&mut self, now: Instant) {
        while self.answers.front().is_some_and(|(at, _)| *at <= now) {
            let (_, request) = self.answers.pop_front().unwrap();
            let data = request.seq + 7;
            self.answer(&request, Flags::ACK, 1, data, b"answer");
            self.answer(&request, Flags::FIN, 7, data, &[]);
        }
    }
}

struct Lab {
    now: Instant,
    node: Node,
    old: OldNode,
    /// Whether it goes to our node.
    wire: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    serial: u64,
    events: Vec<(Instant, Event)>,
}

impl Lab {
    /// Establishes the session with the legacy peer.
    fn new(old: OldNode) -> Self {
        let node = configured(OURS, 101, NodeConfig::default());
        let mut lab =
            Self { now: Instant::ZERO, node, old, wire: BTreeMap::new(), serial: 0, events: Vec::new() };
        let id = lab.dial();
        lab.run(SECOND);
        assert!(lab.connected(id).is_some());
        lab.node.abort(lab.now, id);
        lab.run(SECOND);
        lab
    }

    fn dial(&mut self) -> ConnectionId {
        let to = Address::backbone(NodeId(OLD));
        self.node.connect(self.now, to, Port(80), DialOptions::default()).unwrap()
    }

    fn connected(&self, id: ConnectionId) -> Option<Instant> {
        self.events.iter().find(|(_, event)| *event == Event::Connected(id)).map(|(at, _)| *at)
    }

    fn is_closed(&self, id: ConnectionId) -> bool {
        self.events.iter().any(|(_, event)| matches!(event, Event::Closed(closed, _) if *closed == id))
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 65_536];
        while let Some(transmit) = self.node.poll_transmit(self.now, &mut buffer, 1) {
            self.serial += 1;
            self.wire.insert((self.now + LATENCY, self.serial), (false, buffer[..transmit.len].to_vec()));
        }
        while let Some(event) = self.node.poll_event() {
            if let Event::RecordNeeded(id) = event {
                let key = Identity::from_seed(&seed_of(id.0)).unwrap().public_key();
                self.node.on_record(self.now, id, key, Some(at(id.0)));
                self.drain();
            } else {
                self.events.push((self.now, event));
            }
        }
        for frame in self.old.out.drain(..) {
            self.serial += 1;
            self.wire.insert((self.now + LATENCY, self.serial), (true, frame));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let answer = self.old.answers.front().map(|(at, _)| *at);
            let next = [self.node.poll_timeout(), arrival, answer].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (is_ours, mut frame) = entry.remove();
                if is_ours {
                    self.node.handle_datagram(self.now, at(OLD), &mut frame);
                } else {
                    self.old.take(self.now, &frame);
                }
            }
            self.old.act(self.now);
            self.node.handle_timeout(self.now);
        }
        self.now = end;
    }
}

#[test]
fn two_hundred_dials_at_once_succeed_in_seconds() {
    let mut lab = Lab::new(OldNode::new(100, 10));
    let begin = lab.now;
    let ids: Vec<_> = (0..200).map(|_| lab.dial()).collect();
    lab.run(5 * SECOND);
    let times: Vec<_> = ids.iter().map(|id| lab.connected(*id)).collect();
    assert!(times.iter().all(Option::is_some), "{} are up", times.iter().flatten().count());
    let last = times.into_iter().flatten().max().unwrap().saturating_since(begin);
    assert!(last < 4 * SECOND, "{last:?}");
    assert!(lab.old.syns_seen < 300, "{} SYNs", lab.old.syns_seen);
}

/// Even with a lower limit no dial fails, and the peer is not flooded.
#[test]
fn dials_outlast_a_stricter_limit() {
    let mut lab = Lab::new(OldNode::new(10, 10));
    let ids: Vec<_> = (0..200).map(|_| lab.dial()).collect();
    lab.run(25 * SECOND);
    assert!(ids.iter().all(|id| lab.connected(*id).is_some()));
    assert!(lab.old.syns_seen < 25 * 80 + 100, "{} SYNs", lab.old.syns_seen);
}

/// Sequential dials above the peer's limit: dropped SYNs are retransmitted within a second.
#[test]
fn a_dropped_syn_is_retransmitted_early() {
    let mut lab = Lab::new(OldNode::new(100, 20));
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        let (begin, id) = (lab.now, lab.dial());
        while lab.connected(id).is_none() {
            assert!(lab.now.saturating_since(begin) < 3 * SECOND);
            lab.run(Duration::from_millis(1));
        }
        slowest = slowest.max(lab.connected(id).unwrap().saturating_since(begin));
        lab.node.close(lab.now, id);
        lab.events.clear();
    }
    assert!(slowest < SECOND / 4, "{slowest:?}");
}

/// A SYN dropped for another reason fails after the normal SYN timeout.
#[test]
fn an_unanswered_dial_fails_after_the_syn_timeout() {
    let mut lab = Lab::new(OldNode::new(0, 1));
    let id = lab.dial();
    lab.run(30 * SECOND);
    assert!(!lab.is_closed(id));
    lab.run(3 * SECOND);
    assert!(lab.is_closed(id));
}

/// The peer answers after 0.3 s and would discard its answer on our FIN.
#[test]
fn our_fin_waits_for_the_answer_of_a_legacy_peer() {
    let mut lab = Lab::new(OldNode::new(100, 100));
    let id = lab.dial();
    lab.run(SECOND);
    lab.node.with_connection(id, |connection| {
        assert_eq!(connection.send(b"request"), Ok(7));
        connection.shutdown();
    });
    lab.run(SECOND);
    let mut answer = [0; 100];
    let read = lab.node.with_connection(id, |connection| connection.recv(&mut answer)).unwrap();
    assert_eq!((read, &answer[..6]), (Ok(Some(6)), &b"answer"[..]));
    let read = lab.node.with_connection(id, |connection| connection.recv(&mut answer)).unwrap();
    assert_eq!(read, Ok(None), "and its end");
}

/// Closing both directions does not wait.
#[test]
fn a_close_of_both_directions_sends_fin_to_a_legacy_peer() {
    for is_half_closed in [false, true] {
        let mut lab = Lab::new(OldNode::new(100, 100));
        let id = lab.dial();
        lab.run(SECOND);
        if is_half_closed {
            lab.node.with_connection(id, |connection| connection.shutdown());
            lab.run(SECOND);
            assert!(!lab.is_closed(id));
        }
        lab.node.close(lab.now, id);
        lab.run(15 * SECOND);
        assert_eq!(lab.node.connections().count(), 0, "{is_half_closed}");
    }
}
