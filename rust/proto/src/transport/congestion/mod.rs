//! Congestion control: one trait, three controllers (RFC 5681, RFC 9438, draft-ietf-ccwg-bbr).

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

/// Initial parameters of a controller, in bytes unless stated otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Initial window (IW).
    pub initial_window: usize,
    /// Initial slow-start threshold.
    pub ssthresh: usize,
    /// Upper bound of the congestion window.
    pub max_cwnd: usize,
    /// Sender maximum segment size.
    pub smss: usize,
    /// L of RFC 3465 in segments, or `None` to count every byte in slow start.
    pub abc_limit: Option<usize>,
}

/// One acknowledgement, in bytes unless stated otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Arrival time.
    pub now: Instant,
    /// Newly acknowledged cumulatively.
    pub acked: usize,
    /// Newly acknowledged cumulatively or selectively.
    pub delivered: usize,
    /// Delivered since the start.
    pub total_delivered: u64,
    /// Newly marked lost.
    pub lost: usize,
    /// In flight now.
    pub in_flight: usize,
    /// RTT sample of a segment that was sent once.
    pub rtt: Option<Duration>,
    /// Minimum RTT.
    pub min_rtt: Duration,
    /// Smoothed RTT.
    pub srtt: Duration,
    /// SND.UNA; together with `snd_nxt` it delimits rounds.
    pub snd_una: SeqNumber,
    /// SND.NXT.
    pub snd_nxt: SeqNumber,
    /// Whether the congestion window limited the flight.
    pub is_cwnd_limited: bool,
    /// Whether the connection is in fast recovery.
    pub is_recovering: bool,
    /// The delivery rate sample, if there is one.
    pub rate: Option<RateSample>,
}

/// A congestion controller.
pub trait Controller: fmt::Debug + Send + Sync {
    /// Its algorithm.
    fn algorithm(&self) -> Algorithm;

    /// Congestion window, bytes.
    fn cwnd(&self) -> usize;

    /// Slow-start threshold, bytes; `usize::MAX` when there is none.
    fn ssthresh(&self) -> usize;

    /// Whether the controller is in slow start.
    fn is_slow_start(&self) -> bool {
        self.cwnd() < self.ssthresh()
    }

    /// Name of its phase, as in qlog or its draft.
    fn phase(&self) -> &'static str {
        if self.is_slow_start() { "slow_start" } else { "congestion_avoidance" }
    }

    /// Pacing rate, bytes per second; `None` for no limit.
    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64>;

    /// The segment size changed.
    fn set_smss(&mut self, smss: usize);

    /// A segment of `size` bytes is sent; `in_flight` does not include it.
    fn on_sent(&mut self, _now: Instant, _size: usize, _in_flight: usize, _is_app_limited: bool) {}

    /// An acknowledgement that delivered data; called after [`Self::on_segment_lost`] for its losses.
    fn on_ack(&mut self, ack: &Ack);

    /// A segment was marked lost.
    fn on_segment_lost(&mut self, _loss: &Loss) {}

    /// A loss event started with `flight_size` bytes outstanding (RFC 5681 section 3.2), of which `in_flight`
    /// are not marked lost. Called once per window.
    fn on_loss_event(&mut self, now: Instant, flight_size: usize, in_flight: usize);

    /// The loss event ended.
    fn on_recovered(&mut self) {}

    /// The retransmission timer expired with `flight_size` bytes in flight; `is_new_event` unless it
    /// already had for data of the same window (RFC 5681 section 3.1, last paragraph).
    fn on_rto(&mut self, now: Instant, flight_size: usize, is_new_event: bool);

    /// The path is used again after `away`, during which nothing was sent on it.
    fn on_resumed(&mut self, _away: Duration) {}

    /// The last loss event or timeout was spurious: restores the state before it.
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
    fn every_algorithm_has_a_controller() {
        for algorithm in Algorithm::ALL {
            assert_eq!(start(algorithm, parameters()).algorithm(), algorithm);
        }
    }

    /// RFC 5681, equation 4: no less than two segments of the current size.
    #[test]
    fn the_threshold_is_at_least_two_segments_of_the_current_size() {
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
    fn recovery_keeps_the_flight_at_the_delivered_amount() {
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
            // A loss found by a timer allows no further transmission.
            let loss = Loss { size: SMSS, tx_in_flight: 0, lost_since: 0, prior_delivered: 0 };
            controller.on_segment_lost(&loss);
            assert_eq!(controller.cwnd(), 29 * SMSS, "{algorithm}");
            // Paced by the threshold, neither as slow start nor by the small flight.
            let per_rtt = controller.ssthresh() as u64 * 12;
            assert_eq!(controller.pacing_rate(rtt), Some(per_rtt), "{algorithm}");
            controller.on_recovered();
            assert_eq!((controller.cwnd(), controller.ssthresh()), (ssthresh * SMSS, ssthresh * SMSS));
            controller.on_segment_lost(&loss);
            assert_eq!(controller.cwnd(), ssthresh * SMSS, "{algorithm}");
        }
    }

    /// A timeout ends fast recovery. If it was spurious, the threshold of the recovery is restored, not the
    /// small flight.
    #[test]
    fn a_spurious_timeout_in_recovery_restores_its_threshold() {
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
