//! HyStart++: leaves slow start when round trips grow, before anything is lost (RFC 9406).

use core::time::Duration;

use crate::wire::seq::SeqNumber;

const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: usize = 4;
const CSS_ROUNDS: u32 = 5;

/// Where slow start stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The window doubles each round.
    SlowStart,
    /// Conservative slow start: a delay increase is being verified.
    Conservative,
    /// The increase was real, or something was lost.
    Done,
}

/// State of the algorithm (RFC 9406 section 4.2).
#[derive(Clone, Debug)]
pub struct HyStart {
    phase: Phase,
    window_end: Option<SeqNumber>,
    last_round_min_rtt: Option<Duration>,
    current_round_min_rtt: Option<Duration>,
    css_baseline_min_rtt: Duration,
    rtt_sample_count: u32,
    css_rounds: u32,
}

impl Default for HyStart {
    fn default() -> Self {
        Self {
            phase: Phase::SlowStart,
            window_end: None,
            last_round_min_rtt: None,
            current_round_min_rtt: None,
            css_baseline_min_rtt: Duration::MAX,
            rtt_sample_count: 0,
            css_rounds: 0,
        }
    }
}

impl HyStart {
    /// Where slow start stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Bytes by which the window grows for `counted` acknowledged ones.
    pub fn growth(&self, counted: usize) -> usize {
        match self.phase {
            Phase::SlowStart | Phase::Done => counted,
            Phase::Conservative => counted / CSS_GROWTH_DIVISOR,
        }
    }

    /// Slow start ended for another reason.
    pub fn finish(&mut self) {
        self.phase = Phase::Done;
    }

    /// An acknowledgement during slow start. Returns whether slow start ends with it.
    pub fn on_ack(&mut self, rtt: Option<Duration>, snd_una: SeqNumber, snd_nxt: SeqNumber) -> bool {
        if self.phase == Phase::Done {
            return false;
        }
        if self.window_end.is_none_or(|end| snd_una >= end) {
            self.start_round(snd_nxt);
        }
        if let Some(rtt) = rtt {
            self.on_sample(rtt);
        }
        self.phase == Phase::Done
    }

    fn on_sample(&mut self, rtt: Duration) {
        self.rtt_sample_count += 1;
        let current = self.current_round_min_rtt.map_or(rtt, |min| min.min(rtt));
        self.current_round_min_rtt = Some(current);
        if self.rtt_sample_count < N_RTT_SAMPLE {
            return;
        }
        match (self.phase, self.last_round_min_rtt) {
            (Phase::SlowStart, Some(last)) => {
                let thresh = (last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                if current >= last + thresh {
                    self.css_baseline_min_rtt = current;
                    self.css_rounds = 0;
                    self.phase = Phase::Conservative;
                }
            }
            (Phase::Conservative, _) => {
                if current < self.css_baseline_min_rtt {
                    self.css_baseline_min_rtt = Duration::MAX;
                    self.phase = Phase::SlowStart;
                }
            }
            (Phase::SlowStart | Phase::Done, _) => {}
        }
    }

    fn start_round(&mut self, snd_nxt: SeqNumber) {
        if self.phase == Phase::Conservative {
            self.css_rounds += 1;
            if self.css_rounds >= CSS_ROUNDS {
                self.phase = Phase::Done;
                return;
            }
        }
        self.window_end = Some(snd_nxt);
        self.last_round_min_rtt = self.current_round_min_rtt;
        self.current_round_min_rtt = None;
        self.rtt_sample_count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs rounds of ten samples of the given round-trip times and returns the phase after each.
    fn phases(rounds: &[u64]) -> Vec<Phase> {
        phases_of(rounds, 10)
    }

    fn phases_of(rounds: &[u64], samples: u32) -> Vec<Phase> {
        let mut hystart = HyStart::default();
        let mut una = SeqNumber::new(0);
        let mut phases = Vec::new();
        for rtt in rounds {
            let nxt = una + 1000 * samples as usize;
            for _ in 0..samples {
                hystart.on_ack(Some(Duration::from_millis(*rtt)), una, nxt);
                una += 1000;
            }
            phases.push(hystart.phase());
        }
        phases
    }

    #[test]
    fn a_steady_path_stays_in_slow_start() {
        assert!(phases(&[40; 12]).iter().all(|phase| *phase == Phase::SlowStart));
        // Below the threshold of an eighth, 5 ms.
        assert!(phases(&[40, 44, 44, 44]).iter().all(|phase| *phase == Phase::SlowStart));
    }

    /// Section 4.2: fewer samples say nothing.
    #[test]
    fn a_round_is_judged_after_eight_samples() {
        assert!(
            phases_of(&[40, 40, 80, 80], N_RTT_SAMPLE - 1).iter().all(|phase| *phase == Phase::SlowStart)
        );
        assert_eq!(phases_of(&[40, 40, 80], N_RTT_SAMPLE)[2], Phase::Conservative);
    }

    #[test]
    fn a_round_trip_that_stays_long_is_no_decrease() {
        for samples in [N_RTT_SAMPLE + 1, N_RTT_SAMPLE + 2] {
            assert_eq!(phases_of(&[40, 40, 60], samples)[2], Phase::Conservative);
        }
    }

    #[test]
    fn growing_round_trips_end_slow_start_after_five_conservative_rounds() {
        use Phase::{Conservative, Done, SlowStart};
        let seen = phases(&[40, 40, 46, 48, 50, 52, 54, 56]);
        assert_eq!(
            seen,
            [
                SlowStart,
                SlowStart,
                Conservative,
                Conservative,
                Conservative,
                Conservative,
                Conservative,
                Done
            ]
        );
    }

    #[test]
    fn a_passing_increase_resumes_slow_start() {
        use Phase::{Conservative, SlowStart};
        assert_eq!(phases(&[40, 40, 60, 41, 41]), [SlowStart, SlowStart, Conservative, SlowStart, SlowStart]);
    }

    #[test]
    fn conservative_growth_is_a_quarter() {
        let mut hystart = HyStart::default();
        assert_eq!(hystart.growth(4000), 4000);
        hystart.phase = Phase::Conservative;
        assert_eq!(hystart.growth(4000), 1000);
    }
}
