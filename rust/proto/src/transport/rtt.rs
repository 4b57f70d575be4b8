//! Round-trip time and retransmission timeout (RFC 6298, in integer nanoseconds).

use core::time::Duration;

use crate::config::TransportConfig;

/// SRTT, RTTVAR and RTO, with `alpha` = 1/8, `beta` = 1/4, `k` = 4.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    srtt: Option<Duration>,
    rttvar: Duration,
    min_rtt: Option<Duration>,
    /// The last sample, until it is taken.
    latest: Option<Duration>,
    rto: Duration,
    rto_min: Duration,
    rto_max: Duration,
    clock_granularity: Duration,
}

impl RttEstimator {
    /// An estimator without samples.
    pub fn new(config: &TransportConfig) -> Self {
        Self {
            srtt: None,
            rttvar: Duration::ZERO,
            min_rtt: None,
            latest: None,
            rto: config.rto_initial,
            rto_min: config.rto_min,
            rto_max: config.rto_max,
            clock_granularity: config.clock_granularity,
        }
    }

    /// Adds a sample, which must come from a segment sent once (Karn's algorithm, RFC 6298 section 3).
    pub fn on_sample(&mut self, rtt: Duration) {
        self.latest = Some(rtt);
        self.min_rtt = Some(self.min_rtt.map_or(rtt, |min| min.min(rtt)));
        let srtt = match self.srtt {
            None => {
                self.rttvar = rtt / 2;
                rtt
            }
            Some(srtt) => {
                self.rttvar = self.rttvar * 3 / 4 + srtt.abs_diff(rtt) / 4;
                srtt * 7 / 8 + rtt / 8
            }
        };
        self.srtt = Some(srtt);
        self.rto = self.rto_of(srtt);
    }

    /// The last sample, unless it was taken before.
    #[inline]
    pub fn take_sample(&mut self) -> Option<Duration> {
        self.latest.take()
    }

    /// Doubles the RTO (RFC 6298 (5.5)).
    pub fn back_off(&mut self) {
        self.rto = (self.rto * 2).min(self.rto_max);
    }

    /// Undoes every back-off: the path is known to work again.
    pub fn reset_back_off(&mut self) {
        if let Some(srtt) = self.srtt {
            self.rto = self.rto_of(srtt);
        }
    }

    fn rto_of(&self, srtt: Duration) -> Duration {
        let margin = self.clock_granularity.max(self.rttvar * 4);
        (srtt + margin).clamp(self.rto_min, self.rto_max)
    }

    /// The time in which an answer arrives: the RTO without its lower bound, with room for a growing queue.
    pub fn expected(&self) -> Duration {
        self.srtt.map_or(self.rto, |srtt| (srtt + self.rttvar * 4).max(srtt * 3 / 2).min(self.rto_max))
    }

    /// RTO.
    pub fn rto(&self) -> Duration {
        self.rto
    }

    /// The smoothed round-trip time, once there is a sample.
    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// The round-trip time variation.
    pub fn rttvar(&self) -> Duration {
        self.rttvar
    }

    /// The shortest sample.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let text = include_str!("../../../../tests/vectors/rtt.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let mut rtt = RttEstimator::new(&TransportConfig::default());
            let samples = case["samples_us"].as_array().unwrap();
            for (sample, out) in samples.iter().zip(case["out"].as_array().unwrap()) {
                rtt.on_sample(Duration::from_micros(sample.as_u64().unwrap()));
                let nanos = |key: &str| Duration::from_nanos(out[key].as_u64().unwrap());
                assert_eq!(rtt.srtt(), Some(nanos("srtt_ns")));
                assert_eq!(rtt.rttvar(), nanos("rttvar_ns"));
                assert_eq!(rtt.rto(), nanos("rto_ns"));
            }
        }
    }

    #[test]
    fn back_off_doubles_up_to_the_bound() {
        let mut rtt = RttEstimator::new(&TransportConfig::default());
        rtt.on_sample(Duration::from_millis(50));
        let backed_off: Vec<_> = (0..7)
            .map(|_| {
                rtt.back_off();
                rtt.rto().as_millis()
            })
            .collect();
        assert_eq!(backed_off, [400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
