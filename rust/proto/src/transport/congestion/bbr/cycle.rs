//! The ProbeBW cycle of BBR: Down, Cruise, Refill, Up (section 5.3.3 of the draft).

use core::time::Duration;

use super::{Bbr, State, bytes, model::BETA};
use crate::{
    time::Instant,
    transport::congestion::{Ack, Loss},
};

const HEADROOM: f64 = 0.15;
const DOWN_PACING_GAIN: f64 = 0.9;
const UP_PACING_GAIN: f64 = 1.25;
const UP_CWND_GAIN: f64 = 2.25;
/// Upper bound of rounds between probes, for coexistence with Reno flows.
const MAX_RENO_ROUNDS: u64 = 63;

/// Phases of a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cycle {
    /// Drains the queue created by probing.
    Down,
    /// Keeps the flight constant, with headroom for other flows.
    Cruise,
    /// Refills the pipe without a queue.
    Refill,
    /// Sends faster than the estimated bandwidth.
    Up,
}

/// The phase that current acknowledgements belong to (section 5.3.3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum AckPhase {
    #[default]
    Init,
    Refilling,
    Starting,
    Feedback,
    Stopping,
}

/// State of the cycle.
#[derive(Clone, Debug, Default)]
pub(super) struct Probing {
    stamp: Instant,
    wait: Duration,
    rounds_since_probe: u64,
    rounds_until_probe: u64,
    up_rounds: u32,
    probe_up_count: usize,
    probe_up_acks: usize,
    pub(super) ack_phase: AckPhase,
    is_sample_of_probe: bool,
    salt: u64,
}

impl Probing {
    /// The path was not used for this long.
    pub(super) fn on_resumed(&mut self, away: Duration) {
        self.stamp += away;
    }

    /// A pseudo-random number per flow and cycle, so that flows do not probe in step.
    fn shuffle(&mut self, now: Instant) -> u64 {
        self.salt = (self.salt ^ now.as_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        self.salt >> 16
    }
}

impl Bbr {
    /// BBRIsProbingBW.
    pub(super) fn is_probing_bw(&self) -> bool {
        matches!(self.state, State::Startup | State::ProbeBw(Cycle::Refill | Cycle::Up))
    }

    pub(super) fn start_down(&mut self, now: Instant) {
        if self.state == State::ProbeBw(Cycle::Up) {
            self.model.end_probe();
        }
        self.model.reset_short_term();
        self.cycle.probe_up_count = usize::MAX;
        // Two to three seconds, and a randomized number of rounds.
        let random = self.cycle.shuffle(now);
        self.cycle.rounds_since_probe = random % 2;
        self.cycle.wait = Duration::from_millis(2000 + (random >> 1) % 1000);
        self.cycle.stamp = now;
        self.cycle.ack_phase = AckPhase::Stopping;
        let bdp = self.model.bw() * self.model.min_rtt.as_secs_f64() / self.parameters.smss as f64;
        self.cycle.rounds_until_probe = (bytes(bdp) as u64).min(MAX_RENO_ROUNDS);
        self.model.start_round();
        self.state = State::ProbeBw(Cycle::Down);
        self.pacing_gain = DOWN_PACING_GAIN;
        self.cwnd_gain = 2.0;
    }

    pub(super) fn start_cruise(&mut self) {
        self.state = State::ProbeBw(Cycle::Cruise);
        self.pacing_gain = 1.0;
        self.cwnd_gain = 2.0;
    }

    pub(super) fn start_refill(&mut self) {
        self.model.reset_short_term();
        self.cycle.up_rounds = 0;
        self.cycle.probe_up_acks = 0;
        self.cycle.ack_phase = AckPhase::Refilling;
        self.model.start_round();
        self.state = State::ProbeBw(Cycle::Refill);
        self.pacing_gain = 1.0;
        self.cwnd_gain = 2.0;
    }

    fn start_up(&mut self, now: Instant) {
        self.cycle.ack_phase = AckPhase::Starting;
        self.model.start_round();
        self.reset_full_bw();
        self.full_bw = self.model.latest_bw;
        self.cycle.stamp = now;
        self.state = State::ProbeBw(Cycle::Up);
        self.pacing_gain = UP_PACING_GAIN;
        self.cwnd_gain = UP_CWND_GAIN;
        self.raise_slope();
    }

    /// BBRUpdateProbeBWCyclePhase.
    pub(super) fn update_cycle(&mut self, ack: &Ack) {
        if !self.is_full_bw_reached {
            return;
        }
        self.adapt_long_term(ack);
        let State::ProbeBw(phase) = self.state else { return };
        if self.model.is_round_start {
            self.cycle.rounds_since_probe += 1;
        }
        match phase {
            Cycle::Down => {
                if self.is_time_to_probe(ack.now) {
                    self.start_refill();
                } else if self.is_time_to_cruise(ack) {
                    self.start_cruise();
                }
            }
            Cycle::Cruise => {
                if self.is_time_to_probe(ack.now) {
                    self.start_refill();
                }
            }
            Cycle::Refill => {
                if self.model.is_round_start {
                    self.cycle.is_sample_of_probe = true;
                    self.start_up(ack.now);
                }
            }
            Cycle::Up => {
                if self.is_time_to_go_down(ack) {
                    self.start_down(ack.now);
                }
            }
        }
    }

