//! Tail loss probe (RFC 8985 section 7) with a scripted peer.

use std::time::Duration;

use crate::script::{FIN_ACK, Script, data, plain, seg, sending};
use pilot_proto::transport::State;

const MS: Duration = Duration::from_millis(1);

/// RFC 8985 section 7.3: new data if available and in the window.
#[test]
fn a_probe_sends_new_data_where_it_may_and_the_last_segment_otherwise() {
    for (written, window, expected) in [(100, 512, 40), (40, 512, 39), (100, 10, 39)] {
        let mut script = Script::established(plain(), 50);
        script.recv(crate::script::ACK, 1, 1, window, &[]);
        script.write(written * 1000);
        assert_eq!(script.data().len(), 40);
        assert_eq!(data(&script.wait(101 * MS)), [(seg(expected), 1000)], "{written} written");
    }
}

/// Section 7.2: a peer may delay the acknowledgement of a single segment.
#[test]
fn a_probe_waits_two_round_trips_and_for_a_single_segment_longer() {
    for (segments, ms) in [(2, 50 + 100), (1, 50 + 100 + 40)] {
        let mut script = sending(segments);
        let sent = script.wait(Duration::from_millis(195));
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].at, ms * MS);
    }
}

/// Section 7.2: not during recovery.
#[test]
fn no_probe_during_recovery() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(19))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.wait(Duration::from_secs(1));
    let counters = script.connection.stats().counters;
    assert_eq!(counters.loss_probes, 0);
    assert!(counters.retransmits > 0);
}

#[test]
fn no_probe_after_a_timeout() {
    let mut script = sending(20);
    let sent = data(&script.wait(310 * MS));
    assert_eq!(sent, [(seg(19), 1000), (seg(0), 1000)]);
    script.now += 60 * MS;
    script.ack(seg(1));
    script.wait(Duration::from_secs(2));
    let counters = script.connection.stats().counters;
    assert_eq!(counters.loss_probes, 1);
    assert!(counters.retransmits > 2);
}

/// Section 7.2: after everything was acknowledged, earlier SACK does not prevent a probe.
#[test]
fn earlier_sack_does_not_prevent_a_probe() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(5), seg(7)), (seg(9), seg(11))]);
    script.sack(1, &[(seg(5), seg(12))]);
    script.data();
    script.ack(seg(20));
    script.write(2000);
    script.wait(200 * MS);
    assert_eq!(script.connection.stats().counters.loss_probes, 1);
}

/// Section 7.4.2: a loss repaired by the probe reduces the window.
#[test]
fn a_probe_that_repaired_a_loss_counts_as_one() {
    let mut script = sending(20);
    assert_eq!(data(&script.wait(101 * MS)), [(seg(19), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(20));
    let cwnd = script.connection.stats().cwnd;
    script.write(2000);
    assert_eq!(script.data().len(), 2);
    script.now += 50 * MS;
    script.ack(seg(22));
    let stats = script.connection.stats();
    assert!(stats.cwnd < cwnd && !stats.in_recovery, "{stats:?}");
    assert_eq!(stats.counters.spurious_retx, 0);
}

/// Section 7.1: recovery that starts while a probe is outstanding reduces the window once.
#[test]
fn a_probe_before_recovery_reduces_the_window_once() {
    let mut script = sending(20);
    assert_eq!(data(&script.wait(101 * MS)), [(seg(19), 1000)]);
    script.sack(1, &[(seg(1), seg(19))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(20));
    let cwnd = script.connection.stats().cwnd;
    assert!(cwnd < 40_000, "{cwnd}");
    script.write(2000);
    assert_eq!(data(&script.wait(50 * MS)).len(), 2);
    script.ack(seg(22));
    assert!(script.connection.stats().cwnd >= cwnd);
}

#[test]
fn recovery_cancels_a_due_probe() {
    let mut script = sending(20);
    script.now += 100 * MS;
    script.connection.handle_timeout(script.now);
    script.sack(1, &[(seg(1), seg(19))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    assert_eq!(script.connection.stats().counters.loss_probes, 0);
}

#[test]
fn a_probe_with_new_data_is_no_loss() {
    let mut script = sending(100);
    assert_eq!(data(&script.wait(101 * MS)), [(seg(40), 1000)]);
    script.ack(seg(41));
    script.data();
    script.now += 50 * MS;
    script.ack(seg(42));
    assert_eq!(script.connection.stats().ssthresh, 64 << 20);
}

/// Section 7.4.2: the probe's ACK was too early, or duplicate.
#[test]
fn a_probe_whose_first_copy_arrived_is_no_loss() {
    for answers in [&[seg(20), seg(22)][..], &[seg(20), seg(20), seg(22)]] {
        let mut script = sending(20);
        script.wait(101 * MS);
        script.now += if answers.len() == 2 { 10 * MS } else { 60 * MS };
        script.ack(seg(20));
        script.write(2000);
        assert_eq!(script.data().len(), 2);
        for answer in &answers[1..] {
            script.ack(*answer);
        }
        let stats = script.connection.stats();
        assert_eq!((stats.ssthresh, stats.counters.spurious_retx), (64 << 20, 1), "{answers:?}");
    }
}

/// Section 7.4.2: FIN occupies a sequence number, so the ACK of a retransmitted FIN shows no loss.
#[test]
fn a_probe_that_repeats_a_fin_is_answered_by_its_acknowledgement() {
    let mut script = sending(2);
    script.connection.shutdown();
    assert_eq!(script.sent().len(), 1);
    assert_eq!(script.wait(101 * MS).last().unwrap().flags, FIN_ACK);
    assert_eq!(script.connection.stats().counters.loss_probes, 1);
    script.now += 50 * MS;
    script.ack(seg(2) + 1);
    assert_eq!(script.connection.state(), State::FinWait2);
    assert_eq!(script.connection.stats().ssthresh, 64 << 20);
}
