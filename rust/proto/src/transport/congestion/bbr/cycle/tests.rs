//! Phases of the ProbeBW cycle, their ends, and the long-term bound (section 5.3.3).

use super::{
    super::{
        super::testing::SMSS,
        tests::{BDP, Path, RATE, measure},
    },
    *,
};

const HI: usize = 100 * SMSS;

/// Prevents time and rounds from ending the phase.
fn never_probing(mut path: Path) -> Path {
    path.bbr.cycle.wait = Duration::from_secs(1000);
    path.bbr.cycle.rounds_until_probe = u64::MAX;
    path
}

/// Section 5.3.3: two to three seconds, so that flows do not probe in step.
#[test]
fn waits_are_random() {
    let mut path = Path::cruising();
    let (mut waits, mut heads) = (Vec::new(), 0);
    for n in 0..1000 {
        path.bbr.start_down(Instant::from_millis(n));
        waits.push(path.bbr.cycle.wait.as_millis());
        heads += path.bbr.cycle.rounds_since_probe;
    }
    assert!(waits.iter().all(|wait| (2000..3000).contains(wait)));
    assert!((400..600).contains(&heads), "{heads}");
    let mean = waits.iter().sum::<u128>() / 1000;
    assert!((2450..2550).contains(&mean), "{mean}");
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 500, "{}", waits.len());
}

/// Flows that started at different times do not probe in step.
#[test]
fn each_flow_waits_differently() {
    let [mut one, mut other] = [1, 2].map(|salt| {
        let mut path = Path::cruising();
        path.bbr.start_down(Instant::from_millis(salt));
        path
    });
    let mut same = 0;
    for n in 10..110 {
        let waits = [&mut one, &mut other].map(|path| {
            path.bbr.start_down(Instant::from_millis(n));
            path.bbr.cycle.wait
        });
        same += u32::from(waits[0] == waits[1]);
    }
    assert!(same < 10, "{same}");
}

#[test]
fn a_probe_starts_after_the_wait() {
    for phase in [Cycle::Down, Cycle::Cruise] {
        let mut path = Path::in_phase(phase);
        let wait = path.bbr.cycle.wait;
        path.now = path.bbr.cycle.stamp + wait;
        path.ack(|ack, _| ack.in_flight = usize::MAX);
        assert_eq!(path.bbr.state, State::ProbeBw(phase));
        path.now += Duration::from_nanos(1);
        path.ack(|ack, _| ack.in_flight = usize::MAX);
        assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Refill));
    }
}

/// Section 5.3.3: after as many rounds as Reno needs to fill the path, at most 63.
#[test]
fn a_probe_starts_after_the_rounds_of_reno() {
    for (rate, rounds) in [(200_000, 20), (630_000, 63), (10_000_000, 63)] {
        let mut path = Path::new();
        for _ in 0..4 {
            path.round_with(measure(rate));
        }
        path.bbr.start_down(path.now);
        path.bbr.cycle.rounds_since_probe = 0;
        path.bbr.cycle.wait = Duration::from_secs(1000);
        for round in 1..=rounds {
            assert!(!matches!(path.bbr.state, State::ProbeBw(Cycle::Refill)), "{round}");
            path.ack(measure(rate));
            path.round_with(measure(rate));
        }
        assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Refill), "{rate}");
    }
}

/// Section 5.3.3.1: no queue, and headroom below the long-term bound.
#[test]
fn cruise_starts_with_queue_and_headroom_free() {
    for (hi, in_flight) in [(None, BDP), (Some(200 * SMSS), BDP), (Some(80 * SMSS), 68 * SMSS)] {
        let mut path = never_probing(Path::in_phase(Cycle::Up));
        path.bbr.start_down(path.now);
        path.bbr.model.inflight_hi = hi;
        for (in_flight, phase) in [(in_flight + 1, Cycle::Down), (in_flight, Cycle::Cruise)] {
            path.ack(|ack, sample| {
                ack.in_flight = in_flight;
                sample.tx_in_flight = 0;
            });
            assert_eq!(path.bbr.state, State::ProbeBw(phase), "{hi:?}");
        }
    }
}

