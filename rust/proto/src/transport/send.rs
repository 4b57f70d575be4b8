//! The sending half: sequence space, retransmission queue, scoreboard and loss detection (RFC 9293 section
//! 3.4, RFC 6675, RFC 8985). It selects what to send; `dispatch` builds the segments.

mod loss;
mod paths;

use core::time::Duration;
use std::collections::VecDeque;

use paths::LeftFlight;
pub(super) use paths::Patience;

use super::{
    PathKey,
    rack::Rack,
    rate::{RateSample, RateSampler, SendState},
};
use crate::{
    config::MIN_SEGMENT,
    storage::send_queue::SendQueue,
    time::Instant,
    wire::{
        sack::{self, SackBlock, SackBlocks},
        seq::SeqNumber,
    },
};

/// Scoreboard status of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// In flight.
    InFlight,
    /// Selectively acknowledged.
    Sacked,
    /// Marked lost, not yet retransmitted.
    Lost,
}

/// A segment in the retransmission queue. Segments are split only for native peers, and only when the path
/// MTU was reduced: legacy receivers cannot trim overlaps.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: SeqNumber,
    len: usize,
    is_fin: bool,
    status: Status,
    transmissions: u32,
    /// The path of its last transmission.
    path: PathKey,
    /// It was given up for another reason than congestion: its path was left, or carries only shorter ones.
    is_excused: bool,
    /// The congestion window already grew by it.
    is_counted: bool,
    sent_at: Instant,
    rate: SendState,
}

impl Sent {
    /// Sequence numbers that it occupies.
    fn size(&self) -> usize {
        self.len + usize::from(self.is_fin)
    }

    fn end(&self) -> SeqNumber {
        self.seq + self.size()
    }
}

/// Recovery state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recovery {
    /// No loss.
    Open,
    /// Fast recovery, until `recover` is acknowledged (RFC 6582).
    Fast { recover: SeqNumber },
    /// Recovery after a retransmission timeout.
    Timeout { recover: SeqNumber },
}

/// Effect of an acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// Sequence numbers newly acknowledged cumulatively.
    pub(super) bytes: usize,
    /// Sequence numbers newly acknowledged cumulatively or selectively.
    pub(super) delivered: usize,
    /// Those among them sent on the current path.
    pub(super) delivered_here: usize,
    /// Sequence numbers sent on the current path by which the congestion window may grow.
    pub(super) counted: usize,
    /// Whether our FIN was acknowledged.
    pub(super) fin: bool,
    /// Latest send time among the segments sent once, for an RTT sample.
    pub(super) sampled_at: Option<Instant>,
    /// Spurious retransmissions.
    pub(super) spurious: u32,
    /// The most recently sent of the delivered segments.
    newest: Option<(Instant, SeqNumber, SendState)>,
}

/// A segment to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) seq: SeqNumber,
    pub(super) len: usize,
    pub(super) is_fin: bool,
    /// It was given up for another reason than congestion.
    pub(super) is_excused: bool,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) queue: SendQueue,
    sent: VecDeque<Sent>,
    /// Sequence numbers of lost segments, ascending; may contain stale entries.
    lost: VecDeque<SeqNumber>,
    pub(super) snd_una: SeqNumber,
    pub(super) snd_nxt: SeqNumber,
    /// Sequence number of the first byte in `queue`.
    queue_seq: SeqNumber,
    /// Sequence numbers in flight on the current path.
    in_flight: usize,
    /// Number of segments marked lost that indicate congestion of the current path.
    losses: usize,
    /// Number of selectively acknowledged segments.
    sacked: usize,
    /// Segments sent once before this number need no further loss check.
    loss_checked: SeqNumber,
    /// Retransmitted segments by send time; may contain stale entries.
    retransmitted: VecDeque<(Instant, SeqNumber)>,
    pub(super) rack: Rack,
    rate: RateSampler,
    last_blocks: SackBlocks,
    /// The current path, and since when it is used.
    path: PathKey,
    path_since: Instant,
    left: Vec<LeftFlight>,
    /// How long an answer may take on the current path.
    pub(super) answer_time: Duration,
    pub(super) recovery: Recovery,
    /// After a timeout, only one segment may be sent before the next acknowledgement.
    is_rto_limited: bool,
    /// The first retransmission of a recovery ignores the window (RFC 6675 section 5, 4.3).
    is_forced: bool,
    /// SND.SML: end of the last partial segment (Minshall's variant of Nagle's algorithm).
    pub(super) snd_sml: SeqNumber,
    pub(super) is_fin_sent: bool,
    /// A large segment was lost again and again while others arrived.
    pub(super) is_path_suspect: bool,
}

