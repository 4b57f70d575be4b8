//! The path model: samples and losses (section 5.5).

use super::{
    super::super::{
        RateSample,
        testing::{SMSS, ack},
    },
    *,
};

const RTT: Duration = Duration::from_millis(100);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// `total` bytes were delivered, of which `prior` before the sampled segment left, which was answered
/// after [`RTT`] and saw `rate` bytes per second.
fn sampled(rate: u64, prior: u64, total: u64) -> Ack {
    let rate = RateSample {
        delivered: rate / 10,
        interval: RTT,
        prior_delivered: prior,
        lost: 0,
        tx_in_flight: 0,
        is_app_limited: false,
    };
    Ack { total_delivered: total, rate: Some(rate), ..ack(Instant::ZERO, SMSS) }
}

fn app_limited(mut ack: Ack) -> Ack {
    if let Some(sample) = &mut ack.rate {
        sample.is_app_limited = true;
    }
    ack
}

/// A model that saw a million bytes per second; one round is over, at 1000 bytes.
fn known() -> Model {
    let mut model = Model::default();
    model.update_latest(&sampled(1_000_000, 0, 1000));
    model
}

/// Section 5.5.1: a round ends when a segment sent after its start is acknowledged.
#[test]
fn rounds_are_timed_by_segments() {
    let mut model = known();
    assert!(model.is_round_start);
    for (prior, total, is_start, count) in [
        (999, 2000, false, 1),
        (1000, 3000, true, 2),
        (2999, 4000, false, 2),
        (3000, 4500, true, 3),
        (4499, 5000, false, 3),
        (5000, 6000, true, 4),
    ] {
        model.update_latest(&sampled(1, prior, total));
        assert_eq!((model.is_round_start, model.round_count), (is_start, count), "{prior}");
    }
    // A new one begins now.
    model.update_latest(&sampled(1, 0, 7000));
    model.start_round();
    model.update_latest(&sampled(1, 6999, 8000));
    assert!(!model.is_round_start);
    model.update_latest(&sampled(1, 7000, 9000));
    assert!(model.is_round_start);
    model.update_latest(&Ack { rate: None, ..sampled(1, 9000, 9000) });
    assert!(!model.is_round_start && model.latest_bw == 0.0);
}

/// Section 5.5.6: the maximum of the current and the previous cycle.
#[test]
fn a_bandwidth_is_kept_for_two_cycles() {
    let mut model = known();
    model.advance_max_bw_filter();
    model.update_latest(&sampled(600_000, 0, 1000));
    assert_eq!(model.max_bw(), 1e6);
    model.advance_max_bw_filter();
    assert_eq!(model.max_bw(), 6e5);
    // A cycle that measured nothing makes nothing forgotten.
    model.advance_max_bw_filter();
    model.advance_max_bw_filter();
    assert_eq!(model.max_bw(), 6e5);
}

/// Section 5.5.4: application-limited samples count only if they are higher.
#[test]
fn app_limited_samples_count_only_when_higher() {
    for (rate, believed) in [(900_000, 8e5), (1_000_000, 1e6), (1_100_000, 1.1e6)] {
        let mut model = known();
        model.advance_max_bw_filter();
        model.update_latest(&sampled(800_000, 0, 1000));
        model.update_latest(&app_limited(sampled(rate, 0, 1000)));
        model.advance_max_bw_filter();
        assert_eq!(model.max_bw(), believed, "{rate}");
    }
    // Too short an interval to be believed.
    let mut model = known();
    let short = Ack { min_rtt: RTT + Duration::from_nanos(1), ..sampled(2_000_000, 0, 1000) };
    model.update_latest(&short);
    assert_eq!((model.max_bw(), model.latest_bw), (1e6, 0.0));
}

fn lose(model: &mut Model, count: u64) {
    for _ in 0..count {
        let prior_delivered = u64::MAX;
        model.on_lost(&Loss { size: SMSS, tx_in_flight: 0, lost_since: 0, prior_delivered });
    }
}

/// A round that delivers 50 segments at `rate`, less the `lost` ones.
fn round(model: &mut Model, rate: u64, lost: u64, is_probing: bool) {
    lose(model, lost);
    let prior = model.total_delivered;
    let ack = sampled(rate, prior, prior + (50 - lost) * SMSS as u64);
    model.update_latest(&ack);
    model.update_congestion(&ack, is_probing);
    model.advance(&ack);
}

/// Section 5.5.10.3: the larger of Beta times the old value and the delivery of the round.
#[test]
fn a_lossy_round_lowers_the_short_term_bounds() {
    let mut model = known();
    model.inflight_hi = Some(200 * SMSS);
    round(&mut model, 1_000_000, 0, false);
    assert_eq!((model.bw(), model.inflight_lo), (1e6, None));
    round(&mut model, 400_000, 10, false);
    // The round before delivered more than that.
    assert_eq!((model.bw(), model.inflight_lo), (1e6, Some(140 * SMSS)));
    round(&mut model, 400_000, 10, false);
    assert_eq!((model.bw(), model.inflight_lo), (7e5, Some(98 * SMSS)));
    round(&mut model, 900_000, 10, false);
    assert_eq!((model.bw(), model.inflight_lo), (9e5, Some(90 * SMSS)));
    round(&mut model, 900_000, 0, false);
    assert_eq!((model.bw(), model.inflight_lo), (9e5, Some(90 * SMSS)));
    assert_eq!((model.max_bw(), model.inflight_hi), (1e6, Some(200 * SMSS)));
    model.reset_short_term();
    assert_eq!((model.bw(), model.inflight_lo), (1e6, None));
}