#[test]
fn headroom_is_a_fraction_of_the_bound() {
    let mut path = Path::cruising();
    for (hi, left) in [(100, 85), (20, 17), (6, 5), (5, 4), (4, 4), (1, 4)] {
        path.bbr.model.inflight_hi = Some(hi * SMSS);
        assert_eq!(path.bbr.inflight_with_headroom(), left * SMSS, "{hi}");
    }
    path.bbr.model.inflight_hi = None;
    assert_eq!(path.bbr.inflight_with_headroom(), usize::MAX);
}

/// Section 5.3.3.3.
#[test]
fn the_pipe_is_refilled_for_a_round_without_the_short_term_bounds() {
    let mut path = never_probing(Path::in_phase(Cycle::Cruise));
    path.bbr.model.inflight_lo = Some(10 * SMSS);
    path.round();
    assert_eq!(path.bbr.model.inflight_lo, Some(10 * SMSS));
    path.bbr.cycle.rounds_until_probe = 0;
    path.ack(|_, _| {});
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Refill));
    assert_eq!(path.bbr.model.inflight_lo, None);
    let sent = path.delivered;
    path.ack(|_, _| {});
    // What left before the refill began tells nothing about it.
    path.ack(|_, sample| sample.prior_delivered = sent - 1);
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Refill));
    path.ack(|_, sample| sample.prior_delivered = sent);
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Up));
}

/// Section 5.3.3: after three rounds without growth.
#[test]
fn a_probe_ends_on_a_plateau() {
    let mut path = Path::in_phase(Cycle::Up);
    for rate in [1_250_000, 1_250_000, 1_250_000, 1_250_000] {
        assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Up));
        path.ack(|_, _| {});
        path.round_with(measure(rate));
    }
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Down));
}

/// A flight limited by the bound shows no plateau of the path.
#[test]
fn a_probe_continues_while_limited_by_the_bound() {
    for (cwnd, is_cwnd_limited, is_held) in
        [(HI, true, true), (HI + 1, true, true), (HI - 1, true, false), (HI, false, false)]
    {
        let mut path = Path::in_phase(Cycle::Up);
        for _ in 0..6 {
            path.cwnd_is(cwnd);
            path.bbr.model.inflight_hi = Some(HI);
            path.round_with(|ack, _| ack.is_cwnd_limited = is_cwnd_limited);
        }
        assert_eq!(path.bbr.state == State::ProbeBw(Cycle::Up), is_held, "{cwnd} {is_cwnd_limited}");
        // It is looked for anew.
        for _ in 0..3 {
            path.round();
        }
        assert_ne!(path.bbr.state, State::ProbeBw(Cycle::Up));
    }
}

/// A probe that starts with the window at the long-term bound.
fn at_bound() -> Path {
    let mut path = Path::in_phase(Cycle::Refill);
    path.cwnd_is(HI);
    path.bbr.model.inflight_hi = Some(HI);
    path.round();
    assert_eq!((path.bbr.state, path.bbr.cwnd), (State::ProbeBw(Cycle::Up), HI));
    path
}

/// The bound after `segments` more are delivered.
fn deliver(path: &mut Path, segments: usize, is_round_end: bool) -> usize {
    let prior_delivered = if is_round_end { path.delivered } else { 0 };
    path.ack(|ack, sample| {
        ack.delivered = segments * SMSS;
        ack.total_delivered += ((segments - 1) * SMSS) as u64;
        ack.is_cwnd_limited = true;
        sample.prior_delivered = prior_delivered;
        sample.tx_in_flight = 0;
    });
    let hi = path.bbr.model.inflight_hi.unwrap();
    path.cwnd_is(hi);
    (hi - HI) / SMSS
}

