//! Delivery rate estimation (draft-ietf-ccwg-bbr section 4.1,
//! draft-cheng-iccrg-delivery-rate-estimation).

use core::time::Duration;

use crate::time::Instant;

/// Delivery state when a segment was sent, stored with the segment.
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

/// One rate sample, from one acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSample {
    /// Bytes delivered between sending the sampled segment and its acknowledgement.
    pub delivered: u64,
    /// Duration of the sample.
    pub interval: Duration,
    /// Bytes delivered on this connection when the sampled segment was sent.
    pub prior_delivered: u64,
    /// Bytes marked lost during the sample.
    pub lost: u64,
    /// Bytes in flight just after the sampled segment was sent.
    pub tx_in_flight: usize,
    /// Whether the sample was limited by the application.
    pub is_app_limited: bool,
}

impl RateSample {
    /// Bytes per second, or `None` when the interval is too short.
    pub fn rate(&self, min_rtt: Duration) -> Option<u64> {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 || self.interval < min_rtt {
            return None;
        }
        u64::try_from(u128::from(self.delivered) * 1_000_000_000 / u128::from(nanos)).ok()
    }
}

/// One segment marked lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Its length in sequence numbers.
    pub size: usize,
    /// Bytes in flight just after it was sent.
    pub tx_in_flight: usize,
    /// Bytes marked lost since it was sent, including itself.
    pub lost_since: u64,
    /// Bytes delivered on this connection when it was sent.
    pub prior_delivered: u64,
}

/// Delivery state of the connection.
#[derive(Debug, Default)]
pub(super) struct RateSampler {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    lost: u64,
    /// C.app_limited: application-limited until this many bytes are delivered; 0 if not limited.
    app_limited_until: u64,
}

impl RateSampler {
    /// A segment is sent; `in_flight` includes it.
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

    /// A segment of `size` bytes was marked lost.
    pub(super) fn on_lost(&mut self, state: &SendState, size: usize) -> Loss {
        self.lost += size as u64;
        Loss {
            size,
            tx_in_flight: state.in_flight,
            lost_since: self.lost - state.lost,
            prior_delivered: state.delivered,
        }
    }

    /// Takes a sample from the most recently sent segment of an acknowledgement.
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

    /// The application has no more data although the window has room.
    pub(super) fn on_app_limited(&mut self, in_flight: usize) {
        self.app_limited_until = (self.delivered + in_flight as u64).max(1);
    }

    /// Bytes delivered since the start.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether the connection is application-limited.
    pub(super) fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_path_is_measured() {
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
    fn samples_do_not_include_earlier_flights() {
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

    /// Draft section 4.1.2.4: until more is delivered than was in flight.
    #[test]
    fn app_limited_ends_when_delivery_exceeds_the_mark() {
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
    fn samples_are_app_limited_until_the_flight_is_delivered() {
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
