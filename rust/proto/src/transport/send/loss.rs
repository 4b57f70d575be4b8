//! Which segments count as lost (RFC 8985 section 6.2, RFC 6298 section 5).

use core::time::Duration;

use super::{Place, Sender};
use crate::{
    time::Instant,
    transport::rate::Loss,
    wire::{sack::SackBlocks, seq::SeqNumber},
};

impl Sender {
    /// Judges what is in flight by what was delivered since it left (RFC 8985 section 6.2, step 5).
    /// Tells each loss to `on_lost` and returns when the next segment may count as lost.
    pub(in crate::transport) fn detect_lost(
        &mut self,
        now: Instant,
        reo_wnd: Duration,
        mut on_lost: impl FnMut(SeqNumber, &Loss),
    ) -> Option<Instant> {
        let mut deadline = None;
        let from = self.sent.partition_point(|sent| sent.seq < self.judged);
        for at in from..self.sent.len() {
            let sent = self.sent[at];
            if sent.transmissions == 1 && sent.place == Place::InFlight {
                if !self.rack.is_after(sent.sent_at, sent.end()) {
                    break;
                }
                let lost_at = self.rack.lost_at(sent.sent_at, reo_wnd);
                if lost_at > now {
                    deadline = Some(lost_at);
                    break;
                }
                on_lost(sent.seq, &self.lose(at));
            }
            self.judged = sent.end();
        }
        while let Some((sent_at, seq)) = self.resent.front().copied() {
            let at = self.sent.partition_point(|sent| sent.seq < seq);
            let sent = self
                .sent
                .get(at)
                .filter(|sent| sent.seq == seq && sent.place == Place::InFlight && sent.sent_at == sent_at);
            if let Some(sent) = sent {
                if !self.rack.is_after(sent.sent_at, sent.end()) {
                    break;
                }
                let lost_at = self.rack.lost_at(sent.sent_at, reo_wnd);
                if lost_at > now {
                    deadline = Some(deadline.map_or(lost_at, |at: Instant| at.min(lost_at)));
                    break;
                }
                on_lost(seq, &self.lose(at));
            }
            self.resent.pop_front();
        }
        deadline
    }

    /// Deems a segment in flight lost.
    fn lose(&mut self, at: usize) -> Loss {
        let sent = &mut self.sent[at];
        sent.place = Place::Lost;
        let (seq, size) = (sent.seq, sent.size());
        self.in_flight -= size;
        let loss = self.rate.on_lost(&sent.rate, size);
        let position = self.lost.partition_point(|known| *known < seq);
        self.lost.insert(position, seq);
        loss
    }

    /// Deems the first unacknowledged segment lost, unless it already is.
    pub(in crate::transport) fn mark_head_lost(&mut self) -> Option<Loss> {
        self.sent.front().is_some_and(|head| head.place == Place::InFlight).then(|| self.lose(0))
    }

    /// The path drops segments longer than `max_len`: those in flight that left from `since` on leave
    /// again, in parts. No controller hears of it. Returns whether there were any.
    pub(in crate::transport) fn lose_longer(&mut self, max_len: usize, since: Instant) -> bool {
        let before = self.in_flight;
        for sent in &mut self.sent {
            if sent.place == Place::InFlight && sent.len > max_len && sent.sent_at >= since {
                sent.place = Place::Lost;
                self.in_flight -= sent.size();
            }
        }
        if self.in_flight == before {
            return false;
        }
        self.lost = self.sent.iter().filter(|sent| sent.place == Place::Lost).map(|sent| sent.seq).collect();
        true
    }

    /// The retransmission timer expired: all that is not selectively acknowledged is lost, and one
    /// segment may go before the next acknowledgement. A peer that reports holding the very first
    /// segment has reneged (RFC 2018 section 8), so nothing it reported counts.
    pub(in crate::transport) fn on_timeout(&mut self) {
        let has_reneged = self.sent.front().is_some_and(|head| head.place == Place::Sacked);
        self.lost.clear();
        self.resent.clear();
        if has_reneged {
            self.sacked = 0;
            self.last_blocks = SackBlocks::default();
        }
        for sent in &mut self.sent {
            if sent.place == Place::InFlight {
                self.rate.on_lost(&sent.rate, sent.size());
            }
            if sent.place != Place::Sacked || has_reneged {
                sent.place = Place::Lost;
                self.lost.push_back(sent.seq);
            }
        }
        self.in_flight = 0;
        self.judged = self.snd_nxt;
        self.is_gated = true;
    }

    /// The timeout was a false alarm: what it deemed lost is on its way after all, until something that
    /// left later is delivered.
    pub(in crate::transport) fn undo_timeout(&mut self) {
        for sent in &mut self.sent {
            if sent.place == Place::Lost {
                sent.place = Place::InFlight;
                self.in_flight += sent.size();
                if sent.transmissions > 1 {
                    self.resent.push_back((sent.sent_at, sent.seq));
                }
            }
        }
        self.resent.make_contiguous().sort_by_key(|(sent_at, _)| *sent_at);
        self.judged = self.snd_una;
        self.is_gated = false;
    }
}