/// Section 5.3.3: by one segment in the first round, two in the second, four in the third.
#[test]
fn the_bound_grows_faster_every_round() {
    let mut path = at_bound();
    assert_eq!(deliver(&mut path, 99, false), 0);
    assert_eq!(deliver(&mut path, 1, false), 1);
    assert_eq!(deliver(&mut path, 150, false), 2);
    assert_eq!(deliver(&mut path, 50, false), 3);
    assert_eq!(deliver(&mut path, 206, false), 5);
    // Now each 52 segments.
    assert_eq!(deliver(&mut path, 1, true), 5);
    assert_eq!(deliver(&mut path, 44, false), 5);
    assert_eq!(deliver(&mut path, 1, false), 6);
    assert_eq!(deliver(&mut path, 52, false), 7);
    assert_eq!(deliver(&mut path, 1, true), 7);
    // Now each 26.
    assert_eq!(deliver(&mut path, 24, false), 7);
    assert_eq!(deliver(&mut path, 1, false), 8);
    assert_eq!(deliver(&mut path, 78, false), 11);
}

#[test]
fn the_bound_grows_only_when_it_limits_a_probe() {
    for (phase, cwnd, is_cwnd_limited, rise) in [
        (Cycle::Up, HI, true, 2),
        (Cycle::Up, HI + 1, true, 2),
        (Cycle::Up, HI - 1, true, 0),
        (Cycle::Up, HI, false, 0),
        (Cycle::Down, HI, true, 0),
    ] {
        let mut path = at_bound();
        path.bbr.state = State::ProbeBw(phase);
        path.cwnd_is(cwnd);
        path.ack(|ack, sample| {
            ack.delivered = 200 * SMSS;
            ack.is_cwnd_limited = is_cwnd_limited;
            sample.tx_in_flight = 0;
        });
        let hi = path.bbr.model.inflight_hi.unwrap();
        assert_eq!((hi - HI) / SMSS, rise, "{phase:?} {cwnd} {is_cwnd_limited}");
    }
}

/// A delivered flight without too much loss raises the bound.
#[test]
fn a_larger_delivered_flight_raises_the_bound() {
    for (tx_in_flight, lost, hi) in [
        (90 * SMSS, 0, HI),
        (110 * SMSS, 0, 110 * SMSS),
        (110 * SMSS, 5 * SMSS as u64, 110 * SMSS),
        (110 * SMSS, 6 * SMSS as u64, HI),
    ] {
        let mut path = never_probing(Path::in_phase(Cycle::Cruise));
        path.lose(1, 0);
        path.bbr.model.inflight_hi = Some(HI);
        path.ack(|_, sample| (sample.tx_in_flight, sample.lost) = (tx_in_flight, lost));
        assert_eq!(path.bbr.model.inflight_hi, Some(hi), "{tx_in_flight} {lost}");
    }
    // Nor does it make a bound where there was none.
    let mut path = Path::in_phase(Cycle::Up);
    path.ack(|_, _| {});
    assert_eq!(path.bbr.model.inflight_hi, None);
}

fn lose_until(path: &mut Path, last: usize, tx_in_flight: usize) -> Option<usize> {
    for nth in 1..=last {
        path.lose(nth, tx_in_flight);
    }
    path.bbr.model.inflight_hi
}

/// Section 5.5.10.2: where the loss that was too much left, but no less than Beta of what the path
/// takes.
#[test]
fn excessive_loss_in_a_probe_sets_the_bound() {
    for (tx_in_flight, too_many, cwnd, hi) in [
        (150 * SMSS, 7, 2 * BDP, 149 * SMSS),
        (50 * SMSS, 4, 2 * BDP, 70 * SMSS),
        (50 * SMSS, 4, 80 * SMSS, 56 * SMSS),
        (0, 1, 2 * BDP, 70 * SMSS),
    ] {
        for phase in [Cycle::Refill, Cycle::Up] {
            let mut path = Path::in_phase(Cycle::Up);
            path.bbr.state = State::ProbeBw(phase);
            path.cwnd_is(cwnd);
            assert_eq!(lose_until(&mut path, too_many - 1, tx_in_flight), None);
            assert_eq!(path.bbr.state, State::ProbeBw(phase));
            assert_eq!(lose_until(&mut path, too_many, tx_in_flight), Some(hi), "{tx_in_flight} {cwnd}");
            let after = if phase == Cycle::Up { Cycle::Down } else { phase };
            assert_eq!(path.bbr.state, State::ProbeBw(after));
            // Once per probe.
            assert_eq!(lose_until(&mut path, 50, 200 * SMSS), Some(hi));
        }
    }
}

