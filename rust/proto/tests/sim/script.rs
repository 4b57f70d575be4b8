//! One connection and a scripted peer: segments in, segments out, explicit time.
//!
//! Both sides begin at number 0, so that the first byte of data is number 1 in each direction.

use std::time::Duration;

use pilot_proto::{
    config::Algorithm,
    time::Instant,
    transport::{Connection, ConnectionEvent, Dialect, Options, State},
    wire::{
        packet::{Flags, HEADER_LEN, Header, Protocol},
        sack::{self, SackBlock, SackBlocks},
        seq::SeqNumber,
    },
};

use crate::pair::{options, tuple};

pub(crate) const SYN: Flags = Flags::SYN;
pub(crate) const ACK: Flags = Flags::ACK;
pub(crate) const RST: Flags = Flags::RST;
pub(crate) const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);
pub(crate) const FIN_ACK: Flags = Flags::FIN.union(Flags::ACK);
pub(crate) const WINDOW: u16 = 512;

/// A sent segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) flags: Flags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
    pub(crate) at: Duration,
}

impl Out {
    /// Its data's first number and length, unless it is an acknowledgement.
    pub(crate) fn data(&self) -> Option<(u32, usize)> {
        let is_sack = sack::parse_exact(&self.payload, SeqNumber::new(u32::MAX / 2)).is_some();
        (!self.payload.is_empty() && !is_sack).then_some((self.seq, self.payload.len()))
    }
}

/// Segments of a thousand bytes, so that numbers can be read; AIMD, so that windows can be foretold.
pub(crate) fn plain() -> Options {
    Options { max_segment: 1000, congestion: Some(Algorithm::Reno), ..options(Dialect::Native) }
}

/// The first number of the `n`th segment.
pub(crate) fn seg(n: u32) -> u32 {
    1 + n * 1000
}

/// `segments` are written to a connection with a round trip of 50 ms, and those that may leave left.
pub(crate) fn sending(segments: usize) -> Script {
    let mut script = Script::established(plain(), 50);
    script.write(segments * 1000);
    script.data();
    script
}

/// First numbers and lengths of the data among what left.
pub(crate) fn data(sent: &[Out]) -> Vec<(u32, usize)> {
    sent.iter().filter_map(Out::data).collect()
}

pub(crate) struct Script {
    pub(crate) now: Instant,
    begin: Instant,
    pub(crate) connection: Connection,
}

impl Script {
    /// A connection at `now`, nothing taken.
    pub(crate) fn at(connection: Connection, now: Instant) -> Self {
        Self { now, begin: now, connection }
    }

    /// In SYN-SENT, its SYN taken.
    pub(crate) fn connecting(options: Options) -> Self {
        let now = Instant::from_millis(1000);
        let connection = Connection::connect(now, tuple(0), options, SeqNumber::new(0));
        let mut script = Self::at(connection, now);
        assert_eq!(script.sent()[0].flags, SYN);
        script
    }

    /// In ESTABLISHED after a round trip of `rtt_ms`, everything taken.
    pub(crate) fn established(options: Options, rtt_ms: u64) -> Self {
        let mut script = Self::connecting(options);
        script.now += Duration::from_millis(rtt_ms);
        script.recv(SYN_ACK, 0, 1, WINDOW, &[]);
        assert_eq!(script.connection.state(), State::Established);
        script.sent();
        script
    }

    /// A SYN arrived at a listening port: SYN-RECEIVED, its SYN-ACK taken.
    pub(crate) fn accepting(options: Options) -> Self {
        let now = Instant::from_millis(1000);
        let syn = header(SYN, 0, 0, WINDOW);
        let connection = Connection::accept(now, tuple(0), options, SeqNumber::new(0), &syn);
        let mut script = Self::at(connection, now);
        assert_eq!(script.sent()[0].flags, SYN_ACK);
        script
    }

    /// The peer sends a segment.
    pub(crate) fn recv(&mut self, flags: Flags, seq: u32, ack: u32, window: u16, payload: &[u8]) {
        self.connection.process(self.now, &header(flags, seq, ack, window), payload);
    }

    /// The peer acknowledges up to `ack`.
    pub(crate) fn ack(&mut self, ack: u32) {
        self.recv(ACK, 1, ack, WINDOW, &[]);
    }

    /// The peer acknowledges `ack` and reports what it holds beyond.
    pub(crate) fn sack(&mut self, ack: u32, blocks: &[(u32, u32)]) {
        let blocks = blocks.iter().map(|(left, right)| SackBlock {
            left_edge: SeqNumber::new(*left),
            right_edge: SeqNumber::new(*right),
        });
        let mut payload = [0; sack::MAX_LEN];
        let len = SackBlocks::highest(blocks).emit(&mut payload).unwrap();
        self.recv(ACK, 1, ack, WINDOW, &payload[..len]);
    }

    /// All segments sent now.
    pub(crate) fn sent(&mut self) -> Vec<Out> {
        let mut buffer = vec![0; 8192];
        let mut sent = Vec::new();
        while let Some(len) = self.connection.dispatch(self.now, &mut buffer) {
            let (header, payload) = Header::parse(&buffer[..len]).unwrap();
            assert!(len >= HEADER_LEN && sent.len() < 10_000);
            sent.push(Out {
                flags: header.flags,
                seq: header.seq.value(),
                ack: header.ack.value(),
                window: header.window,
                payload: payload.to_vec(),
                at: self.now.saturating_since(self.begin),
            });
        }
        sent
    }

    /// The data that leaves now: first numbers and lengths.
    pub(crate) fn data(&mut self) -> Vec<(u32, usize)> {
        self.sent().iter().filter_map(Out::data).collect()
    }

    /// Advances the time, handling every deadline; returns all sent segments.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Out> {
        let end = self.now + time;
        let mut sent = self.sent();
        while let Some((at, _)) = self.connection.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.connection.handle_timeout(self.now);
            sent.extend(self.sent());
        }
        self.now = end;
        sent
    }

    pub(crate) fn write(&mut self, len: usize) {
        assert_eq!(self.connection.send(&vec![b'x'; len]), Ok(len));
    }

    pub(crate) fn events(&mut self) -> Vec<ConnectionEvent> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }
}

pub(crate) fn header(flags: Flags, seq: u32, ack: u32, window: u16) -> Header {
    let tuple = tuple(1);
    Header {
        flags,
        protocol: Protocol::Stream,
        src: tuple.local,
        dst: tuple.remote,
        src_port: tuple.local_port,
        dst_port: tuple.remote_port,
        seq: SeqNumber::new(seq),
        ack: SeqNumber::new(ack),
        window,
    }
}
