//! BBR's model of the path (sections 2.9 and 5.5 of the draft).

use core::time::Duration;

use super::bytes;
use crate::{
    time::Instant,
    transport::congestion::{Ack, Loss},
};

/// Multiplicative decrease of the short-term bounds and of a too high `inflight_hi`.
pub(super) const BETA: f64 = 0.7;
/// Loss rate tolerated per round. The draft's 2 % is meant for queue overflow; random loss at that rate
/// exceeds it in half of all rounds, so two standard deviations of the loss count are tolerated in addition.
pub(super) const LOSS_THRESH: f64 = 0.02;
const MIN_RTT_FILTER_LEN: Duration = Duration::from_secs(10);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
const EXTRA_ACKED_FILTER_LEN: u64 = 10;

/// Bounds set by losses, if any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    bw_lo: Option<f64>,
    inflight_lo: Option<usize>,
    inflight_hi: Option<usize>,
}

/// The model.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Maximum bandwidth of the previous and the current cycle, bytes per second.
    max_bw_filter: [f64; 2],
    /// Short-term bounds, if any.
    bw_lo: Option<f64>,
    pub(super) inflight_lo: Option<usize>,
    /// Long-term bound.
    pub(super) inflight_hi: Option<usize>,
    /// Minimum RTT of the last ten seconds.
    pub(super) min_rtt: Duration,
    min_rtt_stamp: Instant,
    probe_rtt_min_delay: Option<Duration>,
    pub(super) probe_rtt_min_stamp: Instant,
    pub(super) is_probe_rtt_expired: bool,
    /// Maxima of the current round.
    pub(super) bw_latest: f64,
    pub(super) inflight_latest: usize,
    loss_round_delivered: u64,
    is_loss_round_start: bool,
    is_loss_in_round: bool,
    /// Bandwidth sample of the current acknowledgement.
    pub(super) latest_bw: f64,
    next_round_delivered: u64,
    pub(super) is_round_start: bool,
    pub(super) round_count: u64,
    lost_in_round: u64,
    delivered_at_round_start: u64,
    total_delivered: u64,
    lost_last_round: (u64, u64),
    pub(super) extra_acked_start: Option<Instant>,
    pub(super) extra_acked_delivered: u64,
    extra_acked_filter: [(u64, usize); 2],
    /// Bytes delivered when the last probe ended; segments sent before belong to the probe.
    probe_end_delivered: u64,
    smss: usize,
}

impl Model {
    /// BBR.max_bw, bytes per second.
    pub(super) fn max_bw(&self) -> f64 {
        self.max_bw_filter[0].max(self.max_bw_filter[1])
    }

    /// BBR.bw: the bandwidth estimate in use, bytes per second.
    pub(super) fn bw(&self) -> f64 {
        self.bw_lo.map_or(self.max_bw(), |lo| lo.min(self.max_bw()))
    }

    /// BBRAdvanceMaxBwFilter: drops the bandwidth of the oldest cycle.
    pub(super) fn advance_max_bw_filter(&mut self) {
        if self.max_bw_filter[1] > 0.0 {
            self.max_bw_filter = [self.max_bw_filter[1], 0.0];
        }
    }

    /// Removes the short-term bounds.
    pub(super) fn reset_short_term(&mut self) {
        self.bw_lo = None;
        self.inflight_lo = None;
    }

    pub(super) fn bounds(&self) -> Bounds {
        let Self { bw_lo, inflight_lo, inflight_hi, .. } = *self;
        Bounds { bw_lo, inflight_lo, inflight_hi }
    }

    /// The latest losses were spurious: restores bounds that were laxer `before`.
    pub(super) fn undo_losses(&mut self, before: Bounds) {
        self.is_loss_in_round = false;
        self.lost_in_round = 0;
        self.bw_lo = self.bw_lo.zip(before.bw_lo).map(|(now, before)| now.max(before));
        self.inflight_lo = self.inflight_lo.zip(before.inflight_lo).map(|(now, before)| now.max(before));
        self.inflight_hi = self.inflight_hi.zip(before.inflight_hi).map(|(now, before)| now.max(before));
    }

    /// BBR.extra_acked: data delivered in excess of the bandwidth estimate, bytes.
    pub(super) fn extra_acked(&self) -> usize {
        self.extra_acked_filter[0].1.max(self.extra_acked_filter[1].1)
    }

    /// The path was not used for this long.
    pub(super) fn on_resumed(&mut self, away: Duration) {
        self.min_rtt_stamp += away;
        self.probe_rtt_min_stamp += away;
        self.extra_acked_start = None;
        self.extra_acked_delivered = 0;
    }

    /// Starts a round.
    pub(super) fn start_round(&mut self) {
        self.next_round_delivered = self.total_delivered;
    }

    /// Whether the loss rate of the last round was too high.
    pub(super) fn is_loss_too_high_in_round(&self) -> bool {
        let (lost, delivered) = self.lost_last_round;
        self.is_too_lossy(lost, bytes((delivered + lost) as f64))
    }

    /// IsInflightTooHigh.
    pub(super) fn is_too_lossy(&self, lost: u64, tx_in_flight: usize) -> bool {
        let segment = self.smss.max(1) as f64;
        let expected = tx_in_flight as f64 * LOSS_THRESH / segment;
        lost as f64 / segment > expected + 2.0 * expected.sqrt()
    }