impl Sender {
    /// A sender whose first data byte has sequence number `first`.
    pub(super) fn new(first: SeqNumber) -> Self {
        Self {
            queue: SendQueue::default(),
            sent: VecDeque::new(),
            lost: VecDeque::new(),
            snd_una: first,
            snd_nxt: first,
            queue_seq: first,
            in_flight: 0,
            losses: 0,
            sacked: 0,
            loss_checked: first,
            retransmitted: VecDeque::new(),
            rack: Rack::new(first),
            rate: RateSampler::default(),
            last_blocks: SackBlocks::default(),
            path: PathKey::default(),
            path_since: Instant::ZERO,
            left: Vec::new(),
            answer_time: Duration::ZERO,
            recovery: Recovery::Open,
            is_rto_limited: false,
            is_forced: false,
            snd_sml: first,
            is_fin_sent: false,
            is_path_suspect: false,
        }
    }

    /// Bytes written and not sent.
    pub(super) fn unsent(&self) -> usize {
        let sent = self.snd_nxt.bytes_since(self.queue_seq).unwrap_or(0);
        self.queue.len().saturating_sub(sent)
    }

    /// Memory held, including the retransmission queue, bytes.
    pub(super) fn held(&self) -> usize {
        self.queue.allocated()
            + self.sent.capacity() * size_of::<Sent>()
            + self.lost.capacity() * size_of::<SeqNumber>()
            + (self.retransmitted.capacity() + self.left_flights()) * size_of::<(Instant, SeqNumber)>()
    }

    /// Sequence numbers in flight on the current path.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Segments sent and not acknowledged.
    pub(super) fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// Whether a segment is marked lost that indicates congestion.
    pub(super) fn has_congestion_loss(&self) -> bool {
        self.losses > 0
    }

    /// Whether a segment is marked lost.
    pub(super) fn has_lost(&mut self) -> bool {
        self.first_lost().is_some()
    }

    /// Index of the first lost segment. Drops stale entries before it.
    fn first_lost(&mut self) -> Option<usize> {
        while let Some(seq) = self.lost.front().copied() {
            let at = self.sent.partition_point(|sent| sent.seq < seq);
            if self.sent.get(at).is_some_and(|sent| sent.seq == seq && sent.status == Status::Lost) {
                return Some(at);
            }
            self.lost.pop_front();
        }
        None
    }

    /// Copies bytes from the queue.
    pub(super) fn copy(&self, seq: SeqNumber, out: &mut [u8]) -> bool {
        match seq.bytes_since(self.queue_seq) {
            Some(offset) => self.queue.copy_to(offset, out),
            None => false,
        }
    }

    /// The length to which data must be shortened so that no receiver parses it as SACK; `None` if it is safe.
    pub(super) fn look_alike_len(&self, seq: SeqNumber, len: usize) -> Option<usize> {
        let mut front = [0; sack::MAX_LEN];
        let front = &mut front[..len.min(sack::MAX_LEN)];
        if self.copy(seq, front) { sack::look_alike_len(front) } else { None }
    }

    /// The next retransmission that `cwnd` allows. At least one segment may always be in flight. A segment
    /// longer than `max_len`, because the path MTU was reduced, is split.
    pub(super) fn next_retransmission(
        &mut self,
        now: Instant,
        cwnd: usize,
        max_len: usize,
    ) -> Option<Outgoing> {
        let at = self.first_lost()?;
        if self.sent[at].len > max_len {
            self.split_lost(at, max_len);
            let rest = self.sent[at + 1];
            if let Some(len) = self.look_alike_len(rest.seq, rest.len) {
                self.split_lost(at + 1, len);
            }
        }
        let sent = &mut self.sent[at];
        let size = sent.size();
        let is_over = self.is_rto_limited || self.in_flight + size > cwnd;
        if self.in_flight > 0 && is_over && !self.is_forced {
            return None;
        }
        let is_excused = core::mem::take(&mut sent.is_excused);
        self.is_forced = false;
        self.lost.pop_front();
        self.losses -= usize::from(!is_excused);
        sent.path = self.path;
        sent.status = Status::InFlight;
        sent.transmissions += 1;
        sent.sent_at = now;
        self.in_flight += size;
        sent.rate = self.rate.on_sent(now, self.in_flight, size);
        self.retransmitted.push_back((now, sent.seq));
        Some(Outgoing { seq: sent.seq, len: sent.len, is_fin: sent.is_fin, is_excused })
    }

