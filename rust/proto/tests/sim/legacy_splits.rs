//! Segments split at a reduced path MTU, towards a model of a legacy receiver, which neither trims overlaps nor
//! keeps a segment that begins before what it expects. A failing seed is printed and replays.

use std::{collections::BTreeMap, time::Duration};

use pilot_proto::{
    time::Instant,
    transport::{Connection, Dialect, Options},
    wire::{
        packet::{Flags, Header},
        sack::{self, SackBlock, SackBlocks},
        seq::SeqNumber,
    },
};

use crate::{
    pair::{options, tuple},
    rng::Rng,
    script::{ACK, SYN_ACK, WINDOW, header},
};

const MS: Duration = Duration::from_millis(1);
const LATENCY: Duration = Duration::from_millis(20);
/// Segments that it holds out of order.
const HELD: usize = 128;

struct OldReceiver {
    dialect: Dialect,
    expected: u32,
    held: BTreeMap<u32, Vec<u8>>,
    received: Vec<u8>,
}

impl OldReceiver {
    fn take(&mut self, seq: u32, payload: &[u8]) {
        assert!(SackBlocks::parse(payload).is_err(), "it would take this for an acknowledgement");
        if seq > self.expected && self.held.len() < HELD {
            self.held.entry(seq).or_insert_with(|| payload.to_vec());
        }
        if seq != self.expected {
            return;
        }
        let mut next = Some(payload.to_vec());
        while let Some(bytes) = next {
            self.expected += bytes.len() as u32;
            self.received.extend(bytes);
            next = self.held.remove(&self.expected);
        }
    }

    /// G1 reports the lowest ranges that it holds, G2 the highest.
    fn acknowledgement(&self) -> (Header, Vec<u8>) {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (seq, bytes) in &self.held {
            let end = seq + bytes.len() as u32;
            match ranges.last_mut() {
                Some(last) if last.1 >= *seq => last.1 = last.1.max(end),
                _ => ranges.push((*seq, end)),
            }
        }
        if self.dialect == Dialect::G1 {
            ranges.truncate(sack::MAX_BLOCKS);
        }
        let block = |(left, right): (u32, u32)| SackBlock {
            left_edge: SeqNumber::new(left),
            right_edge: SeqNumber::new(right),
        };
        let mut payload = vec![0; sack::MAX_LEN];
        let len = SackBlocks::highest(ranges.into_iter().map(block)).emit(&mut payload).unwrap_or(0);
        payload.truncate(len);
        (header(ACK, 1, self.expected, WINDOW), payload)
    }
}

/// A connection to it over a path that loses, reorders and becomes narrow.
struct Narrowing {
    seed: u64,
    rng: Rng,
    now: Instant,
    connection: Connection,
    old: OldReceiver,
    to_old: BTreeMap<(Instant, u64), (u32, Vec<u8>)>,
    to_us: BTreeMap<(Instant, u64), (Header, Vec<u8>)>,
    serial: u64,
    loss: u64,
    mtu: usize,
}

impl Narrowing {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let dialect = if seed.is_multiple_of(2) { Dialect::G1 } else { Dialect::G2 };
        let now = Instant::from_millis(1);
        let options = Options { max_segment: 1152, ..options(dialect) };
        let mut connection = Connection::connect(now, tuple(0), options, SeqNumber::new(0));
        assert_eq!(connection.dispatch(now, &mut [0; 34]), Some(34));
        connection.process(now + 2 * LATENCY, &header(SYN_ACK, 0, 1, WINDOW), &[]);
        let old = OldReceiver { dialect, expected: 1, held: BTreeMap::new(), received: Vec::new() };
        Self {
            seed,
            loss: rng.below(6),
            rng,
            now: now + 2 * LATENCY,
            connection,
            old,
            to_old: BTreeMap::new(),
            to_us: BTreeMap::new(),
            serial: 0,
            mtu: usize::MAX,
        }
    }

    fn arrival(&mut self) -> Option<(Instant, u64)> {
        self.serial += 1;
        let jitter = Duration::from_micros(self.rng.below(8000));
        (!self.rng.chance(self.loss)).then_some((self.now + LATENCY + jitter, self.serial))
    }

    fn dispatch(&mut self) {
        let mut buffer = [0; 2048];
        while let Some(len) = self.connection.dispatch(self.now, &mut buffer) {
            let (header, payload) = Header::parse(&buffer[..len]).unwrap();
            if header.flags != Flags::ACK || payload.is_empty() || payload.len() > self.mtu {
                continue;
            }
            if let Some(at) = self.arrival() {
                self.to_old.insert(at, (header.seq.value(), payload.to_vec()));
            }
        }
        while self.connection.poll_event().is_some() {}
    }

    fn step(&mut self) {
        self.dispatch();
        let timer = self.connection.poll_timeout().map(|(at, _)| at);
        let arrivals = [self.to_old.keys().next(), self.to_us.keys().next()];
        let next = arrivals.into_iter().flatten().map(|(at, _)| *at).chain(timer).min().unwrap();
        self.now = self.now.max(next);
        while let Some(entry) = self.to_old.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (seq, payload) = entry.remove();
            self.old.take(seq, &payload);
            let answer = self.old.acknowledgement();
            if let Some(at) = self.arrival() {
                self.to_us.insert(at, answer);
            }
        }
        while let Some(entry) = self.to_us.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (header, payload) = entry.remove();
            self.connection.process(self.now, &header, &payload);
        }
        self.connection.handle_timeout(self.now);
    }

    /// Runs for this time, or until everything arrived.
    fn run(&mut self, time: Duration, total: usize) {
        let end = self.now + time;
        while self.now < end && self.old.received.len() < total {
            self.step();
            assert!(self.connection.broken().is_none(), "seed {}: {:?}", self.seed, self.connection.broken());
        }
    }

    fn reduce(&mut self, segment: usize) {
        self.connection.set_max_segment(segment);
        self.connection.on_path_mtu_reduced(self.now, Instant::ZERO);
    }
}

/// Bytes among which many look like acknowledgements with SACK.
fn confusing(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 40);
    while bytes.len() < len {
        if rng.chance(30) {
            bytes.extend(b"SACK\x01");
        }
        bytes.extend((0..rng.below(12)).map(|_| rng.next() as u8));
    }
    bytes.truncate(len);
    bytes
}

/// Whether the originals were really too large, or the reduction is a false alarm and they arrive as well.
#[test]
fn a_legacy_receiver_gets_every_byte_once_whatever_is_split() {
    for seed in 0..300 {
        let mut net = Narrowing::new(seed);
        let total = 300_000;
        let data = confusing(&mut net.rng, total);
        assert_eq!(net.connection.send(&data), Ok(total));
        for size in [893, 502, 473] {
            let wait = (1 + net.rng.below(150)) as u32 * MS;
            net.run(wait, total);
            if net.rng.chance(50) {
                net.mtu = size;
                let unnoticed = net.rng.below(600) as u32 * MS;
                net.run(unnoticed, total);
            }
            net.reduce(size);
        }
        net.run(Duration::from_secs(300), total);
        assert!(net.old.received == data, "seed {seed}: {} of {total} bytes", net.old.received.len());
        assert!(net.old.held.len() < HELD / 2, "seed {seed}: {} parts left behind", net.old.held.len());
    }
}
