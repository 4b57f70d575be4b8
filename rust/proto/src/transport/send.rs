//! The sending half: sequence space, retransmission queue, scoreboard and loss detection
//! (RFC 9293 section 3.4, RFC 6675). It decides what may be sent; `connection` builds the segment.

use std::collections::VecDeque;

use crate::{
    storage::send_queue::SendQueue,
    time::Instant,
    wire::{
        sack::{SackBlock, SackBlocks},
        seq::SeqNumber,
    },
};

/// Where a sent segment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// On its way, as far as we know.
    InFlight,
    /// Held by the peer beyond a gap.
    Sacked,
    /// Deemed lost and waiting for its retransmission.
    Lost,
}

/// A segment in the retransmission queue. Its boundaries never change: old receivers cannot trim.
#[derive(Debug)]
struct Sent {
    seq: SeqNumber,
    len: usize,
    is_fin: bool,
    place: Place,
    transmissions: u32,
    sent_at: Instant,
}

impl Sent {
    /// Sequence numbers it takes.
    fn size(&self) -> usize {
        self.len + usize::from(self.is_fin)
    }

    fn end(&self) -> SeqNumber {
        self.seq + self.size()
    }
}

/// What is being repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recovery {
    /// Nothing.
    Open,
    /// A loss that acknowledgements revealed; over when `recover` is acknowledged (RFC 6582).
    Fast { recover: SeqNumber },
    /// A loss that the timer revealed.
    Timeout { recover: SeqNumber },
}

/// What an acknowledgement did.
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// Sequence numbers newly acknowledged.
    pub(super) bytes: usize,
    /// Whether our FIN is among them.
    pub(super) fin: bool,
    /// When the last of them that was sent only once left.
    pub(super) sampled_at: Option<Instant>,
}

/// A segment to be put on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) seq: SeqNumber,
    pub(super) len: usize,
    pub(super) is_fin: bool,
}

/// The sending half of a connection whose SYN was acknowledged.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) queue: SendQueue,
    sent: VecDeque<Sent>,
    /// Lost segments by first number, ascending, some of them stale.
    lost: VecDeque<SeqNumber>,
    pub(super) snd_una: SeqNumber,
    pub(super) snd_nxt: SeqNumber,
    /// Number of the first octet in `queue`.
    queue_seq: SeqNumber,
    in_flight: usize,
    sacked: usize,
    /// Segments before this number were judged lost or not.
    judged: SeqNumber,
    sacked_before_judged: usize,
    last_blocks: SackBlocks,
    pub(super) recovery: Recovery,
    /// After a timeout a single segment leaves before the next acknowledgement.
    is_gated: bool,
    /// End of the last segment shorter than a full one (Minshall's variant of Nagle).
    pub(super) snd_sml: SeqNumber,
    pub(super) is_fin_sent: bool,
}

impl Sender {
    /// Starts at `first`, the number of the first octet of data.
    pub(super) fn new(first: SeqNumber) -> Self {
        Self {
            queue: SendQueue::default(),
            sent: VecDeque::new(),
            lost: VecDeque::new(),
            snd_una: first,
            snd_nxt: first,
            queue_seq: first,
            in_flight: 0,
            sacked: 0,
            judged: first,
            sacked_before_judged: 0,
            last_blocks: SackBlocks::default(),
            recovery: Recovery::Open,
            is_gated: false,
            snd_sml: first,
            is_fin_sent: false,
        }
    }

    /// Octets written and not sent.
    pub(super) fn unsent(&self) -> usize {
        let sent = self.snd_nxt.bytes_since(self.queue_seq).unwrap_or(0) - usize::from(self.is_fin_sent);
        self.queue.len().saturating_sub(sent)
    }

    /// Sequence numbers on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Segments sent and not acknowledged.
    pub(super) fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// Whether a retransmission is waiting.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Copies a segment's octets from the queue.
    pub(super) fn copy(&self, segment: Outgoing, out: &mut [u8]) -> bool {
        match segment.seq.bytes_since(self.queue_seq) {
            Some(offset) => self.queue.copy_to(offset, out),
            None => false,
        }
    }

    /// The next retransmission that `cwnd` allows. At least one segment may always be in flight.
    pub(super) fn next_retransmission(&mut self, now: Instant, cwnd: usize) -> Option<Outgoing> {
        while let Some(seq) = self.lost.front().copied() {
            let at = self.sent.partition_point(|sent| sent.seq < seq);
            let Some(sent) = self.sent.get_mut(at).filter(|s| s.seq == seq && s.place == Place::Lost) else {
                self.lost.pop_front();
                continue;
            };
            let size = sent.size();
            if self.in_flight > 0 && (self.is_gated || self.in_flight + size > cwnd) {
                return None;
            }
            self.lost.pop_front();
            sent.place = Place::InFlight;
            sent.transmissions += 1;
            sent.sent_at = now;
            self.in_flight += size;
            return Some(Outgoing { seq, len: sent.len, is_fin: sent.is_fin });
        }
        None
    }

