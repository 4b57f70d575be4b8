//! BBR over a fluid model of a path with an infinite queue, one flight at a time.

use super::*;

/// Acknowledgements of one flight.
const ACKS: usize = 20;

/// A path of a fixed rate and round trip with an endless queue, a flight at a time.
struct Fluid {
    bbr: Bbr,
    now: Instant,
    delivered: u64,
    rate: f64,
    rtt: Duration,
    states: Vec<State>,
}

impl Fluid {
    fn new(rate: f64, rtt_ms: u64) -> Self {
        let bbr = Bbr::new(Parameters { max_cwnd: usize::MAX, ..parameters() });
        let rtt = Duration::from_millis(rtt_ms);
        Self { bbr, now: Instant::from_millis(1), delivered: 0, rate, rtt, states: Vec::new() }
    }

    /// Sends a window and takes its acknowledgements, of which a part is lost.
    fn round(&mut self, loss: f64) {
        let rtt = self.rtt.as_secs_f64();
        let paced = self.bbr.pacing_rate(Some(self.rtt)).unwrap() as f64 * rtt;
        let flight = paced.min(self.bbr.cwnd() as f64).max(SMSS as f64);
        let queue = (flight - self.rate * rtt).max(0.0) / self.rate;
        let interval = Duration::from_secs_f64(flight / self.rate).max(self.rtt);
        let (prior_delivered, tx_in_flight) = (self.delivered, bytes(flight));
        let lost = bytes(flight * loss);
        if lost > 0 {
            for n in 1..=lost / SMSS {
                let lost_since = (n * SMSS) as u64;
                self.bbr.on_segment_lost(&Loss { size: SMSS, tx_in_flight, lost_since, prior_delivered });
            }
            self.bbr.on_loss_event(self.now, tx_in_flight, tx_in_flight - lost);
        }
        let arrived = tx_in_flight - lost;
        let measured = self.rtt + Duration::from_secs_f64(queue);
        for n in 1..=ACKS {
            let part = arrived * n / ACKS - arrived * (n - 1) / ACKS;
            self.delivered += part as u64;
            self.now += interval / ACKS as u32;
            let sample = RateSample {
                delivered: arrived as u64,
                interval,
                prior_delivered,
                lost: if n == ACKS { lost as u64 } else { 0 },
                tx_in_flight,
                is_app_limited: false,
            };
            self.bbr.on_ack(&Ack {
                lost: if n == ACKS { lost } else { 0 },
                total_delivered: self.delivered,
                rtt: Some(measured),
                min_rtt: self.rtt,
                rate: Some(sample),
                in_flight: tx_in_flight - tx_in_flight * n / ACKS,
                ..ack(self.now, part)
            });
            self.states.push(self.bbr.state);
        }
        self.bbr.on_recovered();
    }

    fn rounds(&mut self, count: usize, loss: f64) -> &mut Self {
        for _ in 0..count {
            self.round(loss);
        }
        self
    }
}

#[test]
fn startup_finds_the_rate_and_drains_what_it_queued() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(30, 0.0);
    assert!(path.bbr.is_full_bw_reached && path.bbr.state != State::Startup);
    let believed = path.bbr.model.max_bw();
    assert!((4.5e6..=5.5e6).contains(&believed), "{believed}");
    let bdp = 5e6 * 0.04;
    assert!((path.bbr.cwnd() as f64) < 2.5 * bdp, "{}", path.bbr.cwnd());
}

#[test]
fn a_cycle_visits_every_phase_and_probes_the_rtt() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(25, 0.0);
    // The shortest round trip is not seen again.
    path.rtt = Duration::from_millis(41);
    path.rounds(400, 0.0);
    for phase in [Cycle::Down, Cycle::Cruise, Cycle::Refill, Cycle::Up] {
        assert!(path.states.contains(&State::ProbeBw(phase)), "{phase:?}");
    }
    assert!(path.states.contains(&State::ProbeRtt));
}

#[test]
fn startup_continues_through_random_loss() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(4, 0.05);
    assert_eq!((path.bbr.state, path.bbr.model.inflight_hi), (State::Startup, None));
    path.rounds(20, 0.0);
    assert!(path.bbr.model.max_bw() > 4.5e6);
}

#[test]
fn random_loss_is_not_taken_for_congestion() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(25, 0.0);
    let model = &mut path.bbr.model;
    model.on_lost(&Loss { size: SMSS, tx_in_flight: 0, lost_since: 0, prior_delivered: u64::MAX });
    // Two of a hundred segments are expected to be lost, give or take 2.8.
    assert!(!model.is_too_lossy(4 * SMSS as u64, 100 * SMSS));
    assert!(model.is_too_lossy(5 * SMSS as u64, 100 * SMSS));
}

#[test]
fn losses_of_a_probe_do_not_limit_later_rounds() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(25, 0.0);
    path.bbr.state = State::ProbeBw(Cycle::Up);
    path.bbr.start_down(path.now);
    let probed = path.delivered;
    let mut losing = |prior_delivered: u64| {
        for n in 1..=20 {
            let loss = Loss { size: SMSS, tx_in_flight: 200 * SMSS, lost_since: n * 1000, prior_delivered };
            path.bbr.on_segment_lost(&loss);
        }
        path.rounds(2, 0.0);
        path.bbr.model.bw() < path.bbr.model.max_bw()
    };
    assert!(!losing(probed));
    assert!(losing(probed + 1));
}

#[test]
fn a_timeout_keeps_the_model_and_recovery_the_window() {
    let mut path = Fluid::new(5e6, 40);
    path.rounds(25, 0.0);
    let (cwnd, bw) = (path.bbr.cwnd(), path.bbr.model.bw());
    path.bbr.on_rto(path.now, 2 * SMSS, true);
    assert_eq!(path.bbr.cwnd(), 4 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), cwnd);
    assert!((path.bbr.model.bw() - bw).abs() < 1.0);
}
