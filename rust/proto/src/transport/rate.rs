//! Delivery rate: how fast the path took what was sent (draft-ietf-ccwg-bbr section 4.1,
//! draft-cheng-iccrg-delivery-rate-estimation).

use core::time::Duration;

use crate::time::Instant;

/// What was known about delivery when a segment left. Kept with the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SendState {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    sent_at: Instant,
    lost: u64,
    in_flight: usize,
    is_app_limited: bool,
}

/// One measurement, made from one acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSample {
    /// Bytes delivered between the departure of the sampled segment and its acknowledgement.
    pub delivered: u64,
    /// The time that took.
    pub interval: Duration,
    /// Bytes that had been delivered on this connection when the sampled segment left.
    pub prior_delivered: u64,
    /// Bytes deemed lost in the same time.
    pub lost: u64,
    /// Bytes in flight just after the sampled segment left.
    pub tx_in_flight: usize,
    /// Whether the application, not the network, set the pace.
    pub is_app_limited: bool,
}

impl RateSample {
    /// Bytes per second, or `None` when the interval is too short to mean anything.
    pub fn rate(&self, min_rtt: Duration) -> Option<u64> {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 || self.interval < min_rtt {
            return None;
        }
        u64::try_from(u128::from(self.delivered) * 1_000_000_000 / u128::from(nanos)).ok()
    }
}

/// One segment that was deemed lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Its sequence numbers.
    pub size: usize,
    /// Bytes in flight just after it left.
    pub tx_in_flight: usize,
    /// Bytes deemed lost since it left, itself included.
    pub lost_since: u64,
    /// Bytes that had been delivered on this connection when it left.
    pub prior_delivered: u64,
}

/// The connection's side of the estimate.
#[derive(Debug, Default)]
pub(super) struct RateSampler {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    lost: u64,
    /// The flight is limited by the application until this much was delivered; 0 when it is not.
    app_limited_until: u64,
}

impl RateSampler {
    /// A segment leaves; `in_flight` counts it.
    pub(super) fn on_sent(&mut self, now: Instant, in_flight: usize, size: usize) -> SendState {
        if in_flight == size {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        SendState {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            sent_at: now,
            lost: self.lost,
            in_flight,
            is_app_limited: self.app_limited_until > 0,
        }
    }

    /// `size` bytes were newly delivered.
    pub(super) fn on_delivered(&mut self, now: Instant, size: usize) {
        self.delivered += size as u64;
        self.delivered_at = now;
    }

    /// A segment of `size` bytes was deemed lost.
    pub(super) fn on_lost(&mut self, state: &SendState, size: usize) -> Loss {
        self.lost += size as u64;
        Loss {
            size,
            tx_in_flight: state.in_flight,
            lost_since: self.lost - state.lost,
            prior_delivered: state.delivered,
        }
    }

    /// Measures from the segment of this acknowledgement that left last.
    pub(super) fn sample(&mut self, newest: &SendState) -> RateSample {
        self.first_sent_at = newest.sent_at;
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let send_elapsed = newest.sent_at.saturating_since(newest.first_sent_at);
        let ack_elapsed = self.delivered_at.saturating_since(newest.delivered_at);
        RateSample {
            delivered: self.delivered - newest.delivered,
            interval: send_elapsed.max(ack_elapsed),
            prior_delivered: newest.delivered,
            lost: self.lost - newest.lost,
            tx_in_flight: newest.in_flight,
            is_app_limited: newest.is_app_limited,
        }
    }

    /// The application has nothing more to send although the network would take it.
    pub(super) fn on_app_limited(&mut self, in_flight: usize) {
        self.app_limited_until = (self.delivered + in_flight as u64).max(1);
    }

    /// Bytes delivered since the start.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether the flight is limited by the application.
    pub(super) fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_path_measures_its_rate() {
        let mut sampler = RateSampler::default();
        let ms = Instant::from_millis;
        let states: Vec<_> = (0..10).map(|n| sampler.on_sent(ms(n), 1000 * (n as usize + 1), 1000)).collect();
        let mut last = RateSample::default();
        for (n, state) in states.iter().enumerate() {
            sampler.on_delivered(ms(50 + n as u64), 1000);
            last = sampler.sample(state);
        }
        assert_eq!((last.delivered, last.interval), (10_000, Duration::from_millis(59)));
        assert_eq!(last.rate(Duration::from_millis(50)), Some(169_491));
        assert_eq!(last.rate(Duration::from_millis(60)), None);
    }

    #[test]
    fn later_flights_measure_no_more_than_themselves() {
        let mut sampler = RateSampler::default();
        let ms = Instant::from_millis;
        for round in 0..3 {
            let state = sampler.on_sent(ms(50 * round), 1000, 1000);
            let loss = sampler.on_lost(&state, 300);
            assert_eq!((loss.tx_in_flight, loss.lost_since, loss.prior_delivered), (1000, 300, 700 * round));
            sampler.on_delivered(ms(50 * round + 50), 700);
            let sample = sampler.sample(&state);
            assert_eq!((sample.delivered, sample.lost, sample.prior_delivered), (700, 300, 700 * round));
            assert_eq!(sample.rate(Duration::ZERO), Some(14_000));
        }
    }

    /// Draft section 4.1.2.4: until more was delivered than the flight of then.
    #[test]
    fn the_mark_of_a_quiet_application_is_passed_not_reached() {
        let mut sampler = RateSampler::default();
        let state = sampler.on_sent(Instant::ZERO, 3000, 1000);
        sampler.on_delivered(Instant::ZERO, 3000);
        sampler.on_app_limited(2000);
        for (size, is_limited) in [(1000, true), (1000, true), (3000, false)] {
            sampler.on_delivered(Instant::ZERO, size);
            sampler.sample(&state);
            assert_eq!(sampler.is_app_limited(), is_limited, "{}", sampler.delivered());
        }
    }

    #[test]
    fn a_quiet_application_is_marked_until_its_flight_was_delivered() {
        let mut sampler = RateSampler::default();
        let first = sampler.on_sent(Instant::ZERO, 1000, 1000);
        sampler.on_app_limited(1000);
        let second = sampler.on_sent(Instant::ZERO, 2000, 1000);
        sampler.on_delivered(Instant::from_millis(10), 1000);
        assert!(!sampler.sample(&first).is_app_limited);
        sampler.on_delivered(Instant::from_millis(10), 1000);
        assert!(sampler.sample(&second).is_app_limited);
        assert!(!sampler.is_app_limited());
    }
}