    /// Records `len` new octets (and FIN) as sent and returns the segment.
    pub(super) fn send_new(&mut self, now: Instant, len: usize, is_fin: bool) -> Outgoing {
        let seq = self.snd_nxt;
        let sent = Sent { seq, len, is_fin, place: Place::InFlight, transmissions: 1, sent_at: now };
        self.snd_nxt = sent.end();
        self.in_flight += sent.size();
        self.is_fin_sent |= is_fin;
        self.sent.push_back(sent);
        Outgoing { seq, len, is_fin }
    }

    /// Takes a cumulative acknowledgement in (UNA, NXT]. One that falls inside a segment counts up to
    /// the segment's start.
    pub(super) fn on_ack(&mut self, ack: SeqNumber) -> Acked {
        let mut acked = Acked::default();
        while let Some(sent) = self.sent.front() {
            if sent.end() > ack {
                break;
            }
            let size = sent.size();
            match sent.place {
                Place::InFlight => self.in_flight -= size,
                Place::Sacked => {
                    self.sacked -= size;
                    if sent.seq < self.judged {
                        self.sacked_before_judged -= size;
                    }
                }
                Place::Lost => {}
            }
            if sent.transmissions == 1 && sent.place == Place::InFlight {
                acked.sampled_at = Some(sent.sent_at);
            }
            acked.bytes += size;
            acked.fin |= sent.is_fin;
            self.snd_una = sent.end();
            self.queue.release(sent.len);
            self.queue_seq += sent.len;
            self.sent.pop_front();
        }
        if self.sent.is_empty() {
            self.lost.clear();
        }
        if self.judged < self.snd_una {
            self.judged = self.snd_una;
        }
        if acked.bytes > 0 {
            self.is_gated = false;
        }
        acked
    }

    /// Marks what the peer holds beyond the gap. Returns whether anything was new.
    pub(super) fn on_sack(&mut self, blocks: &SackBlocks) -> bool {
        let mut is_new = false;
        for block in blocks.as_slice() {
            // A block that only grew on the right is walked from where it ended before.
            let known = self.last_blocks.as_slice().iter().find(|old| old.left_edge == block.left_edge);
            let left_edge = known.map_or(block.left_edge, |old| old.right_edge.min(block.right_edge));
            is_new |= self.mark_sacked(SackBlock { left_edge, right_edge: block.right_edge });
        }
        self.last_blocks = *blocks;
        self.is_gated &= !is_new;
        is_new
    }

    fn mark_sacked(&mut self, block: SackBlock) -> bool {
        let mut is_new = false;
        let from = self.sent.partition_point(|sent| sent.seq < block.left_edge);
        for sent in self.sent.range_mut(from..) {
            if sent.end() > block.right_edge {
                break;
            }
            let size = sent.size();
            match sent.place {
                Place::Sacked => continue,
                Place::InFlight => self.in_flight -= size,
                Place::Lost => {}
            }
            sent.place = Place::Sacked;
            self.sacked += size;
            if sent.seq < self.judged {
                self.sacked_before_judged += size;
            }
            is_new = true;
        }
        is_new
    }

    /// Judges segments below the highest selective acknowledgement: lost when more than
    /// `reordering` octets above them arrived (IsLost of RFC 6675). Returns whether any was.
    pub(super) fn detect_lost(&mut self, reordering: usize) -> bool {
        let mut found = false;
        let from = self.sent.partition_point(|sent| sent.seq < self.judged);
        for sent in self.sent.range_mut(from..) {
            if self.sacked - self.sacked_before_judged <= reordering {
                break;
            }
            let size = sent.size();
            match sent.place {
                Place::Sacked => self.sacked_before_judged += size,
                Place::InFlight => {
                    sent.place = Place::Lost;
                    self.in_flight -= size;
                    self.lost.push_back(sent.seq);
                    found = true;
                }
                Place::Lost => {}
            }
            self.judged = sent.end();
        }
        found
    }

    /// Deems the first unacknowledged segment lost. Returns whether it was not yet.
    pub(super) fn mark_head_lost(&mut self) -> bool {
        let Some(head) = self.sent.front_mut().filter(|head| head.place == Place::InFlight) else {
            return false;
        };
        head.place = Place::Lost;
        self.in_flight -= head.size();
        self.lost.push_front(head.seq);
        true
    }

    /// Whether the peer reports nothing beyond the cumulative acknowledgement.
    pub(super) fn is_scoreboard_empty(&self) -> bool {
        self.sacked == 0
    }

    /// The retransmission timer expired: all that is not selectively acknowledged is lost, and one
    /// segment may go before the next acknowledgement. A peer that reports holding the very first
    /// segment has reneged (RFC 2018 section 8), so nothing it reported counts.
    pub(super) fn on_timeout(&mut self) {
        let has_reneged = self.sent.front().is_some_and(|head| head.place == Place::Sacked);
        self.lost.clear();
        self.in_flight = 0;
        if has_reneged {
            self.sacked = 0;
            self.last_blocks = SackBlocks::default();
        }
        for sent in &mut self.sent {
            if sent.place != Place::Sacked || has_reneged {
                sent.place = Place::Lost;
                self.lost.push_back(sent.seq);
            }
        }
        self.judged = self.snd_nxt;
        self.sacked_before_judged = self.sacked;
        self.is_gated = true;
    }

    /// Forgets all data.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.sent = VecDeque::new();
        self.lost = VecDeque::new();
        self.in_flight = 0;
        self.sacked = 0;
        self.sacked_before_judged = 0;
    }
}