    fn is_time_to_probe(&self, now: Instant) -> bool {
        now.saturating_since(self.cycle.stamp) > self.cycle.wait
            || self.cycle.rounds_since_probe >= self.cycle.rounds_until_probe
    }

    fn is_time_to_cruise(&self, ack: &Ack) -> bool {
        ack.in_flight <= self.inflight_with_headroom().min(self.inflight(1.0))
    }

    fn is_time_to_go_down(&mut self, ack: &Ack) -> bool {
        let is_at_bound = self.model.inflight_hi.is_some_and(|hi| self.cwnd >= hi) && ack.is_cwnd_limited;
        if is_at_bound {
            self.reset_full_bw();
            self.full_bw = self.model.latest_bw;
            return false;
        }
        self.is_full_bw_now
    }

    /// BBRInflightWithHeadroom.
    pub(super) fn inflight_with_headroom(&self) -> usize {
        let Some(hi) = self.model.inflight_hi else { return usize::MAX };
        let headroom = bytes(HEADROOM * hi as f64).max(self.parameters.smss);
        hi.saturating_sub(headroom).max(self.min_pipe_cwnd())
    }

    /// BBRAdaptLongTermModel.
    fn adapt_long_term(&mut self, ack: &Ack) {
        if self.cycle.ack_phase == AckPhase::Starting && self.model.is_round_start {
            self.cycle.ack_phase = AckPhase::Feedback;
        }
        if self.cycle.ack_phase == AckPhase::Stopping && self.model.is_round_start {
            self.cycle.is_sample_of_probe = false;
            self.cycle.ack_phase = AckPhase::Init;
            if matches!(self.state, State::ProbeBw(_)) && !ack.rate.is_some_and(|rate| rate.is_app_limited) {
                self.model.advance_max_bw_filter();
            }
        }
        let Some(sample) = ack.rate else { return };
        if self.model.is_too_lossy(sample.lost, sample.tx_in_flight) {
            if self.cycle.is_sample_of_probe {
                self.on_inflight_too_high(ack.now, sample.tx_in_flight, sample.is_app_limited);
            }
            return;
        }
        let Some(hi) = self.model.inflight_hi else { return };
        self.model.inflight_hi = Some(hi.max(sample.tx_in_flight));
        if self.state == State::ProbeBw(Cycle::Up) {
            self.probe_up(ack);
        }
    }

    /// BBRProbeInflightHiUpward.
    fn probe_up(&mut self, ack: &Ack) {
        let Some(hi) = self.model.inflight_hi else { return };
        if !ack.is_cwnd_limited || self.cwnd < hi {
            return;
        }
        self.cycle.probe_up_acks += ack.delivered;
        if self.cycle.probe_up_acks >= self.cycle.probe_up_count {
            let steps = self.cycle.probe_up_acks / self.cycle.probe_up_count;
            self.cycle.probe_up_acks -= steps * self.cycle.probe_up_count;
            self.model.inflight_hi = Some(hi + steps * self.parameters.smss);
        }
        if self.model.is_round_start {
            self.raise_slope();
        }
    }

    /// BBRRaiseInflightHiSlope.
    fn raise_slope(&mut self) {
        let growth = self.parameters.smss << self.cycle.up_rounds;
        self.cycle.up_rounds = (self.cycle.up_rounds + 1).min(30);
        self.cycle.probe_up_count = (self.cwnd / growth.max(1)).max(1) * self.parameters.smss;
    }

    /// BBRHandleInflightTooHigh.
    fn on_inflight_too_high(&mut self, now: Instant, tx_in_flight: usize, is_app_limited: bool) {
        self.cycle.is_sample_of_probe = false;
        if !is_app_limited {
            let bdp = self.model.bw() * self.model.min_rtt.as_secs_f64();
            let target = bytes(bdp).min(self.cwnd);
            self.model.inflight_hi = Some(tx_in_flight.max(bytes(BETA * target as f64)));
        }
        if self.state == State::ProbeBw(Cycle::Up) {
            if let Some(undo) = &mut self.undo {
                undo.is_probe_ended = true;
            }
            self.start_down(now);
        }
    }

    /// BBRHandleLostPacket: the loss that crosses the threshold determines the bound.
    pub(super) fn on_lost_while_probing(&mut self, loss: &Loss) {
        if !self.cycle.is_sample_of_probe || !self.model.is_too_lossy(loss.lost_since, loss.tx_in_flight) {
            return;
        }
        let before = loss.tx_in_flight.saturating_sub(loss.size);
        self.on_inflight_too_high(self.cycle.stamp, before, false);
    }
}

#[cfg(test)]
mod tests;
