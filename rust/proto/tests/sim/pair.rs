//! Two connections joined by an impaired path in virtual time, driven by a seed.

use std::{collections::BTreeMap, time::Duration};

use crate::rng::Rng;
use pilot_proto::{
    time::Instant,
    transport::{CloseReason, Connection, ConnectionEvent, Dialect, FourTuple, Options},
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, Header},
        seq::SeqNumber,
    },
};

/// Impairments of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) latency: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Time that one packet occupies the link.
    pub(crate) spacing: Duration,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            duplication: 0,
            spacing: Duration::ZERO,
        }
    }
}

pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) received: Vec<u8>,
    pub(crate) events: Vec<ConnectionEvent>,
    to_send: Vec<u8>,
    sent: usize,
    then_shutdown: bool,
    pub(crate) reads: bool,
}

impl End {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            received: Vec::new(),
            events: Vec::new(),
            to_send: Vec::new(),
            sent: 0,
            then_shutdown: false,
            reads: true,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
    }

    pub(crate) fn is_unwritten(&self) -> bool {
        self.to_send.is_empty()
    }

    pub(crate) fn write_and_finish(&mut self, bytes: &[u8]) {
        self.write(bytes);
        self.then_shutdown = true;
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.events.iter().find_map(|event| match event {
            ConnectionEvent::Closed(reason) => Some(*reason),
            _ => None,
        })
    }

    fn run_application(&mut self) {
        if self.sent < self.to_send.len() {
            self.sent += self.connection.send(&self.to_send[self.sent..]).unwrap_or(0);
        }
        if self.then_shutdown && self.sent == self.to_send.len() {
            self.then_shutdown = false;
            self.connection.shutdown_at_once();
        }
        let mut scratch = [0; 65536];
        while self.reads {
            match self.connection.recv(&mut scratch) {
                Ok(Some(n)) if n > 0 => self.received.extend(&scratch[..n]),
                _ => break,
            }
        }
    }
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) ends: [Option<End>; 2],
    pub(crate) path: Path,
    pub(crate) rng: Rng,
    /// Packets by arrival time and a serial number: for whom, header and payload.
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
    free_at: [Instant; 2],
    /// The right edge of each end's window, which never moves left.
    edges: [Option<SeqNumber>; 2],
    /// Every packet that left, before the path touched it.
    pub(crate) trace: Vec<(usize, Header, usize)>,
    pub(crate) accept_options: Options,
}

pub(crate) fn tuple(end: usize) -> FourTuple {
    let address = |n: u32| Address::backbone(NodeId(n));
    if end == 0 {
        FourTuple { local: address(1), local_port: Port(49152), remote: address(2), remote_port: Port(1000) }
    } else {
        FourTuple { local: address(2), local_port: Port(1000), remote: address(1), remote_port: Port(49152) }
    }
}

pub(crate) fn options(dialect: Dialect) -> Options {
    Options { dialect, ..Options::default() }
}

impl Pair {
    /// End 0 dials, end 1 will accept.
    pub(crate) fn dial(seed: u64, dialect: Dialect, path: Path) -> Self {
        Self::with_options(seed, options(dialect), options(dialect), path)
    }

    pub(crate) fn with_options(seed: u64, dialer: Options, acceptor: Options, path: Path) -> Self {
        let iss = SeqNumber::new(if dialer.dialect == Dialect::Native { u32::MAX - 5000 } else { 0 });
        let client = Connection::connect(Instant::ZERO, tuple(0), dialer, iss);
        Self {
            now: Instant::ZERO,
            ends: [Some(End::new(client)), None],
            path,
            rng: Rng(seed),
            wire: BTreeMap::new(),
            serial: 0,
            free_at: [Instant::ZERO; 2],
            edges: [None; 2],
            trace: Vec::new(),
            accept_options: acceptor,
        }
    }

    pub(crate) fn end(&mut self, end: usize) -> &mut End {
        self.ends[end].as_mut().expect("the end exists")
    }