/// Losses known from acknowledgements only; application-limited samples set no bound.
#[test]
fn a_lossy_sample_of_a_probe_sets_the_bound() {
    for (is_app_limited, lost, hi, phase) in
        [(false, 4, None, Cycle::Up), (false, 5, Some(BDP), Cycle::Down), (true, 5, None, Cycle::Down)]
    {
        let mut path = Path::in_phase(Cycle::Up);
        path.lose(1, BDP);
        for _ in 0..2 {
            path.ack(|ack, sample| {
                ack.in_flight = usize::MAX;
                (sample.lost, sample.is_app_limited) = ((lost * SMSS) as u64, is_app_limited);
            });
            assert_eq!(path.bbr.model.inflight_hi, hi, "{lost} {is_app_limited}");
            assert_eq!(path.bbr.state, State::ProbeBw(phase), "{lost} {is_app_limited}");
        }
        path.ack(|_, sample| (sample.lost, sample.tx_in_flight) = ((lost * SMSS) as u64, 10));
        assert!(lost < 5 || path.bbr.model.inflight_hi == hi, "once per probe");
    }
}

/// Section 5.3.3: acknowledgements of the round after the probe still belong to it.
#[test]
fn losses_count_for_a_round_after_the_probe() {
    for (rounds, is_bound) in [(0, true), (1, false)] {
        let mut path = never_probing(Path::in_phase(Cycle::Up));
        path.bbr.start_down(path.now);
        path.ack(|_, _| {});
        for _ in 0..rounds {
            path.round();
        }
        assert_eq!(lose_until(&mut path, 20, BDP).is_some(), is_bound, "{rounds}");
    }
    // Cruising is no probe.
    let mut path = Path::in_phase(Cycle::Cruise);
    assert_eq!(lose_until(&mut path, 20, BDP), None);
}

/// Section 5.5.6: a round after the probe of the next cycle, when the network set the pace.
#[test]
fn a_bandwidth_expires_after_the_next_probe() {
    for (is_app_limited, believed) in [(false, RATE / 2), (true, RATE)] {
        let mut path = Path::cruising();
        path.bbr.model.advance_max_bw_filter();
        path.rounds_until(Cycle::Up, RATE / 2);
        path.bbr.start_down(path.now);
        path.ack(|_, sample| sample.delivered /= 2);
        assert_eq!(path.bbr.model.max_bw().round() as u64, RATE);
        path.round_with(|_, sample| {
            sample.delivered /= 2;
            sample.is_app_limited = is_app_limited;
        });
        assert_eq!(path.bbr.model.max_bw().round() as u64, believed);
    }
}

/// What is found out later about the flight of a probe lowers no short-term bound, unlike what was lost
/// of any other.
#[test]
fn late_losses_of_a_probe_lower_no_short_term_bound() {
    for (state, is_lowered) in [(State::ProbeBw(Cycle::Up), false), (State::ProbeRtt, true)] {
        let mut path = Path::in_phase(Cycle::Cruise);
        path.round_with(measure(RATE / 2));
        path.bbr.state = state;
        path.bbr.start_down(path.now);
        for nth in 1..=10 {
            path.lose(nth, BDP);
        }
        path.round_with(measure(RATE / 2));
        path.round_with(measure(RATE / 2));
        let model = &path.bbr.model;
        assert_eq!(model.bw() < model.max_bw(), is_lowered, "{state:?}");
    }
}
