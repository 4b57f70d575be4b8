//! State shared by the window-based controllers: window, threshold, slow start and recovery (RFC 5681 section
//! 3.1, RFC 3465, RFC 9406, RFC 9937).

use core::time::Duration;

use super::{Ack, HyStart, Loss, Parameters, prr::Prr};

/// Pacing gain in slow start, percent of a window per RTT. Slow start needs room to double; five windows per
/// RTT shorten the last, partial round of a short transfer, and the ACK clock limits the rate to twice the
/// bottleneck's anyway.
const PACING_SLOW_START: u64 = 500;
/// Pacing gain in congestion avoidance, percent (as Linux).
const PACING_AVOIDANCE: u64 = 120;

/// A congestion window, bytes.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) parameters: Parameters,
    pub(super) cwnd: usize,
    pub(super) ssthresh: usize,
    hystart: HyStart,
    /// PRR state during fast recovery.
    prr: Option<Prr>,
}

impl Window {
    pub(super) fn new(parameters: Parameters) -> Self {
        let Parameters { initial_window: cwnd, ssthresh, .. } = parameters;
        Self { parameters, cwnd, ssthresh, hystart: HyStart::default(), prr: None }
    }

    fn is_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Bytes per second.
    pub(super) fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        if self.prr.is_some() {
            return super::window_rate(self.ssthresh, srtt, PACING_AVOIDANCE);
        }
        let gain = if self.is_slow_start() { PACING_SLOW_START } else { PACING_AVOIDANCE };
        super::window_rate(self.cwnd, srtt, gain)
    }

    /// The window, or during fast recovery the window at its end.
    pub(super) fn settled(&self) -> usize {
        if self.prr.is_some() { self.ssthresh } else { self.cwnd }
    }

    /// Starts fast recovery with PRR, after the threshold was set.
    pub(super) fn start_recovery(&mut self, flight_size: usize, in_flight: usize) {
        self.prr = Some(Prr::new(flight_size));
        self.cwnd = in_flight + self.parameters.smss;
    }

    /// `size` bytes are sent.
    pub(super) fn on_sent(&mut self, size: usize) {
        if let Some(prr) = &mut self.prr {
            prr.on_sent(size);
        }
    }

    /// A segment was marked lost; the allowance does not grow by it.
    pub(super) fn on_segment_lost(&mut self, loss: &Loss) {
        if self.prr.is_some() {
            self.cwnd = self.cwnd.saturating_sub(loss.size);
        }
    }

    /// An acknowledgement during fast recovery.
    pub(super) fn recover(&mut self, ack: &Ack) {
        if let Some(prr) = &mut self.prr {
            self.cwnd = ack.in_flight + prr.on_ack(ack, self.ssthresh, self.parameters.smss);
        }
    }

    /// Fast recovery ended.
    pub(super) fn on_recovered(&mut self) {
        self.cwnd = self.settled();
        self.prr = None;
    }

    /// Grows the window in slow start. `false` in congestion avoidance, which is up to the controller.
    pub(super) fn slow_start(&mut self, ack: &Ack) -> bool {
        if !self.is_slow_start() {
            return false;
        }
        let Parameters { smss, abc_limit, .. } = self.parameters;
        if self.hystart.on_ack(ack.rtt, ack.snd_una, ack.snd_nxt) {
            self.ssthresh = self.cwnd;
        }
        let counted = abc_limit.map_or(ack.acked, |limit| ack.acked.min(limit * smss));
        self.grow(self.hystart.growth(counted));
        true
    }

    /// Grows the window by `bytes`, up to its bound.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.cwnd = self.cwnd.saturating_add(bytes).min(self.parameters.max_cwnd);
    }

    /// Sets the threshold after a loss event: at least two segments (RFC 5681, equation 4).
    pub(super) fn set_ssthresh(&mut self, bytes: usize) {
        self.ssthresh = bytes.max(2 * self.parameters.smss);
        self.hystart.finish();
    }

    /// Resets the window to the initial window after a timeout. Protocol; deviates from the loss window of
    /// RFC 5681 section 3.1.
    pub(super) fn collapse(&mut self) {
        self.prr = None;
        self.cwnd = self.parameters.initial_window.min(self.cwnd);
    }
}
