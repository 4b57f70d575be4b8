//! How much may be in flight and how fast it may leave: one trait, three controllers.

mod bbr;
mod cubic;
mod hystart;
mod prr;
mod reno;
mod window;

use core::{fmt, time::Duration};

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use hystart::{HyStart, Phase};
pub use reno::Reno;

pub use super::rate::Loss;
use super::rate::RateSample;
pub use crate::config::Algorithm;
use crate::{time::Instant, wire::seq::SeqNumber};

/// The controller for a new connection.
pub fn start(algorithm: Algorithm, parameters: Parameters) -> Box<dyn Controller> {
    match algorithm {
        Algorithm::Reno => Box::new(Reno::new(parameters)),
        Algorithm::Cubic => Box::new(Cubic::new(parameters)),
        Algorithm::Bbr => Box::new(Bbr::new(parameters)),
    }
}

/// What every controller starts from. Bytes throughout.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Window before anything was acknowledged.
    pub initial_window: usize,
    /// Slow-start threshold before anything was lost.
    pub ssthresh: usize,
    /// The window never exceeds this.
    pub max_cwnd: usize,
    /// Sender maximum segment size.
    pub smss: usize,
    /// L of RFC 3465 in segments, or `None` to count every byte in slow start.
    pub abc_limit: Option<usize>,
}

/// What one acknowledgement told. Bytes throughout.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// When it arrived.
    pub now: Instant,
    /// Newly acknowledged, cumulatively.
    pub acked: usize,
    /// Newly delivered: cumulatively or selectively acknowledged.
    pub delivered: usize,
    /// Delivered since the start.
    pub total_delivered: u64,
    /// Newly deemed lost.
    pub lost: usize,
    /// In flight now.
    pub in_flight: usize,
    /// Round trip of a segment that was sent once.
    pub rtt: Option<Duration>,
    /// The shortest round trip so far.
    pub min_rtt: Duration,
    /// Smoothed round trip.
    pub srtt: Duration,
    /// First number not acknowledged, and the next to be sent; they mark round trips.
    pub snd_una: SeqNumber,
    /// The next number to be sent.
    pub snd_nxt: SeqNumber,
    /// Whether the window was what limited the flight.
    pub is_cwnd_limited: bool,
    /// Whether a loss that acknowledgements revealed is being repaired.
    pub is_recovering: bool,
    /// The delivery rate, if this acknowledgement measured one.
    pub rate: Option<RateSample>,
}

/// A congestion controller.
pub trait Controller: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn algorithm(&self) -> Algorithm;

    /// Bytes that may be in flight.
    fn cwnd(&self) -> usize;

    /// Slow-start threshold, bytes; `usize::MAX` when there is none.
    fn ssthresh(&self) -> usize;

    /// Whether the window is to double in a round trip.
    fn is_slow_start(&self) -> bool {
        self.cwnd() < self.ssthresh()
    }

    /// What it is doing, in the words of qlog or of its draft.
    fn phase(&self) -> &'static str {
        if self.is_slow_start() { "slow_start" } else { "congestion_avoidance" }
    }

    /// Bytes per second at which segments may leave; `None` for no limit.
    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64>;

    /// The segment size changed.
    fn set_smss(&mut self, smss: usize);

    /// A segment of `size` bytes leaves; `in_flight` does not count it.
    fn on_sent(&mut self, _now: Instant, _size: usize, _in_flight: usize, _is_app_limited: bool) {}

    /// An acknowledgement that delivered something, after its losses were told.
    fn on_ack(&mut self, ack: &Ack);

    /// A segment was deemed lost.
    fn on_segment_lost(&mut self, _loss: &Loss) {}

    /// A loss event began with `flight_size` bytes in flight (RFC 5681 section 3.2), of which
    /// `in_flight` are not deemed lost. Told once per window.
    fn on_loss_event(&mut self, now: Instant, flight_size: usize, in_flight: usize);

    /// The loss event is over.
    fn on_recovered(&mut self) {}

    /// The retransmission timer expired with `flight_size` bytes in flight; `is_new_event` unless it
    /// already had for data of the same window (RFC 5681 section 3.1, last paragraph).
    fn on_rto(&mut self, now: Instant, flight_size: usize, is_new_event: bool);

    /// The last loss event or timeout was none: what it changed is restored.
    fn undo(&mut self);
}

/// Bytes per second for `gain_percent` of a window per round trip (RFC 9002 section 7.7).
fn window_rate(cwnd: usize, srtt: Option<Duration>, gain_percent: u64) -> Option<u64> {
    let nanos = u64::try_from(srtt?.as_nanos()).ok()?.max(1);
    let bytes = u128::from(cwnd as u64) * u128::from(gain_percent) * 10_000_000;
    Some(u64::try_from(bytes / u128::from(nanos)).unwrap_or(u64::MAX).max(1))
}

#[cfg(test)]
mod testing {
    use super::*;

    pub(super) const SMSS: usize = 1000;

    pub(super) fn parameters() -> Parameters {
        Parameters {
            initial_window: 10 * SMSS,
            ssthresh: 40 * SMSS,
            max_cwnd: 100 * SMSS,
            smss: SMSS,
            abc_limit: Some(2),
        }
    }

    /// An acknowledgement of `acked` bytes at `now` while the window was the limit.
    pub(super) fn ack(now: Instant, acked: usize) -> Ack {
        let rtt = Duration::from_millis(100);
        Ack {
            now,
            acked,
            delivered: acked,
            total_delivered: 0,
            lost: 0,
            in_flight: 0,
            rtt: None,
            min_rtt: rtt,
            srtt: rtt,
            snd_una: SeqNumber::default(),
            snd_nxt: SeqNumber::default(),
            is_cwnd_limited: true,
            is_recovering: false,
            rate: None,
        }
    }

