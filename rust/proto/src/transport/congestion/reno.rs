//! AIMD (RFC 5681) with NewReno's single reduction per loss event (RFC 6582).

use core::time::Duration;

use super::{Ack, Algorithm, Controller, Loss, Parameters, window::Window};
use crate::time::Instant;

/// The congestion window of one connection.
#[derive(Clone, Debug)]
pub struct Reno {
    window: Window,
    /// Bytes acknowledged since the window last grew in congestion avoidance.
    bytes_acked: usize,
    /// Window and threshold before the last congestion event, for undo.
    prior: (usize, usize),
}

impl Reno {
    /// The initial state.
    pub fn new(parameters: Parameters) -> Self {
        let window = Window::new(parameters);
        Self { bytes_acked: 0, prior: (window.cwnd, window.ssthresh), window }
    }

    fn reduce(&mut self, flight_size: usize) {
        self.prior = (self.window.settled(), self.window.ssthresh);
        self.window.set_ssthresh(flight_size / 2);
        self.bytes_acked = 0;
    }
}

impl Controller for Reno {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Reno
    }

    fn cwnd(&self) -> usize {
        self.window.cwnd
    }

    fn ssthresh(&self) -> usize {
        self.window.ssthresh
    }

    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        self.window.pacing_rate(srtt)
    }

    fn set_smss(&mut self, smss: usize) {
        self.window.parameters.smss = smss;
    }

    fn on_ack(&mut self, ack: &Ack) {
        if ack.is_recovering {
            self.window.recover(ack);
            return;
        }
        if !ack.is_cwnd_limited || self.window.slow_start(ack) {
            return;
        }
        self.bytes_acked += ack.acked;
        if self.bytes_acked >= self.window.cwnd {
            self.bytes_acked -= self.window.cwnd;
            self.window.grow(self.window.parameters.smss);
        }
    }

    fn on_sent(&mut self, _now: Instant, size: usize, _in_flight: usize, _is_app_limited: bool) {
        self.window.on_sent(size);
    }

    fn on_segment_lost(&mut self, loss: &Loss) {
        self.window.on_segment_lost(loss);
    }

    fn on_loss_event(&mut self, _now: Instant, flight_size: usize, in_flight: usize) {
        self.reduce(flight_size);
        self.window.start_recovery(flight_size, in_flight);
    }

    fn on_recovered(&mut self) {
        self.window.on_recovered();
    }

    fn on_rto(&mut self, _now: Instant, flight_size: usize, is_new_event: bool) {
        if is_new_event {
            self.reduce(flight_size);
        }
        self.window.collapse();
        self.bytes_acked = 0;
    }

    fn undo(&mut self) {
        let (cwnd, ssthresh) = self.prior;
        self.window.on_recovered();
        self.window.cwnd = self.window.cwnd.max(cwnd);
        self.window.ssthresh = self.window.ssthresh.max(ssthresh);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{SMSS, ack, lose_one, parameters},
        *,
    };

    fn acked(reno: &mut Reno, bytes: usize) {
        reno.on_ack(&ack(Instant::ZERO, bytes));
    }

    #[test]
    fn slow_start_counts_at_most_two_segments_per_ack() {
        let mut reno = Reno::new(parameters());
        acked(&mut reno, SMSS);
        assert_eq!(reno.cwnd(), 11 * SMSS);
        acked(&mut reno, 5 * SMSS);
        assert_eq!(reno.cwnd(), 13 * SMSS);
        let mut reno = Reno::new(Parameters { abc_limit: None, ..parameters() });
        acked(&mut reno, 5 * SMSS);
        assert_eq!(reno.cwnd(), 15 * SMSS);
    }

    #[test]
    fn avoidance_adds_one_segment_per_window() {
        let mut reno = Reno::new(parameters());
        lose_one(&mut reno, 40 * SMSS);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (20 * SMSS, 20 * SMSS));
        for _ in 0..19 {
            acked(&mut reno, SMSS);
        }
        assert_eq!(reno.cwnd(), 20 * SMSS);
        acked(&mut reno, SMSS);
        assert_eq!(reno.cwnd(), 21 * SMSS);
        // The remainder counts for the next window (RFC 3465 section 2.1).
        acked(&mut reno, 31 * SMSS);
        assert_eq!(reno.cwnd(), 22 * SMSS);
        acked(&mut reno, 12 * SMSS);
        assert_eq!(reno.cwnd(), 23 * SMSS);
        acked(&mut reno, 22 * SMSS);
        assert_eq!(reno.cwnd(), 23 * SMSS);
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
        let mut reno = Reno::new(Parameters { abc_limit: None, ..parameters() });
        acked(&mut reno, 1000 * SMSS);
        assert_eq!(reno.cwnd(), 100 * SMSS);
    }

    #[test]
    fn a_spurious_loss_event_is_undone() {
        let mut reno = Reno::new(parameters());
        acked(&mut reno, 2 * SMSS);
        reno.on_loss_event(Instant::ZERO, 12 * SMSS, 11 * SMSS);
        reno.undo();
        assert_eq!((reno.cwnd(), reno.ssthresh()), (12 * SMSS, 40 * SMSS));
    }
}
