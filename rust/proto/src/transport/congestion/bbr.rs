//! BBR version 3 (draft-ietf-ccwg-bbr): a model of the path from its delivery rate and minimum RTT. Names
//! follow the draft.

mod cycle;
mod model;

use core::time::Duration;

use self::{
    cycle::Cycle,
    model::{Bounds, Model},
};
use super::{Ack, Algorithm, Controller, Loss, Parameters};
use crate::time::Instant;

const STARTUP_PACING_GAIN: f64 = 2.773;
const STARTUP_CWND_GAIN: f64 = 2.0;
const DRAIN_PACING_GAIN: f64 = 0.5;
/// Upper bound of rounds in Drain: a queue kept by competing flows cannot be drained.
const DRAIN_ROUNDS: u64 = 3;
const PROBE_RTT_CWND_GAIN: f64 = 0.5;
const MIN_PIPE_SEGMENTS: usize = 4;
const PACING_MARGIN: f64 = 0.99;
/// Full bandwidth is reached after three rounds with less than 25 % growth.
const FULL_BW_THRESH: f64 = 1.25;
const FULL_BW_ROUNDS: u32 = 3;
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
/// Send quantum, seconds at the pacing rate.
const QUANTUM: f64 = 0.001;

/// State machine (section 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Startup,
    Drain,
    ProbeBw(Cycle),
    ProbeRtt,
}

/// State to restore if a loss episode was spurious (section 5.5.11.1).
#[derive(Clone, Copy, Debug)]
struct Undo {
    bounds: Bounds,
    is_probe_ended: bool,
}

/// The controller of one connection.
#[derive(Clone, Debug)]
pub struct Bbr {
    parameters: Parameters,
    state: State,
    model: Model,
    cycle: cycle::Probing,
    cwnd: usize,
    prior_cwnd: usize,
    pacing_gain: f64,
    cwnd_gain: f64,
    /// Bytes per second; 0 before the first round trip.
    pacing_rate: f64,
    full_bw: f64,
    full_bw_count: u32,
    is_full_bw_now: bool,
    is_full_bw_reached: bool,
    drain_start_round: u64,
    probe_rtt_done: Option<Instant>,
    is_probe_rtt_round_done: bool,
    is_idle_restart: bool,
    is_conserving: bool,
    undo: Option<Undo>,
}

impl Bbr {
    /// The initial state.
    pub fn new(parameters: Parameters) -> Self {
        Self {
            state: State::Startup,
            model: Model::default(),
            cycle: cycle::Probing::default(),
            cwnd: parameters.initial_window,
            prior_cwnd: 0,
            pacing_gain: STARTUP_PACING_GAIN,
            cwnd_gain: STARTUP_CWND_GAIN,
            pacing_rate: 0.0,
            full_bw: 0.0,
            full_bw_count: 0,
            is_full_bw_now: false,
            is_full_bw_reached: false,
            drain_start_round: 0,
            probe_rtt_done: None,
            is_probe_rtt_round_done: false,
            is_idle_restart: false,
            is_conserving: false,
            undo: None,
            parameters,
        }
    }

    fn min_pipe_cwnd(&self) -> usize {
        MIN_PIPE_SEGMENTS * self.parameters.smss
    }

    fn send_quantum(&self) -> usize {
        bytes(self.pacing_rate * QUANTUM).clamp(2 * self.parameters.smss, 64 * 1024)
    }

    /// BBRInflight: `gain` bandwidth-delay products plus the quantization budget.
    fn inflight(&self, gain: f64) -> usize {
        if self.model.min_rtt.is_zero() {
            return self.parameters.initial_window;
        }
        let bdp = self.model.bw() * self.model.min_rtt.as_secs_f64();
        self.quantization_budget(bytes(gain * bdp))
    }

    fn quantization_budget(&self, inflight: usize) -> usize {
        let budget = inflight.max(3 * self.send_quantum()).max(self.min_pipe_cwnd());
        if self.state == State::ProbeBw(Cycle::Up) { budget + 2 * self.parameters.smss } else { budget }
    }

    fn reset_full_bw(&mut self) {
        self.full_bw = 0.0;
        self.full_bw_count = 0;
        self.is_full_bw_now = false;
    }

    /// BBRCheckStartupDone without BBRCheckStartupHighLoss (section 5.3.1): random loss must not end startup
    /// early, and a full queue ends it by its bandwidth plateau anyway.
    fn check_startup(&mut self, ack: &Ack) {
        self.check_full_bw(ack);
        if self.state != State::Startup {
            return;
        }
        if self.is_full_bw_reached {
            self.state = State::Drain;
            self.model.end_probe();
            self.drain_start_round = self.model.round_count;
            self.pacing_gain = DRAIN_PACING_GAIN;
            self.cwnd_gain = STARTUP_CWND_GAIN;
        }
    }

