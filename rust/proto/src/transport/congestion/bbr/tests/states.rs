//! The state machine (section 5.3) and the restart from idle (section 5.4).

use super::*;

fn starting(rates: &[u64]) -> Path {
    let mut path = Path::new();
    for &rate in rates {
        path.round_with(measure(rate));
    }
    path
}

/// Section 5.3.1: three rounds that bring less than a quarter more.
#[test]
fn startup_ends_on_a_plateau_of_three_rounds() {
    for (rates, is_full) in [
        (&[1_000_000, 1_000_000, 1_000_000][..], false),
        (&[1_000_000, 1_000_000, 1_000_000, 1_000_000], true),
        (&[1_000_000, 1_240_000, 1_240_000, 1_240_000], true),
        (&[1_000_000, 1_000_000, 1_000_000, 1_250_000, 1_250_000, 1_250_000], false),
        (&[1_000_000, 1_250_000, 1_000_000, 1_000_000, 1_560_000], true),
        (&[1_000_000, 900_000, 800_000, 700_000], true),
    ] {
        let path = starting(rates);
        assert_eq!(path.bbr.is_full_bw_reached, is_full, "{rates:?}");
        assert_eq!(path.bbr.state == State::Startup, !is_full, "{rates:?}");
    }
}

#[test]
fn app_limited_rounds_count_for_no_plateau() {
    let mut path = starting(&[RATE]);
    for _ in 0..5 {
        path.ack(|_, _| {});
        path.round_with(|_, sample| sample.is_app_limited = true);
    }
    assert_eq!(path.bbr.state, State::Startup);
    for _ in 0..3 {
        assert_eq!(path.bbr.state, State::Startup);
        path.round();
    }
    assert_ne!(path.bbr.state, State::Startup);
}

#[test]
fn startup_doubles_the_rate_each_round() {
    let path = starting(&[RATE]);
    assert_eq!(path.pacing_rate(), 2_745_270);
    assert_eq!(path.bbr.inflight(path.bbr.cwnd_gain), 2 * BDP);
}

/// Section 5.3.2: until no more is in flight than the path holds.
#[test]
fn drain_ends_when_the_queue_is_empty() {
    let mut path = starting(&[RATE; 3]);
    path.round_with(|ack, _| ack.in_flight = BDP + 1);
    assert_eq!(path.bbr.state, State::Drain);
    assert!(path.pacing_rate() <= RATE / 2, "the queue of a startup goes within a round");
    assert_eq!(path.bbr.inflight(path.bbr.cwnd_gain), 2 * BDP);
    path.ack(|ack, _| ack.in_flight = BDP + 1);
    assert_eq!(path.bbr.state, State::Drain);
    path.ack(|ack, _| ack.in_flight = BDP);
    assert!(matches!(path.bbr.state, State::ProbeBw(_)));
}

/// Section 5.3.2 again: a queue that others fill does not go.
#[test]
fn drain_ends_after_three_rounds_at_the_latest() {
    let mut path = starting(&[RATE; 3]);
    for _ in 0..4 {
        path.round_with(|ack, _| ack.in_flight = 2 * BDP);
        assert_eq!(path.bbr.state, State::Drain);
    }
    path.ack(|ack, _| ack.in_flight = 2 * BDP);
    assert_eq!(path.bbr.state, State::Drain);
    path.round_with(|ack, _| ack.in_flight = 2 * BDP);
    assert!(matches!(path.bbr.state, State::ProbeBw(_)));
}

/// Section 5.3.3 and the table of section 5.6.1.
#[test]
fn each_phase_of_the_cycle_has_its_gains() {
    for (phase, rate, cwnd) in [
        (Cycle::Down, 891_000, 2 * BDP),
        (Cycle::Cruise, 990_000, 2 * BDP),
        (Cycle::Refill, 990_000, 2 * BDP),
        (Cycle::Up, 1_237_500, 225 * SMSS + 2 * SMSS),
    ] {
        let path = Path::in_phase(phase);
        assert_eq!(path.pacing_rate(), rate, "{phase:?}");
        assert_eq!(path.bbr.inflight(path.bbr.cwnd_gain), cwnd, "{phase:?}");
    }
}

/// A cruising path whose shortest round trip is not seen again.
fn lengthened() -> Path {
    let mut path = Path::cruising();
    path.cwnd_is(2 * BDP);
    path
}

fn longer(ack: &mut Ack, in_flight: usize) {
    ack.rtt = Some(RTT + MS);
    ack.in_flight = in_flight;
}

/// Takes the path to where its round trip must be measured anew.
fn probing_rtt() -> Path {
    let mut path = lengthened();
    path.now += Duration::from_secs(5) + MS;
    path.ack(|ack, _| longer(ack, BDP));
    assert_eq!(path.bbr.state, State::ProbeRtt);
    path
}

/// Section 5.3.4: five seconds after the shortest round trip was seen.
#[test]
fn probe_rtt_starts_after_five_seconds() {
    let mut path = lengthened();
    path.now += Duration::from_secs(5);
    path.ack(|ack, _| longer(ack, BDP));
    assert_ne!(path.bbr.state, State::ProbeRtt);
    path.now += Duration::from_nanos(1);
    path.ack(|ack, _| longer(ack, BDP));
    assert_eq!(path.bbr.state, State::ProbeRtt);
    assert_eq!((path.bbr.cwnd(), path.pacing_rate()), (BDP / 2, 990_000));
}