    fn transmit(&mut self, from: usize, packet: Vec<u8>) {
        let (header, payload) = Header::parse(&packet).expect("own packets parse");
        self.trace.push((from, header, payload.len()));
        if header.flags == Flags::ACK {
            // A window counts whole segments of 4,096 bytes.
            let edge = header.ack + usize::from(header.window) * 4096;
            let before = self.edges[from].replace(edge);
            let is_kept = before.is_none_or(|before| edge.distance_from(before) > -4096);
            assert!(is_kept, "the right edge of end {from} moved left: {before:?} to {edge:?}");
        }
        let copies = 1 + usize::from(self.rng.chance(self.path.duplication));
        for _ in 0..copies {
            if self.rng.chance(self.path.loss) {
                continue;
            }
            let jitter = Duration::from_nanos(self.rng.below(self.path.jitter.as_nanos() as u64 + 1));
            self.serial += 1;
            let departure = self.free_at[from].as_nanos().max(self.now.as_nanos());
            self.free_at[from] = Instant::from_nanos(departure) + self.path.spacing;
            let at = self.free_at[from] + self.path.latency + jitter;
            self.wire.insert((at, self.serial), (1 - from, packet.clone()));
        }
    }

    /// Runs both applications and sends, without advancing the time.
    pub(crate) fn service(&mut self) {
        let mut buffer = vec![0; 8192];
        for end in 0..2 {
            let Some(mut this) = self.ends[end].take() else { continue };
            loop {
                this.run_application();
                let mut is_idle = true;
                while let Some(len) = this.connection.dispatch(self.now, &mut buffer) {
                    self.transmit(end, buffer[..len].to_vec());
                    is_idle = false;
                }
                while let Some(event) = this.connection.poll_event() {
                    this.events.push(event);
                    is_idle = false;
                }
                if is_idle {
                    break;
                }
            }
            self.ends[end] = Some(this);
        }
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let (header, payload) = Header::parse(packet).expect("own packets parse");
        if to == 1 && self.ends[1].is_none() && header.flags == Flags::SYN {
            let iss = SeqNumber::new(self.rng.next() as u32);
            let iss = if self.accept_options.dialect == Dialect::Native { iss } else { SeqNumber::new(0) };
            let options = self.accept_options.clone();
            self.ends[1] = Some(End::new(Connection::accept(self.now, tuple(1), options, iss, &header)));
            return;
        }
        if let Some(end) = &mut self.ends[to] {
            end.connection.process(self.now, &header, payload);
        }
    }

    /// Advances to the next thing that happens; `false` when nothing ever will.
    pub(crate) fn step(&mut self) -> bool {
        self.service();
        let timer = self
            .ends
            .iter()
            .flatten()
            .filter_map(|end| end.connection.poll_timeout())
            .map(|(at, _)| at)
            .min();
        let arrival = self.wire.keys().next().copied();
        let Some(next) = timer.into_iter().chain(arrival.map(|(at, _)| at)).min() else { return false };
        self.now = Instant::from_nanos(self.now.as_nanos().max(next.as_nanos()));
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, packet) = entry.remove();
            self.deliver(to, &packet);
        }
        for end in self.ends.iter_mut().flatten() {
            end.connection.handle_timeout(self.now);
        }
        self.service();
        true
    }

    /// Runs until `is_done`, for at most `limit` of virtual time.
    pub(crate) fn run_until(&mut self, limit: Duration, mut is_done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while !is_done(self) {
            assert!(self.step(), "stuck: nothing will ever happen, at {:?}", self.now);
            assert!(self.now <= end, "not done after {limit:?}");
        }
    }

    pub(crate) fn establish(&mut self) {
        self.run_until(Duration::from_secs(60), |pair| {
            pair.ends.iter().flatten().filter(|e| e.events.contains(&ConnectionEvent::Connected)).count() == 2
        });
    }

    /// Drops every packet from now on.
    pub(crate) fn cut(&mut self) {
        self.path.loss = 100;
        self.wire.clear();
    }
}