    fn check_full_bw(&mut self, ack: &Ack) {
        let is_app_limited = ack.rate.is_none_or(|rate| rate.is_app_limited);
        if self.is_full_bw_now || !self.model.is_round_start || is_app_limited {
            return;
        }
        if self.model.latest_bw >= self.full_bw * FULL_BW_THRESH {
            self.reset_full_bw();
            self.full_bw = self.model.latest_bw;
            return;
        }
        self.full_bw_count += 1;
        self.is_full_bw_now = self.full_bw_count >= FULL_BW_ROUNDS;
        self.is_full_bw_reached |= self.is_full_bw_now;
    }

    fn check_drain(&mut self, ack: &Ack) {
        if self.state != State::Drain {
            return;
        }
        let is_over = self.model.round_count > self.drain_start_round + DRAIN_ROUNDS;
        if is_over || ack.in_flight <= self.inflight(1.0) {
            self.enter_probe_bw(ack.now);
        }
    }

    fn enter_probe_bw(&mut self, now: Instant) {
        self.cwnd_gain = 2.0;
        self.start_down(now);
    }

    /// Section 5.3.4.
    fn check_probe_rtt(&mut self, ack: &Ack) {
        let is_due = self.model.is_probe_rtt_expired && !self.is_idle_restart;
        if self.state != State::ProbeRtt && is_due {
            self.state = State::ProbeRtt;
            self.save_cwnd();
            self.pacing_gain = 1.0;
            self.cwnd_gain = PROBE_RTT_CWND_GAIN;
            self.probe_rtt_done = None;
            self.cycle.ack_phase = cycle::AckPhase::Stopping;
            self.model.start_round();
        }
        if self.state == State::ProbeRtt {
            match self.probe_rtt_done {
                None if ack.in_flight <= self.probe_rtt_cwnd() => {
                    self.probe_rtt_done = Some(ack.now + PROBE_RTT_DURATION);
                    self.is_probe_rtt_round_done = false;
                    self.model.start_round();
                }
                None => {}
                Some(done) => {
                    self.is_probe_rtt_round_done |= self.model.is_round_start;
                    if self.is_probe_rtt_round_done && ack.now > done {
                        self.exit_probe_rtt(ack.now);
                    }
                }
            }
        }
        self.is_idle_restart = false;
    }

    fn exit_probe_rtt(&mut self, now: Instant) {
        self.model.probe_rtt_min_stamp = now;
        self.cwnd = self.cwnd.max(self.prior_cwnd);
        self.model.reset_short_term();
        if self.is_full_bw_reached {
            self.enter_probe_bw(now);
            self.start_cruise();
        } else {
            self.state = State::Startup;
            self.pacing_gain = STARTUP_PACING_GAIN;
            self.cwnd_gain = STARTUP_CWND_GAIN;
        }
    }

    fn probe_rtt_cwnd(&self) -> usize {
        let bdp = self.model.bw() * self.model.min_rtt.as_secs_f64();
        bytes(PROBE_RTT_CWND_GAIN * bdp).max(self.min_pipe_cwnd())
    }

    fn undo_point(&self) -> Undo {
        Undo { bounds: self.model.bounds(), is_probe_ended: false }
    }

    fn save_cwnd(&mut self) {
        let is_open = !self.is_conserving && self.state != State::ProbeRtt;
        self.prior_cwnd = if is_open { self.cwnd } else { self.prior_cwnd.max(self.cwnd) };
    }

    /// Section 5.6.2.
    fn set_pacing_rate(&mut self) {
        let rate = self.pacing_gain * self.model.bw() * PACING_MARGIN;
        self.pacing_rate = if self.is_full_bw_reached { rate } else { rate.max(self.pacing_rate) };
    }

    /// Section 5.6.4.
    fn set_cwnd(&mut self, ack: &Ack) {
        let max_inflight = self.quantization_budget(self.inflight(self.cwnd_gain) + self.model.extra_acked());
        if self.is_conserving {
            self.cwnd = self.cwnd.saturating_sub(ack.lost).max(self.parameters.smss);
        }
        if self.is_full_bw_reached {
            self.cwnd = (self.cwnd + ack.delivered).min(max_inflight);
        } else if self.cwnd < max_inflight || ack.total_delivered < 2 * self.parameters.initial_window as u64
        {
            self.cwnd += ack.delivered;
        }
        self.cwnd = self.cwnd.max(self.min_pipe_cwnd());
        if self.state == State::ProbeRtt {
            self.cwnd = self.cwnd.min(self.probe_rtt_cwnd());
        }
        self.bound_cwnd_for_model();
        self.cwnd = self.cwnd.min(self.parameters.max_cwnd);
    }

