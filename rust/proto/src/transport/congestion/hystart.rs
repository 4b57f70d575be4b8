//! HyStart++ (RFC 9406): leaves slow start when the RTT grows, before a loss.

use core::time::Duration;

use crate::wire::seq::SeqNumber;

const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: usize = 4;
const CSS_ROUNDS: u32 = 5;

/// Phase of slow start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The window doubles each round.
    SlowStart,
    /// Conservative slow start: a delay increase is being verified.
    Conservative,
    /// Slow start ended: the delay increase was confirmed, or a loss occurred.
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
    /// Phase of slow start.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Window growth for `counted` acknowledged bytes.
    pub fn growth(&self, counted: usize) -> usize {
        match self.phase {
            Phase::SlowStart | Phase::Done => counted,
            Phase::Conservative => counted / CSS_GROWTH_DIVISOR,
        }
    }

    /// Ends slow start for another reason.
    pub fn finish(&mut self) {
        self.phase = Phase::Done;
    }

    /// Processes an acknowledgement during slow start. Returns whether slow start is over.
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

    /// Section 4.2: a round needs N_RTT_SAMPLE samples.
    #[test]
    fn a_round_needs_eight_samples() {
        assert!(
            phases_of(&[40, 40, 80, 80], N_RTT_SAMPLE - 1).iter().all(|phase| *phase == Phase::SlowStart)
        );
        assert_eq!(phases_of(&[40, 40, 80], N_RTT_SAMPLE)[2], Phase::Conservative);
    }

    #[test]
    fn a_constant_higher_rtt_stays_conservative() {
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
    fn a_temporary_increase_resumes_slow_start() {
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