    /// Splits a lost segment after `len` bytes.
    fn split_lost(&mut self, at: usize, len: usize) {
        let first = &mut self.sent[at];
        let rest = Sent { seq: first.seq + len, len: first.len - len, ..*first };
        (first.len, first.is_fin) = (len, false);
        self.losses += usize::from(!first.is_excused);
        self.sent.insert(at + 1, rest);
        let position = self.lost.partition_point(|known| *known < rest.seq);
        self.lost.insert(position, rest.seq);
    }

    /// Retransmits the last segment, as a tail loss probe (RFC 8985 section 7.3).
    pub(super) fn retransmit_last(&mut self, now: Instant, max_len: usize) -> Option<Outgoing> {
        let path = self.path;
        let is_probe =
            |sent: &&mut Sent| sent.status == Status::InFlight && sent.path == path && sent.len <= max_len;
        let sent = self.sent.back_mut().filter(is_probe)?;
        sent.transmissions += 1;
        sent.sent_at = now;
        sent.rate = self.rate.on_sent(now, self.in_flight, sent.size());
        self.retransmitted.push_back((now, sent.seq));
        Some(Outgoing { seq: sent.seq, len: sent.len, is_fin: sent.is_fin, is_excused: false })
    }

    /// Whether the first unacknowledged segment is larger than the smallest path MTU.
    pub(super) fn is_head_large(&self) -> bool {
        self.sent.front().is_some_and(|head| head.len > MIN_SEGMENT)
    }

    /// Lets the next retransmission ignore the window.
    pub(super) fn force_retransmission(&mut self) {
        self.is_forced = true;
    }

    /// Whether the first unacknowledged segment is `seq`.
    pub(super) fn is_head(&self, seq: SeqNumber) -> bool {
        self.sent.front().is_some_and(|head| head.seq == seq)
    }

    /// Records `len` bytes of new data, or FIN, as sent and returns the segment.
    pub(super) fn send_new(&mut self, now: Instant, len: usize, is_fin: bool) -> Outgoing {
        let seq = self.snd_nxt;
        let size = len + usize::from(is_fin);
        self.in_flight += size;
        let rate = self.rate.on_sent(now, self.in_flight, size);
        let sent = Sent {
            seq,
            len,
            is_fin,
            status: Status::InFlight,
            transmissions: 1,
            path: self.path,
            is_excused: false,
            is_counted: false,
            sent_at: now,
            rate,
        };
        self.snd_nxt = sent.end();
        self.is_fin_sent = is_fin;
        self.sent.push_back(sent);
        Outgoing { seq, len, is_fin, is_excused: false }
    }

    /// Processes a cumulative acknowledgement in (SND.UNA, SND.NXT]. Partially acknowledged segments stay in
    /// the queue.
    pub(super) fn on_ack(&mut self, now: Instant, ack: SeqNumber, min_rtt: Duration, acked: &mut Acked) {
        let before = acked.bytes;
        while self.sent.front().is_some_and(|sent| sent.end() <= ack) {
            let Some(sent) = self.sent.pop_front() else { break };
            let size = sent.size();
            self.leave_queue(&sent);
            if sent.status == Status::Sacked {
                self.sacked -= 1;
            } else {
                self.deliver(now, &sent, min_rtt, acked);
            }
            acked.bytes += size;
            if sent.path == self.path && !sent.is_counted {
                acked.counted += size;
            }
            acked.fin |= sent.is_fin;
            self.snd_una = sent.end();
            self.queue.release(sent.len);
            self.queue_seq += sent.len;
        }
        if self.sent.is_empty() {
            // Free the memory of an idle connection.
            self.sent = VecDeque::new();
            self.lost = VecDeque::new();
            self.retransmitted = VecDeque::new();
            self.forget_flights();
        }
        self.loss_checked = self.loss_checked.max(self.snd_una);
        if acked.bytes > before {
            self.is_rto_limited = false;
        }
    }

