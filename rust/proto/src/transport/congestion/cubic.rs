//! CUBIC (RFC 9438).

use core::time::Duration;

use super::{Ack, Algorithm, Controller, Loss, Parameters, window::Window};
use crate::time::Instant;

/// C, segments per cubic second.
const C: f64 = 0.4;
/// Multiplicative decrease.
const BETA_CUBIC: f64 = 0.7;
/// Additive increase factor of the Reno-friendly region, until W_est reaches cwnd_prior (section 4.3).
const ALPHA_CUBIC: f64 = 3.0 * (1.0 - BETA_CUBIC) / (1.0 + BETA_CUBIC);

/// One congestion avoidance stage (section 4.1.2). Windows are segments here.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// Seconds until the window reaches `w_max`.
    k: f64,
    /// W_est: the window that Reno would have.
    w_est: f64,
    cwnd_prior: f64,
}

/// The congestion window of one connection.
#[derive(Clone, Debug)]
pub struct Cubic {
    window: Window,
    w_max: f64,
    epoch: Option<Epoch>,
    /// Pending growth of the window, segments.
    credit: f64,
    cwnd_prior: f64,
    last_ack: Option<Instant>,
    /// State before the last congestion event, for undo.
    prior: Option<Box<Self>>,
}

impl Cubic {
    /// The initial state.
    pub fn new(parameters: Parameters) -> Self {
        Self {
            window: Window::new(parameters),
            w_max: 0.0,
            epoch: None,
            credit: 0.0,
            cwnd_prior: 0.0,
            last_ack: None,
            prior: None,
        }
    }

    fn segments(&self, bytes: usize) -> f64 {
        bytes as f64 / self.window.parameters.smss as f64
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "windows are small and positive"
    )]
    fn bytes(&self, segments: f64) -> usize {
        (segments * self.window.parameters.smss as f64).round() as usize
    }

    /// Section 4.6, with the fast convergence of section 4.7.
    fn reduce(&mut self, flight_size: usize) {
        self.prior = None;
        self.prior = Some(Box::new(self.clone()));
        let settled = self.window.settled();
        let cwnd = self.segments(settled);
        self.w_max = if cwnd < self.w_max { cwnd * (1.0 + BETA_CUBIC) / 2.0 } else { cwnd };
        self.cwnd_prior = cwnd;
        self.epoch = None;
        self.credit = 0.0;
        // The flight, not the window, was too large. The lower bound covers a flight that the loss itself has
        // just drained.
        let flight = flight_size.max(settled / 2).min(settled);
        self.window.set_ssthresh(self.bytes(self.segments(flight) * BETA_CUBIC));
    }

    fn avoid(&mut self, ack: &Ack) {
        let cwnd = self.segments(self.window.cwnd);
        let epoch = match &mut self.epoch {
            Some(epoch) => epoch,
            None => {
                let w_max = self.w_max.max(cwnd);
                self.w_max = w_max;
                self.epoch.insert(Epoch {
                    start: ack.now,
                    k: ((w_max - cwnd) / C).cbrt(),
                    w_est: cwnd,
                    cwnd_prior: self.cwnd_prior,
                })
            }
        };
        let acked = ack.acked as f64 / self.window.parameters.smss as f64;
        let t = ack.now.saturating_since(epoch.start).as_secs_f64();
        let w_cubic = |t: f64| C * (t - epoch.k).powi(3) + self.w_max;
        let alpha = if epoch.w_est >= epoch.cwnd_prior { 1.0 } else { ALPHA_CUBIC };
        epoch.w_est += alpha * acked / cwnd;
        let target = w_cubic(t + ack.srtt.as_secs_f64()).clamp(cwnd, 1.5 * cwnd);
        if w_cubic(t) < epoch.w_est {
            // Section 4.3: the Reno-friendly region.
            self.credit += (epoch.w_est - cwnd).max(0.0);
        } else {
            self.credit += (target - cwnd) / cwnd * acked;
        }
        let whole = self.bytes(self.credit);
        self.window.grow(whole);
        self.credit -= self.segments(whole);
    }
}

impl Controller for Cubic {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Cubic
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
        let since_last = self.last_ack.replace(ack.now).map(|last| ack.now.saturating_since(last));
        if ack.is_recovering || !ack.is_cwnd_limited {
            // Section 5.8: time in which the window was not fully used does not count.
            if let (Some(epoch), Some(idle)) = (&mut self.epoch, since_last) {
                epoch.start += idle;
            }
            if ack.is_recovering {
                self.window.recover(ack);
            }
            return;
        }
        if !self.window.slow_start(ack) {
            self.avoid(ack);
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
        self.epoch = None;
    }

