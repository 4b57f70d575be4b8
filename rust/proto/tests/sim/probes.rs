//! The tail loss probe (RFC 8985 section 7) with a hand-made peer.

use std::time::Duration;

use crate::script::{FIN_ACK, Script, data, plain, seg, sending};
use pilot_proto::transport::State;

const MS: Duration = Duration::from_millis(1);

/// RFC 8985 section 7.3: new data if there is some and the peer has room for it.
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

/// Section 7.2: not while something hints at a loss.
#[test]
fn nothing_is_probed_during_a_repair() {
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
fn nothing_is_probed_after_a_timeout() {
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

/// Section 7.2 again: once everything was acknowledged, however often it was reported before, nothing
/// hints at a loss any more.
#[test]
fn what_was_reported_twice_keeps_no_probe_back() {
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

/// Section 7.4.2: a probe that repaired the only loss hides it, so the window is reduced as for any.
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

/// Section 7.1: a repair that begins answers for the probe that was on its way.
#[test]
fn a_probe_before_a_repair_slows_down_only_once() {
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
fn a_probe_that_is_due_when_a_repair_begins_does_not_leave() {
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

/// Section 7.4.2 again: the probe's answer came sooner than it could, or came twice.
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

/// Section 7.4.2 again: FIN takes a number, so the acknowledgement of a repeated FIN shows no loss.
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
