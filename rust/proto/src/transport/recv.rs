//! The receiving half: acceptability, reassembly, window and when to acknowledge
//! (RFC 9293 sections 3.4, 3.8.6).

use core::time::Duration;

use crate::{
    config::{MAX_SEGMENT, TransportConfig},
    storage::{assembler::Assembler, recv_queue::RecvQueue},
    time::Instant,
    wire::{sack::SackBlocks, seq::SeqNumber},
};

/// What a data segment turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// Continues the stream, perhaps closing a gap.
    InOrder,
    /// Lies beyond a gap and was stored.
    OutOfOrder,
    /// Was held already.
    Duplicate,
    /// Lies outside the window.
    Unacceptable,
    /// There was no room for it.
    Overflow,
}

/// What must be acknowledged, and how urgently.
#[derive(Debug, Default)]
pub(super) struct AckState {
    /// Segments that no acknowledgement covers.
    pub(super) pending: u32,
    /// An acknowledgement must leave at the next opportunity.
    pub(super) is_due: bool,
    /// It must be one of its own, to carry SACK or to count as duplicate.
    pub(super) must_be_pure: bool,
    /// Empty duplicates still owed to a peer that does not count those with SACK.
    pub(super) duplicates_owed: u8,
}

impl AckState {
    /// A segment with the current acknowledgement left, `is_pure` unless it carried data or FIN.
    pub(super) fn on_sent(&mut self, is_pure: bool) {
        self.pending = 0;
        if is_pure || !self.must_be_pure {
            self.is_due = false;
            self.must_be_pure = false;
        }
    }

    /// Asks for an acknowledgement at the next opportunity.
    pub(super) fn now(&mut self) {
        self.is_due = true;
    }

    /// As [`Self::now`], in a segment without data.
    pub(super) fn pure_now(&mut self) {
        self.is_due = true;
        self.must_be_pure = true;
    }
}

/// How much memory the node has left for what arrives, or for what is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Supply {
    /// As much as windows ask for.
    #[default]
    Ample,
    /// Windows and buffers do not grow.
    Scarce,
    /// A segment at a time: what arrives is kept only while it fills no gap and nothing is unread, and
    /// nothing more is taken from a writer before all that it wrote was acknowledged.
    Exhausted,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) queue: RecvQueue,
    assembler: Assembler,
    pub(super) rcv_nxt: SeqNumber,
    /// The right edge that was advertised; data up to here is accepted, and it never moves left.
    rcv_adv: SeqNumber,
    /// The number after the last byte, once the peer's FIN was seen.
    fin_seq: Option<SeqNumber>,
    pub(super) is_finished: bool,
    pub(super) ack: AckState,
    capacity: usize,
    max_capacity: usize,
    /// Bytes read since, to tell how much a round trip needs.
    read: (Instant, usize),
    max_segments: usize,
    pub(super) supply: Supply,
    /// Out-of-order segments since the gap opened.
    pub(super) since_gap: u32,
}

impl Receiver {
    /// Expects `rcv_nxt` first.
    pub(super) fn new(rcv_nxt: SeqNumber, config: &TransportConfig) -> Self {
        Self {
            queue: RecvQueue::default(),
            assembler: Assembler::default(),
            rcv_nxt,
            rcv_adv: rcv_nxt + config.recv_buffer,
            fin_seq: None,
            is_finished: false,
            ack: AckState::default(),
            capacity: config.recv_buffer,
            max_capacity: config.max_recv_buffer,
            read: (Instant::ZERO, 0),
            max_segments: config.out_of_order_segments,
            supply: Supply::default(),
            since_gap: 0,
        }
    }

    /// Bytes that may arrive beyond `rcv_nxt`, from what the application has not read.
    fn free(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }

    /// The advertised window in bytes.
    pub(super) fn window(&self) -> usize {
        self.free() / MAX_SEGMENT * MAX_SEGMENT
    }

