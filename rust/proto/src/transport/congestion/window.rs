//! What the window-based controllers share: the window, its threshold and slow start (RFC 5681 section
//! 3.1, RFC 3465, RFC 9406).

use core::time::Duration;

use super::{Ack, HyStart, Parameters};

/// Pacing gains, percent of a window per round trip. Slow start needs room to double; five windows per
/// round trip keep the last, partial round of a short transfer short, and the clock of acknowledgements
/// holds it to twice the bottleneck's rate anyway.
const PACING_SLOW_START: u64 = 500;
/// In congestion avoidance (as Linux).
const PACING_AVOIDANCE: u64 = 120;

/// A congestion window, octets.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) parameters: Parameters,
    pub(super) cwnd: usize,
    pub(super) ssthresh: usize,
    hystart: HyStart,
}

impl Window {
    pub(super) fn new(parameters: Parameters) -> Self {
        let Parameters { initial_window: cwnd, ssthresh, .. } = parameters;
        Self { parameters, cwnd, ssthresh, hystart: HyStart::default() }
    }

    fn is_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Octets per second.
    pub(super) fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        let gain = if self.is_slow_start() { PACING_SLOW_START } else { PACING_AVOIDANCE };
        super::window_rate(self.cwnd, srtt, gain)
    }

    /// Grows in slow start; `false` in congestion avoidance, whose growth the controller decides.
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

    /// Grows by so many octets, up to the bound.
    pub(super) fn grow(&mut self, octets: usize) {
        self.cwnd = self.cwnd.saturating_add(octets).min(self.parameters.max_cwnd);
    }

    /// A loss event: no less than two segments (RFC 5681, equation 4).
    pub(super) fn set_ssthresh(&mut self, octets: usize) {
        self.ssthresh = octets.max(2 * self.parameters.smss);
        self.hystart.finish();
    }

    /// A timeout: the initial window. WP 4.3, which deviates from the loss window of RFC 5681 section
    /// 3.1.
    pub(super) fn collapse(&mut self) {
        self.cwnd = self.parameters.initial_window.min(self.cwnd);
    }
}
