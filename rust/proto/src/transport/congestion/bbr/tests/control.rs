//! Pacing rate, send quantum and window (section 5.6).

use super::*;

/// Section 5.6.2: from the initial window and the round trip, until a bandwidth is known.
#[test]
fn the_first_rtt_is_paced_by_the_initial_window() {
    let bbr = Bbr::new(parameters());
    assert_eq!(bbr.pacing_rate(Some(RTT)), Some(277_000));
    assert_eq!(bbr.pacing_rate(None), None);
    assert_eq!(bbr.cwnd(), 10 * SMSS);
    let mut path = Path::new();
    path.round();
    assert_eq!(path.bbr.pacing_rate(Some(RTT)), Some(path.pacing_rate()));
}

/// Section 5.6.2: until the path is known to be full, what a quiet application shows does not slow it.
#[test]
fn the_startup_pacing_rate_never_decreases() {
    let mut path = Path::new();
    path.round();
    path.bbr.pacing_gain = 1.0;
    path.round();
    assert_eq!(path.pacing_rate(), 2_745_270);
    path.bbr.is_full_bw_reached = true;
    path.ack(|_, _| {});
    assert!(path.pacing_rate() < RATE);
}

/// Section 5.6.3: a millisecond's worth, at least two segments, at most 64 KB.
#[test]
fn the_send_quantum_is_a_millisecond() {
    let mut path = Path::new();
    for (rate, quantum) in
        [(0.0, 2000), (1e6, 2000), (2e6, 2000), (3e6, 3000), (65e6, 65_000), (66e6, 65_536), (1e9, 65_536)]
    {
        path.bbr.pacing_rate = rate;
        assert_eq!(path.bbr.send_quantum(), quantum, "{rate}");
    }
    path.bbr.set_smss(3000);
    path.bbr.pacing_rate = 1e6;
    assert_eq!(path.bbr.send_quantum(), 6000);
}

/// Section 5.6.4.2: the product of bandwidth and round trip, three quanta or four segments; two
/// segments more to probe with.
#[test]
fn inflight_is_the_bdp_plus_the_quantization_budget() {
    let path = Path::new();
    assert_eq!(path.bbr.inflight(2.0), 10 * SMSS, "no round trip was measured");
    let mut path = Path::cruising();
    assert_eq!((path.bbr.inflight(1.0), path.bbr.inflight(0.5)), (BDP, BDP / 2));
    path.bbr.pacing_rate = 40e6;
    assert_eq!(path.bbr.inflight(1.0), 3 * 40_000);
    path.bbr.pacing_rate = 0.0;
    assert_eq!(path.bbr.inflight(0.01), 6 * SMSS);
    path.bbr.state = State::ProbeBw(Cycle::Up);
    assert_eq!(path.bbr.inflight(0.01), 8 * SMSS);
    path.bbr.state = State::ProbeRtt;
    path.bbr.model.min_rtt = MS;
    assert_eq!(path.bbr.probe_rtt_cwnd(), 4 * SMSS);
}

/// The window after one more segment was delivered.
fn window_after(path: &mut Path, cwnd: usize) -> usize {
    path.cwnd_is(cwnd);
    path.bbr.set_cwnd(&ack(path.now, SMSS));
    path.bbr.cwnd()
}

/// Section 5.6.4.6: by what was delivered, up to what the model wants; more than that only in a startup
/// that knows too little.
#[test]
fn the_window_grows_by_the_delivered_bytes() {
    let mut path = Path::cruising();
    let most = 2 * BDP + path.bbr.model.extra_acked();
    for (cwnd, after) in [
        (BDP, BDP + SMSS),
        (most - SMSS, most),
        (most - 1, most),
        (most + 1, most),
        (10 * BDP, most),
        (0, 4 * SMSS),
    ] {
        assert_eq!(window_after(&mut path, cwnd), after, "{cwnd}");
    }
}

#[test]
fn a_startup_keeps_a_window_that_the_model_does_not_explain() {
    let mut path = Path::new();
    path.round();
    let most = 2 * BDP + path.bbr.model.extra_acked();
    let mut after = |cwnd, total_delivered| {
        path.cwnd_is(cwnd);
        path.bbr.set_cwnd(&Ack { total_delivered, ..ack(path.now, SMSS) });
        path.bbr.cwnd() - cwnd
    };
    let enough = 20 * SMSS as u64;
    assert_eq!(after(most - 1, enough), SMSS);
    assert_eq!(after(most, enough), 0);
    assert_eq!(after(most + 1, enough), 0);
    assert_eq!(after(most + 1, enough - 1), SMSS);
}

/// Section 5.5.9: acknowledgements that come in bursts need more in flight.
#[test]
fn the_window_allows_for_ack_aggregation() {
    let mut path = Path::cruising();
    let before = path.bbr.model.extra_acked();
    path.round_with(|ack, _| {
        ack.delivered = BDP;
        ack.total_delivered += (BDP - SMSS) as u64;
    });
    let extra = path.bbr.model.extra_acked();
    assert!(extra > before + BDP / 2, "{extra}");
    path.bbr.state = State::ProbeBw(Cycle::Cruise);
    path.bbr.cwnd_gain = 2.0;
    assert_eq!(window_after(&mut path, 10 * BDP), 2 * BDP + extra);
}

/// Section 5.6.4.7 and the table of section 5.6.1.
#[test]
fn each_state_applies_its_loss_bounds() {
    let (hi, headroom, lo) = (80 * SMSS, 68 * SMSS, 60 * SMSS);
    for (state, bound) in [
        (State::Startup, usize::MAX),
        (State::Drain, usize::MAX),
        (State::ProbeBw(Cycle::Down), hi),
        (State::ProbeBw(Cycle::Cruise), headroom),
        (State::ProbeBw(Cycle::Refill), hi),
        (State::ProbeBw(Cycle::Up), hi),
        (State::ProbeRtt, headroom),
    ] {
        let mut path = Path::cruising();
        path.bbr.state = state;
        let mut bounded = |hi, lo| {
            path.cwnd_is(BDP);
            (path.bbr.model.inflight_hi, path.bbr.model.inflight_lo) = (hi, lo);
            path.bbr.bound_cwnd_for_model();
            path.bbr.cwnd()
        };
        assert_eq!(bounded(None, None), BDP, "{state:?}");
        assert_eq!(bounded(Some(hi), None), BDP.min(bound), "{state:?}");
        assert_eq!(bounded(Some(hi), Some(lo)), lo, "{state:?}");
        assert_eq!(bounded(None, Some(lo)), lo, "{state:?}");
        assert_eq!(bounded(None, Some(SMSS)), 4 * SMSS, "{state:?}");
    }
}

#[test]
fn probe_rtt_halves_the_flight() {
    let mut path = Path::cruising();
    path.bbr.state = State::ProbeRtt;
    assert_eq!(window_after(&mut path, BDP), BDP / 2);
    path.bbr.state = State::ProbeBw(Cycle::Cruise);
    assert_eq!(window_after(&mut path, BDP), BDP + SMSS);
}

#[test]
fn the_window_stays_within_its_limit() {
    let mut path = Path::cruising();
    path.bbr.parameters.max_cwnd = 50 * SMSS;
    assert_eq!(window_after(&mut path, BDP), 50 * SMSS);
}

#[test]
fn there_is_no_slow_start_threshold() {
    assert_eq!(Path::cruising().bbr.ssthresh(), usize::MAX);
}