    /// A segment was delivered.
    fn deliver(&mut self, now: Instant, sent: &Sent, min_rtt: Duration, acked: &mut Acked) {
        acked.delivered += sent.size();
        if sent.path != self.path {
            self.deliver_elsewhere(now, sent);
            return;
        }
        acked.delivered_here += sent.size();
        self.rate.on_delivered(now, sent.size());
        // What was sent before the path was left and taken again includes the time between.
        let is_recent = sent.sent_at >= self.path_since;
        if sent.transmissions == 1 && is_recent {
            acked.sampled_at = acked.sampled_at.max(Some(sent.sent_at));
        }
        if !self.rack.on_delivered(now, sent.sent_at, sent.end(), sent.transmissions, min_rtt) {
            acked.spurious += 1;
            return;
        }
        let (sent_at, end) = (sent.sent_at, sent.end());
        if is_recent && acked.newest.is_none_or(|newest| (sent_at, end) > (newest.0, newest.1)) {
            acked.newest = Some((sent_at, end, sent.rate));
        }
    }

    /// The delivery rate sample of an acknowledgement.
    pub(super) fn rate_sample(&mut self, acked: &Acked) -> Option<RateSample> {
        acked.newest.as_ref().map(|(_, _, state)| self.rate.sample(state))
    }

    /// The application has no more data although the window has room.
    pub(super) fn on_app_limited(&mut self) {
        self.rate.on_app_limited(self.in_flight);
    }

    /// Whether the connection is application-limited.
    pub(super) fn is_app_limited(&self) -> bool {
        self.rate.is_app_limited()
    }

    /// Sequence numbers delivered since the start.
    pub(super) fn delivered(&self) -> u64 {
        self.rate.delivered()
    }

    /// Applies SACK blocks to the scoreboard.
    pub(super) fn on_sack(
        &mut self,
        now: Instant,
        blocks: &SackBlocks,
        min_rtt: Duration,
        acked: &mut Acked,
    ) {
        let before = acked.delivered;
        for block in blocks.as_slice() {
            // For a block that only grew to the right, skip the part applied before.
            let known = self.last_blocks.as_slice().iter().find(|old| old.left_edge == block.left_edge);
            let left_edge = known.map_or(block.left_edge, |old| old.right_edge.min(block.right_edge));
            self.mark_sacked(now, SackBlock { left_edge, right_edge: block.right_edge }, min_rtt, acked);
        }
        self.last_blocks = *blocks;
        if acked.delivered > before {
            self.is_rto_limited = false;
        }
    }

    fn mark_sacked(&mut self, now: Instant, block: SackBlock, min_rtt: Duration, acked: &mut Acked) {
        let is_blocked = self.is_head_elsewhere();
        let from = self.sent.partition_point(|sent| sent.seq < block.left_edge);
        for at in from..self.sent.len() {
            let sent = &mut self.sent[at];
            if sent.end() > block.right_edge {
                break;
            }
            if sent.status == Status::Sacked {
                continue;
            }
            let before = *sent;
            sent.status = Status::Sacked;
            if is_blocked && sent.path == self.path && !sent.is_counted {
                sent.is_counted = true;
                acked.counted += sent.size();
            }
            self.sacked += 1;
            let sent = *sent;
            self.leave_queue(&before);
            self.deliver(now, &sent, min_rtt, acked);
        }
    }

    /// A segment is no longer in flight or marked lost.
    fn leave_queue(&mut self, sent: &Sent) {
        match sent.status {
            Status::InFlight if sent.path == self.path => self.in_flight -= sent.size(),
            Status::Lost if !sent.is_excused => self.losses -= 1,
            Status::InFlight | Status::Lost | Status::Sacked => {}
        }
    }

    /// Number of selectively acknowledged segments.
    pub(super) fn sacked(&self) -> usize {
        self.sacked
    }

    /// Drops all data.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.sent = VecDeque::new();
        self.lost = VecDeque::new();
        self.in_flight = 0;
        self.losses = 0;
        self.sacked = 0;
        self.retransmitted = VecDeque::new();
        self.left = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(n: u32) -> SeqNumber {
        SeqNumber::new(n)
    }

