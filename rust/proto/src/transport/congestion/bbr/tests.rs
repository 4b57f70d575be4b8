//! BBR against a scripted path: acknowledgements with exact numbers, one at a time.

mod control;
mod fluid;
mod recovery;
mod states;

use super::{
    super::{
        RateSample,
        testing::{SMSS, ack, parameters},
    },
    *,
};

/// What the path delivers, bytes per second, its round trip, and their product.
pub(super) const RATE: u64 = 1_000_000;
pub(super) const RTT: Duration = Duration::from_millis(100);
pub(super) const BDP: usize = 100 * SMSS;
pub(super) const MS: Duration = Duration::from_millis(1);

/// One connection. Every acknowledgement delivers a segment and measures [`RATE`] and [`RTT`], unless the
/// test changes it.
pub(super) struct Path {
    pub(super) bbr: Bbr,
    pub(super) now: Instant,
    pub(super) delivered: u64,
}

impl Path {
    pub(super) fn new() -> Self {
        let bbr = Bbr::new(Parameters { max_cwnd: usize::MAX, ..parameters() });
        Self { bbr, now: Instant::from_millis(1), delivered: 0 }
    }

    /// In the cruise phase: startup measured the path and drain emptied its queue.
    pub(super) fn cruising() -> Self {
        let mut path = Self::new();
        for _ in 0..4 {
            path.round();
        }
        path.ack(|ack, _| ack.in_flight = 0);
        path.cwnd_is(BDP);
        assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Cruise));
        path
    }

    /// In `phase`, entered the way the cycle enters it.
    pub(super) fn in_phase(phase: Cycle) -> Self {
        let mut path = Self::cruising();
        path.rounds_until(phase, RATE);
        path.cwnd_is(BDP);
        path
    }

    /// Rounds that measure `rate`, as many as it takes to come to `phase`.
    pub(super) fn rounds_until(&mut self, phase: Cycle, rate: u64) {
        for _ in 0..100 {
            if self.bbr.state == State::ProbeBw(phase) {
                return;
            }
            self.round_with(measure(rate));
        }
        panic!("{:?} goes on", self.bbr.state);
    }

    pub(super) fn cwnd_is(&mut self, cwnd: usize) {
        self.bbr.cwnd = cwnd;
    }

    /// An acknowledgement a round trip later that ends a round.
    pub(super) fn round(&mut self) {
        self.round_with(|_, _| {});
    }

    /// The same after `change`.
    pub(super) fn round_with(&mut self, change: impl FnOnce(&mut Ack, &mut RateSample)) {
        self.now += RTT;
        let prior_delivered = self.delivered;
        self.ack(|ack, sample| {
            sample.prior_delivered = prior_delivered;
            change(ack, sample);
        });
    }

    /// An acknowledgement within a round.
    pub(super) fn ack(&mut self, change: impl FnOnce(&mut Ack, &mut RateSample)) {
        let mut sample = RateSample {
            delivered: BDP as u64,
            interval: RTT,
            prior_delivered: 0,
            lost: 0,
            tx_in_flight: BDP,
            is_app_limited: false,
        };
        let mut ack = Ack {
            total_delivered: self.delivered + SMSS as u64,
            rtt: Some(RTT),
            min_rtt: RTT,
            in_flight: BDP,
            is_cwnd_limited: false,
            ..ack(self.now, SMSS)
        };
        change(&mut ack, &mut sample);
        self.delivered = ack.total_delivered;
        self.bbr.on_ack(&Ack { rate: Some(sample), ..ack });
    }

    /// A segment that left with `tx_in_flight` in flight is lost, the `nth` since then.
    pub(super) fn lose(&mut self, nth: usize, tx_in_flight: usize) {
        let (lost_since, prior_delivered) = ((nth * SMSS) as u64, self.delivered);
        self.bbr.on_segment_lost(&Loss { size: SMSS, tx_in_flight, lost_since, prior_delivered });
    }

    /// Bytes per second, rounded.
    pub(super) fn pacing_rate(&self) -> u64 {
        self.bbr.pacing_rate.round() as u64
    }
}

/// A sample of `rate` bytes per second.
pub(super) fn measure(rate: u64) -> impl FnOnce(&mut Ack, &mut RateSample) {
    move |_, sample| sample.delivered = rate / 10
}