    /// Section 5.8: time in which the path was not used does not count.
    fn on_resumed(&mut self, away: Duration) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start += away;
        }
        self.last_ack = self.last_ack.map(|last| last + away);
        self.prior = None;
    }

    fn undo(&mut self) {
        if let Some(prior) = self.prior.take() {
            let cwnd = self.window.cwnd;
            *self = *prior;
            self.window.on_recovered();
            self.window.cwnd = self.window.cwnd.max(cwnd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{SMSS, ack, lose_one, parameters},
        *,
    };

    fn avoiding(cwnd: usize) -> Cubic {
        let unlimited = Parameters { max_cwnd: usize::MAX, ..parameters() };
        let mut cubic = Cubic::new(unlimited);
        cubic.window.cwnd = cwnd;
        lose_one(&mut cubic, cwnd);
        cubic
    }

    /// Runs rounds of 100 ms, acknowledged two segments at a time; returns the window after each.
    fn run(cubic: &mut Cubic, rounds: u64) -> Vec<usize> {
        let mut windows = Vec::new();
        for round in 0..rounds {
            let window = cubic.cwnd();
            let acks = window / (2 * SMSS);
            for n in 0..acks as u64 {
                let now = Instant::from_nanos(round * 100_000_000 + n * 100_000_000 / acks as u64);
                cubic.on_ack(&ack(now, 2 * SMSS));
            }
            windows.push(cubic.cwnd() / SMSS);
        }
        windows
    }

    #[test]
    fn a_loss_reduces_the_window_by_three_tenths() {
        let cubic = avoiding(1000 * SMSS);
        assert_eq!((cubic.cwnd(), cubic.ssthresh()), (700 * SMSS, 700 * SMSS));
    }

    #[test]
    fn ssthresh_follows_the_flight_with_a_lower_bound_of_half_the_window() {
        for (flight_size, ssthresh) in [(10, 35), (80, 56), (200, 70)] {
            let mut cubic = avoiding(1000 * SMSS);
            cubic.window.cwnd = 100 * SMSS;
            lose_one(&mut cubic, flight_size * SMSS);
            assert_eq!(cubic.ssthresh(), ssthresh * SMSS, "{flight_size}");
        }
    }

    #[test]
    fn the_window_returns_to_its_maximum_after_k_and_then_probes() {
        // K = cbrt(300 / 0.4) = 9.09 s.
        let windows = run(&mut avoiding(1000 * SMSS), 150);
        let at = |second: usize| windows[second * 10 - 1];
        assert!((900..=915).contains(&at(3)), "concave: {}", at(3));
        assert!((990..=1005).contains(&at(9)), "plateau: {}", at(9));
        assert!((1050..=1120).contains(&at(15)), "convex: {}", at(15));
    }

    #[test]
    fn a_short_path_grows_at_least_as_fast_as_reno() {
        let windows = run(&mut avoiding(20 * SMSS), 30);
        // 14 segments, 0.53 per round until 20, then one per round.
        assert!((18..=20).contains(&windows[9]), "{windows:?}");
        assert!((27..=33).contains(&windows[23]), "{windows:?}");
    }

    /// Section 4.3: W_est applies only where the cubic function is below it.
    #[test]
    fn the_cubic_curve_wins_where_both_meet() {
        let mut cubic = Cubic::new(Parameters { ssthresh: 10 * SMSS, ..parameters() });
        cubic.on_ack(&ack(Instant::ZERO, 0));
        // 10.4 segments after a second: C t^3 more, and 4 acknowledged of 10.
        cubic.on_ack(&ack(Instant::from_millis(1000), 4 * SMSS));
        // W_cubic is 0.5324 higher one RTT later, of which 4/10 are due.
        assert_eq!(cubic.cwnd(), 10 * SMSS + 213);
    }

    #[test]
    fn fast_convergence_releases_bandwidth() {
        let mut cubic = avoiding(1000 * SMSS);
        assert!((cubic.w_max - 1000.0).abs() < 0.1);
        lose_one(&mut cubic, 700 * SMSS);
        assert!((cubic.w_max - 595.0).abs() < 0.1);
        // No fast convergence when the window was as large as before.
        let mut cubic = avoiding(1000 * SMSS);
        cubic.window.cwnd = 1000 * SMSS;
        lose_one(&mut cubic, 1000 * SMSS);
        assert!((cubic.w_max - 1000.0).abs() < 0.1);
    }

    #[test]
    fn a_timeout_reduces_once_and_a_spurious_one_is_undone() {
        let mut cubic = avoiding(1000 * SMSS);
        cubic.on_rto(Instant::ZERO, 700 * SMSS, true);
        assert_eq!((cubic.cwnd(), cubic.ssthresh()), (10 * SMSS, 490 * SMSS));
        cubic.on_rto(Instant::ZERO, SMSS, false);
        assert_eq!(cubic.ssthresh(), 490 * SMSS);
        cubic.undo();
        assert_eq!((cubic.cwnd(), cubic.ssthresh()), (700 * SMSS, 700 * SMSS));
    }

    /// Rounds in slow start, each with an RTT 10 ms longer than the one before.
    fn run_slow_start(cubic: &mut Cubic, rounds: u64) {
        use crate::wire::seq::SeqNumber;
        let mut una = SeqNumber::default();
        for round in 0..rounds {
            let nxt = una + cubic.cwnd();
            let rtt = Some(Duration::from_millis(40 + 10 * round));
            while una < nxt {
                una += SMSS;
                let now = Instant::from_millis(100 * round);
                cubic.on_ack(&Ack { rtt, snd_una: una, snd_nxt: nxt, ..ack(now, SMSS) });
            }
        }
    }

    #[test]
    fn growing_delay_ends_slow_start_without_a_loss() {
        let mut cubic = Cubic::new(Parameters { ssthresh: usize::MAX, max_cwnd: usize::MAX, ..parameters() });
        run_slow_start(&mut cubic, 12);
        assert!(cubic.ssthresh() < 400 * SMSS, "{}", cubic.ssthresh());
    }

    /// RFC 9406 section 4.3: in the first slow start only; after a loss the threshold is known.
    #[test]
    fn growing_delay_does_not_end_a_later_slow_start() {
        let mut cubic = avoiding(200 * SMSS);
        cubic.on_rto(Instant::ZERO, 140 * SMSS, true);
        let ssthresh = cubic.ssthresh();
        assert_eq!((cubic.cwnd(), ssthresh), (10 * SMSS, 98 * SMSS));
        run_slow_start(&mut cubic, 6);
        assert_eq!(cubic.ssthresh(), ssthresh);
    }
}