    /// Three segments of a thousand bytes, sent at once.
    fn three_sent() -> Sender {
        let mut sender = Sender::new(seq(1));
        sender.queue.write(&[0; 3000], 3000);
        for _ in 0..3 {
            sender.send_new(Instant::ZERO, 1000, false);
        }
        sender
    }

    /// The peer acknowledges up to `ack` and selectively the third segment.
    fn acknowledge(sender: &mut Sender, ack: u32) -> RateSample {
        let now = Instant::from_millis(50);
        let mut acked = Acked::default();
        let mut blocks = SackBlocks::default();
        blocks.push(SackBlock { left_edge: seq(2001), right_edge: seq(3001) });
        sender.on_sack(now, &blocks, Duration::ZERO, &mut acked);
        sender.on_ack(now, seq(ack), Duration::ZERO, &mut acked);
        sender.rate_sample(&acked).unwrap()
    }

    #[test]
    fn the_highest_of_segments_sent_together_is_sampled() {
        for ack in [1, 1001, 2001, 3001] {
            assert_eq!(acknowledge(&mut three_sent(), ack).tx_in_flight, 3000, "{ack}");
        }
        let (mut sender, mut acked) = (three_sent(), Acked::default());
        sender.on_ack(Instant::from_millis(50), seq(3001), Duration::ZERO, &mut acked);
        assert_eq!(sender.rate_sample(&acked).unwrap().tx_in_flight, 3000, "without SACK");
    }

    #[test]
    fn a_retransmission_must_fit_the_window() {
        for (cwnd, leaves) in [(2999, false), (3000, true)] {
            let mut sender = three_sent();
            sender.mark_head_lost();
            let segment = sender.next_retransmission(Instant::ZERO, cwnd, usize::MAX);
            assert_eq!(segment.is_some(), leaves, "{cwnd}");
        }
    }

    #[test]
    fn segments_above_a_reduced_mtu_are_split() {
        let mut sender = three_sent();
        let (now, later) = (Instant::from_millis(1), Instant::from_millis(2));
        sender.queue.write(&[0; 1500], 1500);
        sender.send_new(now, 500, false);
        sender.send_new(now, 1000, false);
        acknowledge(&mut sender, 1);
        assert!(!sender.mark_longer_lost(1000, Instant::ZERO), "nothing is too long");
        assert!(!sender.mark_longer_lost(600, later), "it left before");
        assert_eq!((sender.in_flight(), sender.has_lost()), (3500, false));
        assert!(sender.mark_longer_lost(600, now));
        assert_eq!(sender.in_flight(), 2500);
        // The third is selectively acknowledged.
        assert!(sender.mark_longer_lost(600, Instant::ZERO));
        assert_eq!(sender.in_flight(), 500);
        let parts: Vec<_> =
            core::iter::from_fn(|| sender.next_retransmission(later, usize::MAX, 600)).collect();
        let parts: Vec<_> = parts.iter().map(|part| (part.seq.value(), part.len)).collect();
        assert_eq!(parts, [(1, 600), (601, 400), (1001, 600), (1601, 400), (3501, 600), (4101, 400)]);
    }

    /// The rest would begin as an acknowledgement does, and no receiver would take it for data.
    #[test]
    fn a_part_that_looks_like_sack_is_split_again() {
        let mut sender = Sender::new(seq(1));
        let mut data = vec![0; 600];
        data.extend(b"SACK\x01\0\0\0\x01\0\0\0\x02");
        sender.queue.write(&data, 1000);
        sender.send_new(Instant::ZERO, data.len(), false);
        sender.mark_head_lost();
        let now = Instant::from_millis(1);
        let parts: Vec<_> =
            core::iter::from_fn(|| sender.next_retransmission(now, usize::MAX, 600)).collect();
        let parts: Vec<_> = parts.iter().map(|part| (part.seq.value(), part.len)).collect();
        assert_eq!(parts, [(1, 600), (601, 2), (603, 11)]);
        assert_eq!(
            (sender.in_flight(), sender.has_lost(), sender.has_congestion_loss()),
            (613, false, false)
        );
    }

    #[test]
    fn a_timeout_counts_the_flight_as_lost() {
        let mut sender = three_sent();
        acknowledge(&mut sender, 1);
        sender.on_timeout();
        assert_eq!(acknowledge(&mut sender, 1001).lost, 2000);
    }
}
