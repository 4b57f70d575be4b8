//! Which segments count as lost (RFC 8985 section 6.2, RFC 6298 section 5).

use core::time::Duration;

use super::{Sender, Status};
use crate::{
    time::Instant,
    transport::rate::Loss,
    wire::{sack::SackBlocks, seq::SeqNumber},
};

impl Sender {
    /// RACK_detect_loss (RFC 8985 section 6.2, step 5). Calls `on_lost` for each lost segment and returns
    /// when the next one may count as lost.
    pub(in crate::transport) fn detect_lost(
        &mut self,
        now: Instant,
        reo_wnd: Duration,
        mut on_lost: impl FnMut(SeqNumber, &Loss),
    ) -> Option<Instant> {
        let mut deadline = None;
        let from = self.sent.partition_point(|sent| sent.seq < self.loss_checked);
        for at in from..self.sent.len() {
            let sent = self.sent[at];
            if sent.transmissions == 1 && sent.status == Status::InFlight {
                if !self.rack.is_after(sent.sent_at, sent.end()) {
                    break;
                }
                let lost_at = self.rack.lost_at(sent.sent_at, reo_wnd);
                if lost_at > now {
                    deadline = Some(lost_at);
                    break;
                }
                on_lost(sent.seq, &self.mark_lost(at));
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
                    deadline = Some(deadline.map_or(lost_at, |at: Instant| at.min(lost_at)));
                    break;
                }
                on_lost(seq, &self.mark_lost(at));
            }
            self.retransmitted.pop_front();
        }
        deadline
    }

    /// Marks a segment in flight lost.
    fn mark_lost(&mut self, at: usize) -> Loss {
        let sent = &mut self.sent[at];
        sent.status = Status::Lost;
        let (seq, size) = (sent.seq, sent.size());
        self.in_flight -= size;
        let loss = self.rate.on_lost(&sent.rate, size);
        let position = self.lost.partition_point(|known| *known < seq);
        self.lost.insert(position, seq);
        loss
    }

    /// Marks the first unacknowledged segment lost, unless it is already.
    pub(in crate::transport) fn mark_head_lost(&mut self) -> Option<Loss> {
        self.sent.front().is_some_and(|head| head.status == Status::InFlight).then(|| self.mark_lost(0))
    }

    /// Marks segments in flight lost that are longer than `max_len` and were sent at or after `since`,
    /// without a congestion signal. Returns whether there were any.
    pub(in crate::transport) fn mark_longer_lost(&mut self, max_len: usize, since: Instant) -> bool {
        let before = self.in_flight;
        for sent in &mut self.sent {
            if sent.status == Status::InFlight && sent.len > max_len && sent.sent_at >= since {
                sent.status = Status::Lost;
                self.in_flight -= sent.size();
            }
        }
        if self.in_flight == before {
            return false;
        }
        self.lost =
            self.sent.iter().filter(|sent| sent.status == Status::Lost).map(|sent| sent.seq).collect();
        true
    }

    /// The retransmission timer expired: every segment that is not selectively acknowledged is marked lost,
    /// and one segment may be sent before the next acknowledgement. If the first segment is selectively
    /// acknowledged, the peer has reneged (RFC 2018 section 8), and all SACK information is dropped.
    pub(in crate::transport) fn on_timeout(&mut self) {
        let has_reneged = self.sent.front().is_some_and(|head| head.status == Status::Sacked);
        self.lost.clear();
        self.retransmitted.clear();
        if has_reneged {
            self.sacked = 0;
            self.last_blocks = SackBlocks::default();
        }
        for sent in &mut self.sent {
            if sent.status == Status::InFlight {
                self.rate.on_lost(&sent.rate, sent.size());
            }
            if sent.status != Status::Sacked || has_reneged {
                sent.status = Status::Lost;
                self.lost.push_back(sent.seq);
            }
        }
        self.in_flight = 0;
        self.loss_checked = self.snd_nxt;
        self.is_rto_limited = true;
    }

    /// The timeout was spurious: lost segments count as in flight again, until RACK marks them.
    pub(in crate::transport) fn undo_timeout(&mut self) {
        for sent in &mut self.sent {
            if sent.status == Status::Lost {
                sent.status = Status::InFlight;
                self.in_flight += sent.size();
                if sent.transmissions > 1 {
                    self.retransmitted.push_back((sent.sent_at, sent.seq));
                }
            }
        }
        self.retransmitted.make_contiguous().sort_by_key(|(sent_at, _)| *sent_at);
        self.loss_checked = self.snd_una;
        self.is_rto_limited = false;
    }
}
