//! The window in loss recovery (section 5.6.4.4), and spurious losses (section 5.5.11).

use super::*;

/// Full, with a window of the path's product and a loss event begun.
fn recovering() -> Path {
    let mut path = Path::cruising();
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    path
}

#[test]
fn recovery_subtracts_losses_from_the_window() {
    let mut path = recovering();
    let mut after = |cwnd, lost| {
        path.cwnd_is(cwnd);
        path.bbr.set_cwnd(&Ack { lost, ..ack(path.now, SMSS) });
        path.bbr.cwnd()
    };
    assert_eq!(after(BDP, 0), BDP + SMSS);
    assert_eq!(after(BDP, 10 * SMSS), BDP - 9 * SMSS);
    assert_eq!(after(8 * SMSS, 20 * SMSS), 4 * SMSS);
}

#[test]
fn the_window_is_restored_after_recovery() {
    let mut path = recovering();
    path.ack(|ack, _| ack.lost = 60 * SMSS);
    assert_eq!(path.bbr.cwnd(), 41 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), BDP);
    // Once.
    path.cwnd_is(50 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), 50 * SMSS);
    // Not the one of an event before.
    path.bbr.on_loss_event(path.now, 50 * SMSS, 49 * SMSS);
    path.cwnd_is(10 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), 50 * SMSS);
}

#[test]
fn a_timeout_in_recovery_keeps_the_prior_window() {
    let mut path = recovering();
    path.cwnd_is(20 * SMSS);
    path.bbr.on_rto(path.now, 20 * SMSS, true);
    assert_eq!(path.bbr.cwnd(), 10 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), BDP);
}

/// As many segments as were in flight, the initial window at most, four at least.
#[test]
fn a_timeout_shrinks_the_window() {
    for (flight, cwnd) in [(BDP, 10), (9 * SMSS, 9), (4 * SMSS, 4), (SMSS, 4)] {
        let mut path = Path::cruising();
        path.bbr.on_rto(path.now, flight, true);
        assert_eq!(path.bbr.cwnd(), cwnd * SMSS);
        // A second of the same window does not take the small window for the good one.
        path.bbr.on_rto(path.now, flight, false);
        path.bbr.on_recovered();
        assert_eq!(path.bbr.cwnd(), BDP);
    }
    // It never opens it.
    let mut path = Path::cruising();
    path.cwnd_is(6 * SMSS);
    path.bbr.on_rto(path.now, BDP, true);
    assert_eq!(path.bbr.cwnd(), 6 * SMSS);
}

/// Section 5.5.11: what the losses changed is as it was.
#[test]
fn a_spurious_recovery_is_undone() {
    let mut path = Path::in_phase(Cycle::Up);
    path.bbr.model.inflight_hi = Some(120 * SMSS);
    for nth in 1..=4 {
        path.lose(nth, 50 * SMSS);
    }
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    assert_eq!(path.bbr.model.inflight_hi, Some(70 * SMSS));
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Down));
    path.cwnd_is(10 * SMSS);
    path.bbr.undo();
    assert_eq!(path.bbr.model.inflight_hi, Some(120 * SMSS));
    assert_eq!(path.bbr.cwnd(), BDP);
    // The probe that they ended begins again.
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Refill));
    path.round();
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Up));
}

#[test]
fn a_spurious_recovery_keeps_an_unaffected_phase() {
    for state in [State::ProbeBw(Cycle::Cruise), State::ProbeBw(Cycle::Up), State::ProbeRtt] {
        let mut path = recovering();
        path.bbr.state = state;
        path.bbr.undo();
        assert_eq!(path.bbr.state, state);
    }
    // A probe of the round trip goes on even if losses ended the probe before it.
    let mut path = Path::in_phase(Cycle::Up);
    for nth in 1..=10 {
        path.lose(nth, BDP);
    }
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Down));
    path.bbr.state = State::ProbeRtt;
    path.bbr.undo();
    assert_eq!(path.bbr.state, State::ProbeRtt);
}