    fn bound_cwnd_for_model(&mut self) {
        let hi = match self.state {
            State::ProbeBw(Cycle::Down | Cycle::Refill | Cycle::Up) => self.model.inflight_hi,
            State::ProbeBw(Cycle::Cruise) | State::ProbeRtt => {
                self.model.inflight_hi.map(|_| self.inflight_with_headroom())
            }
            State::Startup | State::Drain => None,
        };
        let cap = hi.unwrap_or(usize::MAX).min(self.model.inflight_lo.unwrap_or(usize::MAX));
        self.cwnd = self.cwnd.min(cap.max(self.min_pipe_cwnd()));
    }
}

impl Controller for Bbr {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Bbr
    }

    fn cwnd(&self) -> usize {
        self.cwnd
    }

    /// BBR has no slow start; its probing requires a full window.
    fn is_slow_start(&self) -> bool {
        false
    }

    fn phase(&self) -> &'static str {
        match self.state {
            State::Startup => "startup",
            State::Drain => "drain",
            State::ProbeBw(Cycle::Down) => "probe_bw_down",
            State::ProbeBw(Cycle::Cruise) => "probe_bw_cruise",
            State::ProbeBw(Cycle::Refill) => "probe_bw_refill",
            State::ProbeBw(Cycle::Up) => "probe_bw_up",
            State::ProbeRtt => "probe_rtt",
        }
    }

    fn ssthresh(&self) -> usize {
        usize::MAX
    }

    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        if self.pacing_rate > 0.0 {
            return Some(bytes(self.pacing_rate).max(1) as u64);
        }
        super::window_rate(self.parameters.initial_window, srtt, 277)
    }

    fn set_smss(&mut self, smss: usize) {
        self.parameters.smss = smss;
    }

    /// Section 5.4.1: a restart from idle.
    fn on_sent(&mut self, now: Instant, _size: usize, in_flight: usize, is_app_limited: bool) {
        if in_flight > 0 || !is_app_limited {
            return;
        }
        self.is_idle_restart = true;
        self.model.extra_acked_start = Some(now);
        self.model.extra_acked_delivered = 0;
        if matches!(self.state, State::ProbeBw(_)) {
            self.pacing_rate = self.model.bw() * PACING_MARGIN;
        } else if self.state == State::ProbeRtt && self.probe_rtt_done.is_some_and(|done| now > done) {
            self.exit_probe_rtt(now);
        }
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.model.update_latest(ack);
        self.model.update_congestion(ack, self.is_probing_bw());
        self.model.update_aggregation(ack, self.cwnd);
        self.check_startup(ack);
        self.check_drain(ack);
        self.update_cycle(ack);
        self.model.update_min_rtt(ack);
        self.check_probe_rtt(ack);
        self.model.advance(ack);
        self.set_pacing_rate();
        self.set_cwnd(ack);
    }

    fn on_segment_lost(&mut self, loss: &Loss) {
        self.undo = self.undo.or(Some(self.undo_point()));
        self.on_lost_while_probing(loss);
        self.model.on_lost(loss);
    }

    fn on_loss_event(&mut self, _now: Instant, _flight_size: usize, _in_flight: usize) {
        self.save_cwnd();
        self.is_conserving = true;
    }

    fn on_recovered(&mut self) {
        if self.is_conserving {
            self.is_conserving = false;
            self.cwnd = self.cwnd.max(self.prior_cwnd);
        }
        self.undo = None;
    }

    fn on_rto(&mut self, _now: Instant, flight_size: usize, is_new_event: bool) {
        if is_new_event {
            self.save_cwnd();
            self.undo = Some(self.undo_point());
        }
        self.is_conserving = true;
        self.cwnd =
            (flight_size.min(self.cwnd)).min(self.parameters.initial_window).max(self.min_pipe_cwnd());
    }

    /// The model holds; its filters and waits continue where they stopped.
    fn on_resumed(&mut self, away: Duration) {
        self.model.on_resumed(away);
        self.cycle.on_resumed(away);
        self.probe_rtt_done = self.probe_rtt_done.map(|done| done + away);
    }

    /// Section 5.5.11.2.
    fn undo(&mut self) {
        let undo = self.undo;
        self.on_recovered();
        self.reset_full_bw();
        let Some(undo) = undo else { return };
        self.model.undo_losses(undo.bounds);
        if undo.is_probe_ended && !matches!(self.state, State::ProbeBw(Cycle::Up) | State::ProbeRtt) {
            self.start_refill();
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and is never negative"
)]
fn bytes(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests;