#[test]
fn losses_of_a_probe_do_not_change_the_short_term_bounds() {
    let mut model = known();
    model.inflight_hi = Some(200 * SMSS);
    for _ in 0..3 {
        round(&mut model, 400_000, 10, true);
    }
    // What the last round of probing lost is no reason afterwards.
    round(&mut model, 400_000, 0, false);
    assert_eq!((model.bw(), model.inflight_lo), (1e6, None));
    // Nor is what left while it went on.
    model.end_probe();
    let mut lost = |prior_delivered| {
        for _ in 0..10 {
            model.on_lost(&Loss { size: SMSS, tx_in_flight: 0, lost_since: 0, prior_delivered });
        }
        round(&mut model, 400_000, 0, false);
        model.bw() < model.max_bw()
    };
    let probed = 1000 + 40_000 * 3 + 50_000;
    assert!(!lost(probed));
    assert!(lost(probed + 1));
}

/// The threshold must be exceeded; 50 segments may lose one, plus two standard deviations.
#[test]
fn random_loss_within_two_deviations_is_tolerated() {
    let mut model = known();
    lose(&mut model, 1);
    let segments = SMSS as u64;
    assert!(!model.is_too_lossy(3 * segments, 50 * SMSS));
    assert!(model.is_too_lossy(3 * segments + 1, 50 * SMSS));
    assert!(!model.is_too_lossy(0, 0));
    assert!(model.is_too_lossy(1, 0));
    for (lost, is_bound) in [(3, false), (4, true)] {
        let mut model = known();
        round(&mut model, 900_000, 0, false);
        round(&mut model, 900_000, 0, false);
        round(&mut model, 900_000, lost, false);
        assert_eq!(model.bw() < model.max_bw(), is_bound, "{lost}");
    }
}

fn rtt_at(model: &mut Model, at: Duration, rtt_ms: u64) {
    let rtt = Some(Duration::from_millis(rtt_ms));
    model.update_min_rtt(&Ack { rtt, ..ack(Instant::ZERO + at, SMSS) });
}

/// Section 5.5.7: the minimum RTT expires after ten seconds.
#[test]
fn the_min_rtt_is_kept_for_ten_seconds() {
    let mut model = Model::default();
    let min = |model: &Model| model.min_rtt.as_millis();
    rtt_at(&mut model, secs(1), 50);
    assert_eq!(min(&model), 50);
    rtt_at(&mut model, secs(2), 40);
    assert_eq!(min(&model), 40);
    for at in 3..=6 {
        rtt_at(&mut model, secs(at), 40);
    }
    rtt_at(&mut model, secs(7), 60);
    assert_eq!(min(&model), 40);
    rtt_at(&mut model, Duration::from_millis(11_500), 45);
    rtt_at(&mut model, secs(12), 45);
    assert_eq!(min(&model), 40);
    rtt_at(&mut model, secs(12) + Duration::from_nanos(1), 47);
    assert_eq!(min(&model), 45);
    rtt_at(&mut model, secs(13), 44);
    assert_eq!(min(&model), 44);
    // Nothing was measured.
    model.update_min_rtt(&ack(Instant::ZERO + secs(30), SMSS));
    assert_eq!(min(&model), 44);
}

/// Section 5.3.4.3: ProbeRTT is due when the minimum RTT was not seen for five seconds.
#[test]
fn probe_rtt_is_due_after_five_seconds() {
    let mut model = Model::default();
    rtt_at(&mut model, secs(20), 40);
    assert!(!model.is_probe_rtt_expired, "none was measured before");
    for (at, rtt, is_due) in [(24, 41, false), (25, 41, false), (25, 40, false), (30, 41, false)] {
        rtt_at(&mut model, secs(at), rtt);
        assert_eq!(model.is_probe_rtt_expired, is_due, "{at}");
    }
    rtt_at(&mut model, secs(30) + Duration::from_nanos(1), 41);
    assert!(model.is_probe_rtt_expired);
    rtt_at(&mut model, secs(31), 42);
    assert!(!model.is_probe_rtt_expired, "measured anew");
}

fn acked(model: &mut Model, at_ms: u64, segments: usize) -> usize {
    model.update_aggregation(&ack(Instant::from_millis(at_ms), segments * SMSS), 8 * SMSS);
    model.extra_acked() / SMSS
}

/// Section 5.5.9: beyond what the bandwidth explains, since acknowledgements last fell behind it, the
/// window at most.
#[test]
fn ack_aggregation_is_measured_beyond_the_bandwidth() {
    let mut model = known();
    // A segment per millisecond.
    for at in 0..5 {
        assert_eq!(acked(&mut model, at, 1), 1);
    }
    assert_eq!(acked(&mut model, 8, 3), 3, "late");
    assert_eq!(acked(&mut model, 9, 3), 5, "early");
    assert_eq!(acked(&mut model, 12, 3), 5);
    assert_eq!(acked(&mut model, 13, 3), 7);
    assert_eq!(acked(&mut model, 13, 6), 8, "no more than the window");
}

/// Ten rounds, in two halves.
#[test]
fn ack_aggregation_is_kept_for_ten_rounds() {
    let mut model = known();
    let mut at = 0;
    let mut rounds = |model: &mut Model, count: u64, segments: usize| {
        let mut extra = 0;
        for _ in 0..count {
            model.round_count += 1;
            at += 1000;
            extra = acked(model, at, segments);
        }
        extra
    };
    rounds(&mut model, 9, 1);
    assert_eq!(rounds(&mut model, 1, 6), 6);
    assert_eq!(rounds(&mut model, 5, 1), 6);
    assert_eq!(rounds(&mut model, 5, 3), 6 - 3);
}
