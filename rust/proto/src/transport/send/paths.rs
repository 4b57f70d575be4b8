//! Segments in flight on paths that were left. They count in no congestion window; they are lost when a
//! segment sent later on the same path was delivered, or when that path has had the time to answer, and the
//! answer the time to come by the current path.

use core::time::Duration;
use std::collections::VecDeque;

use super::{Sender, Sent, Status};
use crate::{
    time::Instant,
    transport::{PathKey, path_state::MAX_LEFT, rack::Rack, rate::RateSampler},
    wire::seq::SeqNumber,
};

/// How long segments in flight on a path that was left are waited for.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Patience {
    /// The time in which that path answers.
    pub(in crate::transport) timeout: Duration,
    /// Its reordering window.
    pub(in crate::transport) reo_wnd: Duration,
}

/// A path that was left.
#[derive(Debug)]
pub(super) struct LeftFlight {
    path: PathKey,
    patience: Patience,
    rack: Rack,
    rate: RateSampler,
    /// Segments in flight on it by send time; may contain stale entries.
    flight: VecDeque<(Instant, SeqNumber)>,
}

impl LeftFlight {
    /// When a segment sent on it counts as lost.
    fn lost_at(&self, sent: &Sent, answer_time: Duration) -> Instant {
        let given_up = sent.sent_at + self.patience.timeout + answer_time;
        if self.rack.is_after(sent.sent_at, sent.end()) {
            return given_up.min(self.rack.lost_at(sent.sent_at, self.patience.reo_wnd));
        }
        given_up
    }
}

impl Sender {
    /// Names the first path.
    pub(in crate::transport) fn set_first_path(&mut self, path: PathKey) {
        self.path = path;
    }

    /// Continues on another path, with its former state if `is_known`. Segments in flight on the old one are
    /// waited for, or without `patience` are excused and retransmitted. Whatever was marked lost is
    /// retransmitted on the new path and says nothing about it.
    pub(in crate::transport) fn change_path(
        &mut self,
        now: Instant,
        path: PathKey,
        is_known: bool,
        patience: Option<Patience>,
    ) {
        let mut flight = Vec::new();
        for sent in &mut self.sent {
            match sent.status {
                Status::InFlight if sent.path == self.path && patience.is_some() => {
                    flight.push((sent.sent_at, sent.seq));
                }
                Status::InFlight if sent.path == self.path => {
                    (sent.status, sent.is_excused) = (Status::Lost, true);
                }
                Status::Lost => sent.is_excused = true,
                Status::InFlight | Status::Sacked => {}
            }
        }
        flight.sort_by_key(|(sent_at, _)| *sent_at);
        self.left.push(LeftFlight {
            path: self.path,
            patience: patience.unwrap_or(Patience { timeout: Duration::ZERO, reo_wnd: Duration::ZERO }),
            rack: core::mem::replace(&mut self.rack, Rack::new(self.snd_una)),
            rate: core::mem::take(&mut self.rate),
            flight: flight.into(),
        });
        (self.path, self.path_since) = (path, now);
        self.retransmitted = VecDeque::new();
        if let Some(at) = self.left.iter().position(|left| left.path == path) {
            let back = self.left.remove(at);
            if is_known {
                (self.rack, self.rate) = (back.rack, back.rate);
            }
            self.retransmitted = back.flight;
        }
        if self.left.len() > MAX_LEFT {
            let oldest = self.left.remove(0);
            self.excuse(&oldest);
        }
        (self.is_rto_limited, self.is_forced) = (false, false);
        self.loss_checked = self.snd_nxt;
        self.recount();
    }

    /// Gives up what is in flight on the paths that were left. Returns whether there was anything.
    pub(in crate::transport) fn give_up_left(&mut self) -> bool {
        for left in core::mem::take(&mut self.left) {
            self.excuse(&left);
            self.left.push(left);
        }
        let before = self.lost.len();
        self.recount();
        self.lost.len() > before
    }

    /// Gives up what is in flight on a path that is forgotten.
    fn excuse(&mut self, left: &LeftFlight) {
        for sent in &mut self.sent {
            if sent.status == Status::InFlight && sent.path == left.path {
                (sent.status, sent.is_excused) = (Status::Lost, true);
            }
        }
    }

    /// Derives the totals and the list of lost segments from the queue.
    pub(super) fn recount(&mut self) {
        let path = self.path;
        let is_here = |sent: &&Sent| sent.status == Status::InFlight && sent.path == path;
        self.in_flight = self.sent.iter().filter(is_here).map(Sent::size).sum();
        let lost = || self.sent.iter().filter(|sent| sent.status == Status::Lost);
        self.losses = lost().filter(|sent| !sent.is_excused).count();
        self.lost = lost().map(|sent| sent.seq).collect();
    }

    /// A segment sent on a path that was left was delivered.
    pub(super) fn deliver_elsewhere(&mut self, now: Instant, sent: &Sent) {
        if let Some(left) = self.left.iter_mut().find(|left| left.path == sent.path) {
            left.rack.on_delivered(now, sent.sent_at, sent.end(), sent.transmissions, Duration::ZERO);
        }
    }

    /// Marks lost what is overdue on the paths that were left. Calls `on_lost` for each and returns when the
    /// next one is.
    pub(super) fn detect_lost_elsewhere(
        &mut self,
        now: Instant,
        mut on_lost: impl FnMut(SeqNumber, usize),
    ) -> Option<Instant> {
        let mut deadline = None;
        for n in 0..self.left.len() {
            while let Some((sent_at, seq)) = self.left[n].flight.front().copied() {
                let left = &self.left[n];
                let at = self.sent.partition_point(|sent| sent.seq < seq);
                let is_there = |sent: &&Sent| {
                    sent.seq == seq
                        && sent.status == Status::InFlight
                        && (sent.path, sent.sent_at) == (left.path, sent_at)
                };
                let found = self.sent.get(at).filter(is_there);
                if let Some((lost_at, size)) =
                    found.map(|sent| (left.lost_at(sent, self.answer_time), sent.size()))
                {
                    if lost_at > now {
                        deadline = Some(deadline.map_or(lost_at, |at: Instant| at.min(lost_at)));
                        break;
                    }
                    on_lost(seq, size);
                    self.mark_lost(at);
                }
                self.left[n].flight.pop_front();
            }
        }
        deadline
    }

    /// Whether the cumulative acknowledgement waits for a segment on a path that was left.
    pub(in crate::transport) fn is_head_elsewhere(&self) -> bool {
        self.sent.front().is_some_and(|head| head.status == Status::InFlight && head.path != self.path)
    }

    /// When that segment counts as lost at the latest.
    pub(in crate::transport) fn head_overdue_at(&self) -> Option<Instant> {
        let head = self.sent.front().filter(|_| self.is_head_elsewhere())?;
        let left = self.left.iter().find(|left| left.path == head.path)?;
        Some(head.sent_at + left.patience.timeout + self.answer_time)
    }

    /// The sequence number by which rounds are counted: SND.UNA, or while that waits for another path, the
    /// highest one delivered on this path.
    pub(in crate::transport) fn round_end(&self) -> SeqNumber {
        if self.is_head_elsewhere() { self.snd_una.max(self.rack.fack()) } else { self.snd_una }
    }

    /// Capacity of the lists of segments on paths that were left.
    pub(super) fn left_flights(&self) -> usize {
        self.left.iter().map(|left| left.flight.capacity()).sum()
    }

    /// Nothing is in flight.
    pub(super) fn forget_flights(&mut self) {
        for left in &mut self.left {
            left.flight = VecDeque::new();
        }
    }
}