/// From when the flight is down to half of what the path holds, for 200 ms and a round.
#[test]
fn a_round_trip_is_probed_for_200_ms_and_a_round() {
    let mut path = probing_rtt();
    path.now += Duration::from_secs(1);
    path.ack(|ack, _| longer(ack, BDP / 2 + 1));
    path.round_with(|ack, _| longer(ack, BDP / 2 + 1));
    assert_eq!(path.bbr.probe_rtt_done, None);
    path.ack(|ack, _| longer(ack, BDP / 2));
    path.now += 200 * MS;
    path.ack(|ack, _| longer(ack, BDP / 2));
    path.now += MS;
    path.ack(|ack, _| longer(ack, BDP / 2));
    assert_eq!(path.bbr.state, State::ProbeRtt, "no round is over");
    path.round_with(|ack, _| longer(ack, BDP / 2));
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Cruise));

    let mut path = probing_rtt();
    path.ack(|ack, _| longer(ack, BDP / 2));
    path.round_with(|ack, _| longer(ack, BDP / 2));
    path.round_with(|ack, _| longer(ack, BDP / 2));
    assert_eq!(path.bbr.state, State::ProbeRtt, "200 ms are not over");
    path.now += Duration::from_nanos(1);
    path.ack(|ack, _| longer(ack, BDP / 2));
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Cruise));
}

/// Goes through a probe of the round trip.
fn probe_rtt(path: &mut Path) {
    path.ack(|ack, _| longer(ack, SMSS));
    assert_eq!(path.bbr.state, State::ProbeRtt);
    path.now += 200 * MS;
    path.round_with(|ack, _| longer(ack, SMSS));
}

#[test]
fn the_window_is_restored_after_probe_rtt() {
    let mut path = probing_rtt();
    // A loss meanwhile does not make the small window the good one.
    path.bbr.on_loss_event(path.now, BDP / 2, BDP / 2 - SMSS);
    path.bbr.on_recovered();
    path.ack(|ack, _| longer(ack, BDP));
    assert_eq!(path.bbr.cwnd(), BDP / 2);
    path.bbr.model.inflight_lo = Some(10 * SMSS);
    probe_rtt(&mut path);
    assert_eq!(path.bbr.cwnd(), 2 * BDP + SMSS, "and what was delivered");
    assert_eq!(path.bbr.model.inflight_lo, None);
    assert_eq!(path.pacing_rate(), 990_000);
    // The next one is five seconds later.
    path.now += Duration::from_secs(5);
    path.ack(|ack, _| ack.rtt = Some(RTT + 2 * MS));
    assert_ne!(path.bbr.state, State::ProbeRtt);
    path.now += MS;
    path.ack(|ack, _| ack.rtt = Some(RTT + 2 * MS));
    assert_eq!(path.bbr.state, State::ProbeRtt);
}

#[test]
fn startup_continues_after_probe_rtt() {
    let mut path = starting(&[RATE]);
    path.now += Duration::from_secs(5) + MS;
    path.ack(|ack, _| longer(ack, BDP));
    probe_rtt(&mut path);
    assert_eq!(path.bbr.state, State::Startup);
    assert_eq!(path.bbr.inflight(path.bbr.cwnd_gain), 2 * BDP);
    path.round_with(measure(2 * RATE));
    assert_eq!(path.pacing_rate(), 2 * 2_745_270);
}

/// Section 5.4.1: the pause measured the round trip with nothing in flight.
#[test]
fn no_probe_rtt_after_idle() {
    let mut path = lengthened();
    path.now += Duration::from_secs(5) + MS;
    path.bbr.on_sent(path.now, SMSS, 0, true);
    path.ack(|ack, _| longer(ack, SMSS));
    assert_ne!(path.bbr.state, State::ProbeRtt);
    path.now += Duration::from_secs(5) + MS;
    path.ack(|ack, _| ack.rtt = Some(RTT + 2 * MS));
    assert_eq!(path.bbr.state, State::ProbeRtt, "one pause excuses one probe");
}

/// Section 5.4.1: only when nothing is in flight because the application had nothing to send.
#[test]
fn a_restart_is_paced_at_the_bandwidth() {
    for (in_flight, is_app_limited, rate) in
        [(0, true, 990_000), (1, true, 1_237_500), (0, false, 1_237_500), (1, false, 1_237_500)]
    {
        let mut path = Path::in_phase(Cycle::Up);
        path.bbr.on_sent(path.now, SMSS, in_flight, is_app_limited);
        assert_eq!(path.pacing_rate(), rate, "{in_flight} {is_app_limited}");
        assert_eq!(path.bbr.is_idle_restart, rate == 990_000, "{in_flight} {is_app_limited}");
    }
    let mut path = starting(&[RATE]);
    path.bbr.on_sent(path.now, SMSS, 0, true);
    assert_eq!(path.pacing_rate(), 2_745_270, "a startup goes on");
}

/// Section 5.4.1: a pause that outlasted the probe of the round trip ends it before anything is sent.
#[test]
fn idle_can_end_probe_rtt() {
    let mut path = probing_rtt();
    path.bbr.on_sent(path.now + Duration::from_secs(1), SMSS, 0, true);
    assert_eq!(path.bbr.state, State::ProbeRtt, "the flight was never down");
    path.ack(|ack, _| longer(ack, BDP / 2));
    for (wait, state) in
        [(100 * MS, State::ProbeRtt), (200 * MS, State::ProbeRtt), (201 * MS, State::ProbeBw(Cycle::Cruise))]
    {
        path.bbr.on_sent(path.now + wait, SMSS, 0, true);
        assert_eq!(path.bbr.state, state, "{wait:?}");
    }
    assert_eq!(path.bbr.cwnd(), 2 * BDP);
    // Not any more afterwards.
    let later = path.now + Duration::from_secs(1);
    path.bbr.cwnd = SMSS;
    path.bbr.on_sent(later, SMSS, 0, true);
    assert_eq!(path.bbr.cwnd(), SMSS);
}
