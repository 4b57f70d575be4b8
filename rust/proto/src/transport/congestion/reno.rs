//! Slow start and AIMD (RFC 5681) with appropriate byte counting (RFC 3465), NewReno's single
//! reduction per loss event (RFC 6582) and HyStart++ (RFC 9406). After a timeout the window is the
//! initial one: WP 4.3, which deviates from the loss window of RFC 5681 section 3.1.

use core::time::Duration;

use super::{
    Ack, Algorithm, Controller, HyStart, PACING_AVOIDANCE, PACING_SLOW_START, Parameters, window_rate,
};
use crate::time::Instant;

/// The congestion window of one connection, in octets.
#[derive(Clone, Debug)]
pub struct Reno {
    parameters: Parameters,
    cwnd: usize,
    ssthresh: usize,
    hystart: HyStart,
    /// Octets acknowledged since the window last grew in congestion avoidance.
    bytes_acked: usize,
    /// Window and threshold before the last event.
    prior: (usize, usize),
}

impl Reno {
    /// The window before anything was sent.
    pub fn new(parameters: Parameters) -> Self {
        Self {
            cwnd: parameters.initial_window,
            ssthresh: parameters.ssthresh,
            hystart: HyStart::default(),
            bytes_acked: 0,
            prior: (parameters.initial_window, parameters.ssthresh),
            parameters,
        }
    }

    fn reduce(&mut self, flight_size: usize) {
        self.prior = (self.cwnd, self.ssthresh);
        self.ssthresh = (flight_size / 2).max(2 * self.parameters.smss);
        self.hystart.finish();
        self.bytes_acked = 0;
    }
}

impl Controller for Reno {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Reno
    }

    fn cwnd(&self) -> usize {
        self.cwnd
    }

    fn ssthresh(&self) -> usize {
        self.ssthresh
    }

    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        let is_slow_start = self.cwnd < self.ssthresh;
        window_rate(self.cwnd, srtt, if is_slow_start { PACING_SLOW_START } else { PACING_AVOIDANCE })
    }

    fn set_smss(&mut self, smss: usize) {
        self.parameters.smss = smss;
    }

    fn set_abc_limit(&mut self, abc_limit: Option<usize>) {
        self.parameters.abc_limit = abc_limit;
    }

    fn on_ack(&mut self, ack: &Ack) {
        if ack.is_recovering || !ack.is_cwnd_limited {
            return;
        }
        let Parameters { smss, max_cwnd, abc_limit, .. } = self.parameters;
        if self.cwnd < self.ssthresh {
            if self.hystart.on_ack(ack.rtt, ack.snd_una, ack.snd_nxt) {
                self.ssthresh = self.cwnd;
            }
            self.cwnd +=
                self.hystart.growth(abc_limit.map_or(ack.acked, |limit| ack.acked.min(limit * smss)));
        } else {
            self.bytes_acked += ack.acked;
            if self.bytes_acked >= self.cwnd {
                self.bytes_acked -= self.cwnd;
                self.cwnd += smss;
            }
        }
        self.cwnd = self.cwnd.min(max_cwnd);
    }

    fn on_loss_event(&mut self, _now: Instant, flight_size: usize) {
        self.reduce(flight_size);
        self.cwnd = self.ssthresh;
    }

    fn on_rto(&mut self, _now: Instant, flight_size: usize, is_new_event: bool) {
        if is_new_event {
            self.reduce(flight_size);
        }
        self.cwnd = self.parameters.initial_window.min(self.cwnd);
        self.bytes_acked = 0;
    }

    fn undo(&mut self) {
        let (cwnd, ssthresh) = self.prior;
        self.cwnd = self.cwnd.max(cwnd);
        self.ssthresh = self.ssthresh.max(ssthresh);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{SMSS, ack, parameters},
        *,
    };

    fn acked(reno: &mut Reno, octets: usize) {
        reno.on_ack(&ack(Instant::ZERO, octets));
    }

    #[test]
    fn slow_start_counts_at_most_two_segments_per_ack() {
        let mut reno = Reno::new(parameters());
        acked(&mut reno, SMSS);
        assert_eq!(reno.cwnd(), 11 * SMSS);
        acked(&mut reno, 5 * SMSS);
        assert_eq!(reno.cwnd(), 13 * SMSS);
        reno.set_abc_limit(None);
        acked(&mut reno, 5 * SMSS);
        assert_eq!(reno.cwnd(), 18 * SMSS);
    }

    #[test]
    fn avoidance_adds_one_segment_per_window() {
        let mut reno = Reno::new(parameters());
        reno.on_loss_event(Instant::ZERO, 40 * SMSS);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (20 * SMSS, 20 * SMSS));
        for _ in 0..19 {
            acked(&mut reno, SMSS);
        }
        assert_eq!(reno.cwnd(), 20 * SMSS);
        acked(&mut reno, SMSS);
        assert_eq!(reno.cwnd(), 21 * SMSS);
    }

    #[test]
    fn a_timeout_returns_to_the_initial_window_and_halves_once() {
        let mut reno = Reno::new(parameters());
        reno.on_rto(Instant::ZERO, 30 * SMSS, true);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (10 * SMSS, 15 * SMSS));
        reno.on_rto(Instant::ZERO, 2 * SMSS, false);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (10 * SMSS, 15 * SMSS));
    }

    #[test]
    fn the_window_is_bounded_and_idle_acknowledgements_do_not_count() {
        let mut reno = Reno::new(parameters());
        reno.on_ack(&Ack { is_cwnd_limited: false, ..ack(Instant::ZERO, 1000 * SMSS) });
        assert_eq!(reno.cwnd(), 10 * SMSS);
        reno.set_abc_limit(None);
        acked(&mut reno, 1000 * SMSS);
        assert_eq!(reno.cwnd(), 100 * SMSS);
    }

    #[test]
    fn a_false_alarm_is_undone() {
        let mut reno = Reno::new(parameters());
        acked(&mut reno, 2 * SMSS);
        reno.on_loss_event(Instant::ZERO, 12 * SMSS);
        reno.undo();
        assert_eq!((reno.cwnd(), reno.ssthresh()), (12 * SMSS, 40 * SMSS));
    }
}
