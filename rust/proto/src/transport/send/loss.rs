//! Which segments count as lost (RFC 8985 section 6.2, RFC 6298 section 5).

use core::time::Duration;

use super::{Sender, Status};
use crate::{
    config::MIN_SEGMENT,
    time::Instant,
    transport::rate::Loss,
    wire::{sack::SackBlocks, seq::SeqNumber},
};

/// Lost transmissions of one segment, while others arrive, after which a black hole for its size is suspected (RFC
/// 8899 section 4.3).
const SUSPECT_TRANSMISSIONS: u32 = 3;

impl Sender {
    /// RACK_detect_loss (RFC 8985 section 6.2, step 5), for each path. Calls `on_lost` for each lost segment,
    /// with its number and size, and returns when the next one may count as lost. Only those lost on the
    /// current path come with a [`Loss`].
    pub(in crate::transport) fn detect_lost(
        &mut self,
        now: Instant,
        reo_wnd: Duration,
        mut on_lost: impl FnMut(SeqNumber, usize, Option<&Loss>),
    ) -> Option<Instant> {
        let mut deadline = self.detect_lost_elsewhere(now, |seq, size| on_lost(seq, size, None));
        let mut consider = |at: Instant| deadline = Some(deadline.map_or(at, |known| at.min(known)));
        let from = self.sent.partition_point(|sent| sent.seq < self.loss_checked);
        for at in from..self.sent.len() {
            let sent = self.sent[at];
            if sent.transmissions == 1 && sent.status == Status::InFlight && sent.path == self.path {
                if !self.rack.is_after(sent.sent_at, sent.end()) {
                    break;
                }
                let lost_at = self.rack.lost_at(sent.sent_at, reo_wnd);
                if lost_at > now {
                    consider(lost_at);
                    break;
                }
                let loss = self.mark_lost(at);
                on_lost(sent.seq, sent.size(), loss.as_ref());
            }
            self.loss_checked = sent.end();
        }
        while let Some((sent_at, seq)) = self.retransmitted.front().copied() {
            let at = self.sent.partition_point(|sent| sent.seq < seq);
            let sent = self
                .sent
                .get(at)
                .filter(|sent| sent.seq == seq && sent.status == Status::InFlight && sent.sent_at == sent_at);
            if let Some(sent) = sent {
                if !self.rack.is_after(sent.sent_at, sent.end()) {
                    break;
                }
                let lost_at = self.rack.lost_at(sent.sent_at, reo_wnd);
                if lost_at > now {
                    consider(lost_at);
                    break;
                }
                let size = sent.size();
                let loss = self.mark_lost(at);
                on_lost(seq, size, loss.as_ref());
            }
            self.retransmitted.pop_front();
        }
        deadline
    }

    /// Marks a segment in flight lost. Returns the loss if it happened on the current path.
    pub(super) fn mark_lost(&mut self, at: usize) -> Option<Loss> {
        let sent = &mut self.sent[at];
        sent.status = Status::Lost;
        self.is_path_suspect |= sent.transmissions >= SUSPECT_TRANSMISSIONS && sent.len > MIN_SEGMENT;
        let (seq, size) = (sent.seq, sent.size());
        sent.is_excused = sent.path != self.path;
        let loss = (!sent.is_excused).then(|| {
            self.in_flight -= size;
            self.losses += 1;
            self.rate.on_lost(&sent.rate, size)
        });
        let position = self.lost.partition_point(|known| *known < seq);
        self.lost.insert(position, seq);
        loss
    }

    /// Marks the first unacknowledged segment lost, unless it is already.
    pub(in crate::transport) fn mark_head_lost(&mut self) -> Option<Loss> {
        let is_in_flight = self.sent.front().is_some_and(|head| head.status == Status::InFlight);
        if is_in_flight { self.mark_lost(0) } else { None }
    }

    /// Marks segments in flight on the current path lost that are longer than `max_len` and were sent at or
    /// after `since`, without a congestion signal. Returns whether there were any.
    pub(in crate::transport) fn mark_longer_lost(&mut self, max_len: usize, since: Instant) -> bool {
        let before = self.in_flight;
        for sent in &mut self.sent {
            let is_here = sent.status == Status::InFlight && sent.path == self.path;
            if is_here && sent.len > max_len && sent.sent_at >= since {
                (sent.status, sent.is_excused) = (Status::Lost, true);
            }
        }
        self.recount();
        self.in_flight != before
    }

    /// The retransmission timer expired: every segment that is not selectively acknowledged is marked lost,
    /// and one segment may be sent before the next acknowledgement. If the first segment is selectively
    /// acknowledged, the peer has reneged (RFC 2018 section 8), and all SACK information is dropped.
    pub(in crate::transport) fn on_timeout(&mut self) {
        let has_reneged = self.sent.front().is_some_and(|head| head.status == Status::Sacked);
        self.retransmitted.clear();
        if has_reneged {
            self.sacked = 0;
            self.last_blocks = SackBlocks::default();
        }
        for sent in &mut self.sent {
            if sent.status == Status::InFlight && sent.path == self.path {
                self.rate.on_lost(&sent.rate, sent.size());
            }
            if sent.status != Status::Sacked || has_reneged {
                sent.is_excused |= sent.path != self.path;
                sent.status = Status::Lost;
            }
        }
        self.recount();
        self.forget_flights();
        self.loss_checked = self.snd_nxt;
        self.is_rto_limited = true;
    }

    /// The timeout was spurious: lost segments count as in flight again, until RACK marks them.
    pub(in crate::transport) fn undo_timeout(&mut self) {
        for sent in &mut self.sent {
            if sent.status == Status::Lost && !sent.is_excused {
                sent.status = Status::InFlight;
                if sent.transmissions > 1 {
                    self.retransmitted.push_back((sent.sent_at, sent.seq));
                }
            }
        }
        self.retransmitted.make_contiguous().sort_by_key(|(sent_at, _)| *sent_at);
        self.loss_checked = self.snd_una;
        self.is_rto_limited = false;
        self.recount();
    }
}
