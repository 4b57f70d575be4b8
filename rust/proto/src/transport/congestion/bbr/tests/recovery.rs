//! The window in loss recovery (section 5.6.4.4), and losses that were none (section 5.5.11).

use super::*;

/// Full, with a window of the path's product and a loss event begun.
fn recovering() -> Path {
    let mut path = Path::cruising();
    path.bbr.on_loss_event(path.now, BDP, BDP - SMSS);
    path
}

#[test]
fn a_recovery_takes_what_is_lost_off_the_window() {
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
fn a_recovery_restores_the_window_it_began_with() {
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
fn a_timeout_within_a_recovery_keeps_the_window_from_before_it() {
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