    /// A loss event of one segment, from its beginning to its end.
    pub(super) fn lose_one(controller: &mut dyn Controller, flight_size: usize) {
        controller.on_loss_event(Instant::ZERO, flight_size, flight_size.saturating_sub(SMSS));
        controller.on_recovered();
    }

    #[test]
    fn every_controller_can_be_chosen() {
        for algorithm in Algorithm::ALL {
            assert_eq!(start(algorithm, parameters()).algorithm(), algorithm);
        }
    }

    /// RFC 5681, equation 4: no less than two segments of the size that the path carries.
    #[test]
    fn a_segment_size_found_later_bounds_the_threshold() {
        for algorithm in [Algorithm::Reno, Algorithm::Cubic] {
            let mut controller = start(algorithm, parameters());
            controller.set_smss(4 * SMSS);
            controller.on_loss_event(Instant::ZERO, 0, 0);
            assert_eq!(controller.ssthresh(), 8 * SMSS, "{algorithm}");
        }
    }

    #[test]
    fn windows_are_paced_with_room_to_double_in_slow_start() {
        let rtt = Some(Duration::from_millis(100));
        for algorithm in [Algorithm::Reno, Algorithm::Cubic] {
            let mut controller = start(algorithm, parameters());
            assert_eq!(controller.pacing_rate(rtt), Some(500_000), "{algorithm}");
            assert_eq!(controller.pacing_rate(None), None, "{algorithm}");
            lose_one(&mut *controller, 10 * SMSS);
            let per_rtt = controller.cwnd() as u64 * 12;
            assert_eq!(controller.pacing_rate(rtt), Some(per_rtt), "{algorithm}");
        }
    }

    fn repaired(in_flight: usize, delivered: usize) -> Ack {
        let ack = ack(Instant::ZERO, delivered);
        Ack { in_flight, lost: SMSS, is_recovering: true, ..ack }
    }

    /// RFC 9937: beginning, conduct and end of a fast recovery.
    #[test]
    fn a_recovery_keeps_the_flight_at_what_the_path_delivers() {
        let rtt = Some(Duration::from_millis(100));
        for (algorithm, ssthresh) in [(Algorithm::Reno, 50), (Algorithm::Cubic, 70)] {
            let wide = Parameters { initial_window: 100 * SMSS, ssthresh: usize::MAX, ..parameters() };
            let mut controller = start(algorithm, wide);
            // Most of the flight is gone.
            controller.on_loss_event(Instant::ZERO, 100 * SMSS, 30 * SMSS);
            assert_eq!(controller.cwnd(), 31 * SMSS, "{algorithm}");
            controller.on_sent(Instant::ZERO, SMSS, 30 * SMSS, false);
            controller.on_ack(&repaired(29 * SMSS, 2 * SMSS));
            assert_eq!(controller.cwnd(), 31 * SMSS, "{algorithm}");
            // Three were delivered and one was sent.
            controller.on_ack(&repaired(28 * SMSS, SMSS));
            assert_eq!(controller.cwnd(), 30 * SMSS, "{algorithm}");
            // What a timer finds lost makes no room.
            let loss = Loss { size: SMSS, tx_in_flight: 0, lost_since: 0, prior_delivered: 0 };
            controller.on_segment_lost(&loss);
            assert_eq!(controller.cwnd(), 29 * SMSS, "{algorithm}");
            // Not paced as slow start, nor by the little that is in flight.
            let per_rtt = controller.ssthresh() as u64 * 12;
            assert_eq!(controller.pacing_rate(rtt), Some(per_rtt), "{algorithm}");
            controller.on_recovered();
            assert_eq!((controller.cwnd(), controller.ssthresh()), (ssthresh * SMSS, ssthresh * SMSS));
            controller.on_segment_lost(&loss);
            assert_eq!(controller.cwnd(), ssthresh * SMSS, "{algorithm}");
        }
    }

    /// A timeout within a fast recovery ends it; when it was a false alarm, what the recovery was to
    /// end with is restored, not the little that was in flight.
    #[test]
    fn a_false_timeout_within_a_recovery_restores_its_threshold() {
        for (algorithm, ssthresh) in [(Algorithm::Reno, 50), (Algorithm::Cubic, 70)] {
            let wide = Parameters { initial_window: 100 * SMSS, ssthresh: usize::MAX, ..parameters() };
            let mut controller = start(algorithm, wide);
            controller.on_loss_event(Instant::ZERO, 100 * SMSS, 30 * SMSS);
            controller.on_ack(&repaired(9 * SMSS, SMSS));
            controller.on_rto(Instant::ZERO, 10 * SMSS, true);
            assert_eq!(controller.cwnd(), 10 * SMSS, "{algorithm}");
            controller.undo();
            assert_eq!((controller.cwnd(), controller.ssthresh()), (ssthresh * SMSS, ssthresh * SMSS));
            let ack = ack(Instant::ZERO, SMSS);
            controller.on_ack(&Ack { in_flight: SMSS, ..ack });
            assert!(controller.cwnd() >= ssthresh * SMSS, "{algorithm}");
        }
    }

    #[test]
    fn window_rates_scale_with_the_gain() {
        let rtt = Some(Duration::from_millis(100));
        assert_eq!(window_rate(100_000, rtt, 100), Some(1_000_000));
        assert_eq!(window_rate(100_000, rtt, 400), Some(4_000_000));
        assert_eq!(window_rate(100_000, None, 400), None);
    }
}