/// The bounds that losses before it set stay, and those that were laxer meanwhile.
#[test]
fn a_spurious_recovery_restores_the_bounds() {
    let (small, large) = (Some(60 * SMSS), Some(90 * SMSS));
    for (before, during, after) in [
        (large, small, large),
        (small, large, large),
        (small, small, small),
        (small, None, None),
        (None, small, None),
    ] {
        let mut path = Path::cruising();
        path.bbr.model.inflight_lo = before;
        path.bbr.model.inflight_hi = before;
        path.lose(1, BDP);
        path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
        path.bbr.model.inflight_lo = during;
        path.bbr.model.inflight_hi = during;
        path.lose(2, BDP);
        path.bbr.undo();
        let model = &path.bbr.model;
        assert_eq!((model.inflight_lo, model.inflight_hi), (after, after), "{before:?} {during:?}");
    }
}

/// Ten segments that are lost in a round in which fifty arrive.
fn lossy_round(path: &mut Path, is_spurious: bool) {
    for nth in 1..=10 {
        path.lose(nth, BDP);
    }
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    if is_spurious {
        path.bbr.undo();
    }
    // One more that is, and is no more than chance explains.
    path.lose(11, BDP);
    path.round_with(|ack, sample| {
        ack.total_delivered += 49 * SMSS as u64;
        sample.delivered /= 2;
    });
    path.bbr.on_recovered();
}

#[test]
fn a_spurious_recovery_lowers_no_bound() {
    for is_spurious in [false, true] {
        let mut path = Path::in_phase(Cycle::Cruise);
        path.bbr.model.inflight_hi = Some(BDP);
        path.round_with(measure(RATE / 2));
        let bw = path.bbr.model.bw();
        lossy_round(&mut path, is_spurious);
        path.round_with(measure(RATE / 2));
        assert_eq!(path.bbr.model.bw() < bw, !is_spurious);
        assert_eq!(path.bbr.model.inflight_lo.is_none(), is_spurious);
    }
}

#[test]
fn a_spurious_recovery_counts_no_plateau() {
    let mut path = Path::new();
    for _ in 0..3 {
        path.round();
    }
    path.lose(1, BDP);
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    path.bbr.undo();
    for _ in 0..4 {
        assert_eq!(path.bbr.state, State::Startup);
        path.round();
    }
    assert_ne!(path.bbr.state, State::Startup);
}

/// The next recovery is one of its own.
#[test]
fn a_spurious_recovery_ends_with_its_undo() {
    let mut path = recovering();
    path.bbr.undo();
    path.cwnd_is(50 * SMSS);
    path.bbr.on_loss_event(path.now, 50 * SMSS, 49 * SMSS);
    path.cwnd_is(10 * SMSS);
    path.bbr.on_recovered();
    assert_eq!(path.bbr.cwnd(), 50 * SMSS);
}

/// A recovery that was one is not taken back with a later one.
#[test]
fn only_the_last_recovery_is_undone() {
    let mut path = Path::in_phase(Cycle::Up);
    for nth in 1..=10 {
        path.lose(nth, 150 * SMSS);
    }
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    path.bbr.on_recovered();
    path.lose(1, BDP);
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    path.bbr.undo();
    assert_eq!(path.bbr.model.inflight_hi, Some(149 * SMSS));
    assert_eq!(path.bbr.state, State::ProbeBw(Cycle::Down));
}

/// A timeout begins an episode of its own, also within a recovery.
#[test]
fn a_spurious_timeout_restores_the_bounds() {
    for is_recovering in [false, true] {
        let mut path = Path::cruising();
        path.bbr.model.inflight_hi = Some(200 * SMSS);
        if is_recovering {
            path.lose(1, BDP);
            path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
            path.bbr.model.inflight_hi = Some(90 * SMSS);
        }
        let before = path.bbr.model.inflight_hi;
        path.bbr.on_rto(path.now, BDP, true);
        path.bbr.model.inflight_hi = Some(60 * SMSS);
        path.bbr.on_rto(path.now, BDP, false);
        path.bbr.undo();
        assert_eq!((path.bbr.cwnd(), path.bbr.model.inflight_hi), (BDP, before));
    }
}
