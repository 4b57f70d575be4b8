//! The receiving half: acceptability, reassembly, window, acknowledgement policy (RFC 9293 sections 3.4,
//! 3.8.6).

use core::time::Duration;

use crate::{
    config::{MAX_SEGMENT, TransportConfig},
    storage::{assembler::Assembler, recv_queue::RecvQueue},
    time::Instant,
    wire::{sack::SackBlocks, seq::SeqNumber},
};

/// Classification of a data segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// It starts at `rcv_nxt`.
    InOrder,
    /// It lies beyond a gap and was stored.
    OutOfOrder,
    /// It was received already.
    Duplicate,
    /// It is outside the window.
    Unacceptable,
    /// There is no room for it.
    Overflow,
}

/// Pending acknowledgements.
#[derive(Debug, Default)]
pub(super) struct AckState {
    /// Segments received since the last acknowledgement.
    pub(super) pending: u32,
    /// An acknowledgement is due at once.
    pub(super) is_due: bool,
    /// It must be a pure ACK, to carry SACK or to count as duplicate.
    pub(super) must_be_pure: bool,
    /// Duplicate ACKs without SACK still owed to a G1 peer.
    pub(super) duplicates_owed: u8,
}

impl AckState {
    /// A segment with the current acknowledgement was sent; `is_pure` if it had neither data nor FIN.
    pub(super) fn on_sent(&mut self, is_pure: bool) {
        self.pending = 0;
        if is_pure || !self.must_be_pure {
            self.is_due = false;
            self.must_be_pure = false;
        }
    }

    /// Requests an acknowledgement at once.
    pub(super) fn request(&mut self) {
        self.is_due = true;
    }

    /// As [`Self::request`], as a pure ACK.
    pub(super) fn request_pure(&mut self) {
        self.is_due = true;
        self.must_be_pure = true;
    }
}

/// Memory available to a connection's receive or send buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Supply {
    /// Buffers and windows may grow.
    #[default]
    Ample,
    /// Buffers and windows keep their size.
    Scarce,
    /// One segment at a time: received data is kept only if it is in order and nothing is unread, and a
    /// writer may write only after all its data was acknowledged.
    Exhausted,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) queue: RecvQueue,
    assembler: Assembler,
    pub(super) rcv_nxt: SeqNumber,
    /// Advertised right edge of the window; it never moves left.
    rcv_adv: SeqNumber,
    /// Sequence number of the peer's FIN, once it was received.
    fin_seq: Option<SeqNumber>,
    pub(super) is_finished: bool,
    pub(super) ack: AckState,
    capacity: usize,
    max_capacity: usize,
    /// Start of the current read measurement and bytes read in it.
    read: (Instant, usize),
    max_segments: usize,
    pub(super) supply: Supply,
    /// Out-of-order segments since the gap opened.
    pub(super) since_gap: u32,
}

impl Receiver {
    /// A receiver that expects `rcv_nxt`.
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

    /// Free receive buffer, bytes.
    fn free(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }

    /// The advertised window in bytes.
    pub(super) fn window(&self) -> usize {
        self.free() / MAX_SEGMENT * MAX_SEGMENT
    }

    /// The window field of a segment sent now: free slots of one segment each.
    pub(super) fn advertise(&mut self) -> u16 {
        let slots = u16::try_from(self.free() / MAX_SEGMENT).unwrap_or(u16::MAX);
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + usize::from(slots) * MAX_SEGMENT);
        slots
    }

    /// Whether the window grew enough for an unsolicited window update
    /// (RFC 9293 section 3.8.6.2.2).
    pub(super) fn wants_window_update(&self) -> bool {
        let advertised = self.rcv_adv.bytes_since(self.rcv_nxt).unwrap_or(0);
        self.window() >= advertised + self.capacity / 4
    }

    /// Receive buffer auto-tuning: the application read `n` bytes. A window of less than twice the bytes read
    /// per RTT would limit the sender, so it doubles, up to its bound; it never shrinks.
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

    /// Memory held, including out-of-order segments, bytes.
    pub(super) fn held(&self) -> usize {
        self.queue.allocated() + self.assembler.cost()
    }

    /// Drops `n` bytes that were read. Chunks are recycled only while memory is ample.
    pub(super) fn consume(&mut self, n: usize) {
        self.queue.consume(n);
        if self.supply != Supply::Ample {
            self.queue.trim();
        }
    }

    /// A window half filled with out-of-order data doubles, up to its bound: a lost retransmission takes
    /// another RTT, during which the sender should not stall. Out-of-order data does not indicate a slow
    /// reader.
    fn grow_for_recovery(&mut self) {
        if 2 * self.assembler.bytes() >= self.capacity {
            self.grow();
        }
    }

    /// Processes a data segment.
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
        let is_droppable = seq != self.rcv_nxt || !self.queue.is_empty();
        if self.supply == Supply::Exhausted && is_droppable {
            return Arrival::Overflow;
        }
        if seq != self.rcv_nxt {
            if self.assembler.insert(seq, bytes, self.max_segments) {
                self.grow_for_recovery();
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

    /// Whether `seq` lies in the receive window.
    pub(super) fn is_in_window(&self, seq: SeqNumber) -> bool {
        seq >= self.rcv_nxt && seq <= self.rcv_adv
    }

    /// Processes a FIN with sequence number `seq`. Returns whether it is acceptable.
    pub(super) fn on_fin(&mut self, seq: SeqNumber) -> bool {
        if self.fin_seq.is_some_and(|known| known != seq) || seq < self.rcv_nxt || seq > self.rcv_adv {
            return false;
        }
        self.fin_seq = Some(seq);
        true
    }

    /// Whether all data before the peer's FIN was received.
    pub(super) fn is_fin_reachable(&self) -> bool {
        !self.is_finished && self.fin_seq == Some(self.rcv_nxt)
    }

    /// Advances over the peer's FIN if it is in sequence. Returns `true` once.
    pub(super) fn reach_fin(&mut self) -> bool {
        if !self.is_fin_reachable() {
            return false;
        }
        self.is_finished = true;
        self.rcv_nxt += 1;
        true
    }

    /// Whether out-of-order segments are held.
    pub(super) fn has_gap(&self) -> bool {
        !self.assembler.is_empty()
    }

    /// SACK blocks of the held segments.
    pub(super) fn sack_blocks(&self) -> SackBlocks {
        if self.has_gap() { self.assembler.highest_ranges() } else { SackBlocks::default() }
    }

    /// Segments held out of order.
    pub(super) fn out_of_order(&self) -> usize {
        self.assembler.len()
    }

    /// Drops the out-of-order segments, which will never be read.
    pub(super) fn drop_out_of_order(&mut self) {
        self.assembler.clear();
    }
}