    /// Ends a probe. Losses of segments sent so far set the long-term bound; they do not indicate a degraded
    /// path.
    pub(super) fn end_probe(&mut self) {
        self.probe_end_delivered = self.total_delivered;
    }

    /// A segment was marked lost.
    pub(super) fn on_lost(&mut self, loss: &Loss) {
        self.smss = self.smss.max(loss.size);
        if loss.prior_delivered <= self.probe_end_delivered {
            return;
        }
        self.lost_in_round += loss.size as u64;
        self.is_loss_in_round = true;
    }

    /// BBRUpdateLatestDeliverySignals and the round counter.
    pub(super) fn update_latest(&mut self, ack: &Ack) {
        self.total_delivered = ack.total_delivered;
        self.is_loss_round_start = false;
        self.is_round_start = false;
        self.latest_bw = 0.0;
        let Some(sample) = ack.rate else { return };
        if let Some(rate) = sample.rate(ack.min_rtt) {
            self.latest_bw = rate as f64;
            self.bw_latest = self.bw_latest.max(self.latest_bw);
        }
        self.inflight_latest = self.inflight_latest.max(bytes(sample.delivered as f64));
        if sample.prior_delivered >= self.loss_round_delivered {
            self.loss_round_delivered = ack.total_delivered;
            self.is_loss_round_start = true;
        }
        if sample.prior_delivered >= self.next_round_delivered {
            self.next_round_delivered = ack.total_delivered;
            self.round_count += 1;
            self.is_round_start = true;
            self.lost_last_round = (self.lost_in_round, ack.total_delivered - self.delivered_at_round_start);
            self.lost_in_round = 0;
            self.delivered_at_round_start = ack.total_delivered;
        }
        let is_higher = self.latest_bw >= self.max_bw();
        if is_higher || !sample.is_app_limited {
            self.max_bw_filter[1] = self.max_bw_filter[1].max(self.latest_bw);
        }
    }

    /// BBRUpdateCongestionSignals: losses reduce the short-term bounds, except while probing for bandwidth.
    pub(super) fn update_congestion(&mut self, _ack: &Ack, is_probing: bool) {
        if !self.is_loss_round_start {
            return;
        }
        if !is_probing && self.is_loss_in_round && self.is_loss_too_high_in_round() {
            let bw = self.bw_lo.unwrap_or_else(|| self.max_bw());
            self.bw_lo = Some(self.bw_latest.max(BETA * bw));
            if let Some(inflight) = self.inflight_lo.or(self.inflight_hi) {
                let reduced = bytes(BETA * inflight as f64);
                self.inflight_lo = Some(self.inflight_latest.max(reduced));
            }
        }
        self.is_loss_in_round = false;
    }

    /// BBRAdvanceLatestDeliverySignals.
    pub(super) fn advance(&mut self, ack: &Ack) {
        if self.is_loss_round_start {
            self.bw_latest = self.latest_bw;
            self.inflight_latest = ack.rate.map_or(0, |sample| bytes(sample.delivered as f64));
        }
    }

    /// BBRUpdateACKAggregation (section 5.5.9).
    pub(super) fn update_aggregation(&mut self, ack: &Ack, cwnd: usize) {
        let start = *self.extra_acked_start.get_or_insert(ack.now);
        let interval = ack.now.saturating_since(start).as_secs_f64();
        let expected = self.bw() * interval;
        if self.extra_acked_delivered as f64 <= expected {
            self.extra_acked_delivered = 0;
            self.extra_acked_start = Some(ack.now);
        }
        let since = ack.now.saturating_since(self.extra_acked_start.unwrap_or(ack.now)).as_secs_f64();
        self.extra_acked_delivered += ack.delivered as u64;
        let extra = bytes((self.extra_acked_delivered as f64 - self.bw() * since).max(0.0)).min(cwnd);
        let [old, new] = &mut self.extra_acked_filter;
        if self.round_count >= new.0 + EXTRA_ACKED_FILTER_LEN / 2 {
            *old = *new;
            *new = (self.round_count, 0);
        }
        new.1 = new.1.max(extra);
    }

    /// BBRUpdateMinRTT (section 5.5.7).
    pub(super) fn update_min_rtt(&mut self, ack: &Ack) {
        self.is_probe_rtt_expired = ack.now.saturating_since(self.probe_rtt_min_stamp) > PROBE_RTT_INTERVAL
            && !self.min_rtt.is_zero();
        if let Some(rtt) = ack.rtt
            && (self.is_probe_rtt_expired || self.probe_rtt_min_delay.is_none_or(|min| rtt <= min))
        {
            self.probe_rtt_min_delay = Some(rtt);
            self.probe_rtt_min_stamp = ack.now;
        }
        let is_expired = ack.now.saturating_since(self.min_rtt_stamp) > MIN_RTT_FILTER_LEN;
        if let Some(delay) = self.probe_rtt_min_delay
            && (delay < self.min_rtt || self.min_rtt.is_zero() || is_expired)
        {
            self.min_rtt = delay;
            self.min_rtt_stamp = self.probe_rtt_min_stamp;
        }
    }
}

#[cfg(test)]
mod tests;