    /// The window field of a segment that leaves now: free slots, each for one segment of any size.
    pub(super) fn advertise(&mut self) -> u16 {
        let slots = u16::try_from(self.free() / MAX_SEGMENT).unwrap_or(u16::MAX);
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + usize::from(slots) * MAX_SEGMENT);
        slots
    }

    /// Whether the window grew by enough to tell the peer without being asked
    /// (RFC 9293 section 3.8.6.2.2).
    pub(super) fn wants_window_update(&self) -> bool {
        let advertised = self.rcv_adv.bytes_since(self.rcv_nxt).unwrap_or(0);
        self.window() >= advertised + self.capacity / 4
    }

    /// The application read `n` bytes. A window less than twice what it reads in a round trip would
    /// limit the sender, so it doubles, up to its bound; it never shrinks.
    pub(super) fn on_read(&mut self, now: Instant, n: usize, rtt: Duration) {
        let (since, read) = self.read;
        let (elapsed, read) = (now.saturating_since(since), read + n);
        if elapsed < rtt {
            self.read = (since, read);
            return;
        }
        self.read = (now, 0);
        let per_rtt = read as u128 * rtt.as_nanos() / elapsed.as_nanos().max(1);
        if 2 * per_rtt >= self.capacity as u128 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        if self.supply == Supply::Ample {
            self.capacity = (2 * self.capacity).min(self.max_capacity);
        }
    }

    /// Bytes of memory held, in order and behind gaps.
    pub(super) fn held(&self) -> usize {
        self.queue.allocated() + self.assembler.cost()
    }

    /// The application read `n` bytes. Chunks are kept for what comes next while memory is ample.
    pub(super) fn consume(&mut self, n: usize) {
        self.queue.consume(n);
        if self.supply != Supply::Ample {
            self.queue.trim();
        }
    }

    /// A retransmission that is lost as well takes another round trip, in which the sender should not
    /// have to stop: a window of which half waits behind gaps doubles, up to its bound. What waits for
    /// the network and not for the reader is no sign of a slow one.
    fn make_room_for_repair(&mut self) {
        if 2 * self.assembler.bytes() >= self.capacity {
            self.grow();
        }
    }

    /// Takes a data segment.
    pub(super) fn on_data(&mut self, seq: SeqNumber, bytes: &[u8]) -> Arrival {
        let (seq, bytes) = match self.rcv_nxt.bytes_since(seq) {
            Some(known) if known >= bytes.len() => return Arrival::Duplicate,
            Some(known) => (self.rcv_nxt, &bytes[known..]),
            None => (seq, bytes),
        };
        let room = self.rcv_adv.bytes_since(seq).unwrap_or(0);
        if room == 0 || self.fin_seq.is_some_and(|fin| seq >= fin) {
            return Arrival::Unacceptable;
        }
        let bytes = &bytes[..bytes.len().min(room)];
        let is_deferrable = seq != self.rcv_nxt || !self.queue.is_empty();
        if self.supply == Supply::Exhausted && is_deferrable {
            return Arrival::Overflow;
        }
        if seq != self.rcv_nxt {
            if self.assembler.insert(seq, bytes, self.max_segments) {
                self.make_room_for_repair();
                return Arrival::OutOfOrder;
            }
            let is_full = self.assembler.is_full(bytes.len(), self.max_segments);
            return if is_full { Arrival::Overflow } else { Arrival::Duplicate };
        }
        self.queue.append(bytes);
        self.rcv_nxt += bytes.len();
        while let Some(bytes) = self.assembler.pop(self.rcv_nxt) {
            self.queue.append(&bytes);
            self.rcv_nxt += bytes.len();
        }
        Arrival::InOrder
    }

    /// Whether `seq` lies between what is expected next and the right edge of the window.
    pub(super) fn is_in_window(&self, seq: SeqNumber) -> bool {
        seq >= self.rcv_nxt && seq <= self.rcv_adv
    }

    /// Takes a FIN whose number is `seq`. Returns whether it makes sense.
    pub(super) fn on_fin(&mut self, seq: SeqNumber) -> bool {
        if self.fin_seq.is_some_and(|known| known != seq) || seq < self.rcv_nxt || seq > self.rcv_adv {
            return false;
        }
        self.fin_seq = Some(seq);
        true
    }

    /// Whether all data before the peer's FIN has arrived.
    pub(super) fn is_fin_reachable(&self) -> bool {
        !self.is_finished && self.fin_seq == Some(self.rcv_nxt)
    }

    /// Whether the peer's FIN has just been reached; true once.
    pub(super) fn reach_fin(&mut self) -> bool {
        if !self.is_fin_reachable() {
            return false;
        }
        self.is_finished = true;
        self.rcv_nxt += 1;
        true
    }

    /// Whether bytes beyond a gap are held.
    pub(super) fn has_gap(&self) -> bool {
        !self.assembler.is_empty()
    }

    /// What to report beyond the cumulative acknowledgement.
    pub(super) fn sack_blocks(&self) -> SackBlocks {
        if self.has_gap() { self.assembler.highest_ranges() } else { SackBlocks::default() }
    }

    /// Segments held out of order.
    pub(super) fn out_of_order(&self) -> usize {
        self.assembler.len()
    }

    /// Forgets what no reader can reach: segments beyond a gap.
    pub(super) fn drop_gap(&mut self) {
        self.assembler.clear();
    }
}
