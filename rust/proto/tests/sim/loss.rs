//! Loss, and what looks like it: RFC 5681, 6298, 6582, 6675 and 8985 with a hand-made peer.

use std::time::Duration;

use crate::{
    pair::options,
    script::{FIN_ACK, Out, Script},
};
use pilot_proto::{
    config::Algorithm,
    transport::{CloseReason, ConnectionEvent, Dialect, Options, State},
};

const MS: Duration = Duration::from_millis(1);

/// Segments of a thousand octets, so that numbers can be read; AIMD, so that windows can be foretold.
fn plain() -> Options {
    Options { max_segment: 1000, congestion: Some(Algorithm::Reno), ..options(Dialect::Native) }
}

/// The first number of the `n`th segment.
fn seg(n: u32) -> u32 {
    1 + n * 1000
}

/// `segments` are written to a connection with a round trip of 50 ms, and those that may leave left.
fn sending(segments: usize) -> Script {
    let mut script = Script::established(plain(), 50);
    script.write(segments * 1000);
    script.data();
    script
}

/// The same to a peer that reports nothing of what it holds.
fn sending_to_old(segments: usize) -> Script {
    let mut script = Script::established(Options { dialect: Dialect::G1, ..plain() }, 50);
    script.write(segments * 1000);
    script.data();
    script
}

fn data(sent: &[Out]) -> Vec<(u32, usize)> {
    sent.iter().filter_map(Out::data).collect()
}

/// Waits until `count` segments were sent again because of the timer.
fn wait_for_timeout(script: &mut Script, count: u64) {
    for _ in 0..20_000 {
        if script.connection.stats().counters.retransmits >= count {
            return;
        }
        script.wait(MS);
    }
    panic!("no timeout: {:?}", script.connection.stats());
}

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

/// RFC 8985 section 3.4: what no other algorithm repairs without a timeout.
#[test]
fn a_retransmission_that_is_lost_again_is_repeated_without_a_timeout() {
    let mut script = sending(60);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(40))]);
    let sent = data(&script.wait(10 * MS));
    assert_eq!(sent[..2], [(seg(0), 1000), (seg(40), 1000)]);
    let last = sent.last().unwrap().0 + 1000;
    script.now += 70 * MS;
    script.sack(1, &[(seg(1), last)]);
    assert_eq!(data(&script.wait(20 * MS)).first(), Some(&(seg(0), 1000)));
    let counters = script.connection.stats().counters;
    assert_eq!((counters.retransmits, counters.fast_retx), (0, 2));
}

/// RFC 6582 section 3.2, step 3: the acknowledgement that ends a repair leaves the halved window.
#[test]
fn the_end_of_a_repair_does_not_grow_the_window() {
    let mut script = sending_to_old(100);
    script.now += 50 * MS;
    for _ in 0..3 {
        script.ack(1);
    }
    assert_eq!(script.connection.stats().ssthresh, 20_000);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(40));
    let stats = script.connection.stats();
    assert_eq!((stats.cwnd, stats.in_recovery), (20_000, false));
}

/// RFC 6675 section 2: with SACK, a duplicate acknowledgement is one that reports something new.
#[test]
fn duplicates_of_a_peer_with_sack_that_report_nothing_repeat_nothing() {
    let mut script = sending(20);
    script.now += 50 * MS;
    for _ in 0..10 {
        script.ack(1);
    }
    assert_eq!(script.data(), []);
    // So does an old one that once reported something.
    let mut script = sending_to_old(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(20))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(20));
    script.write(4000);
    assert_eq!(script.wait(20 * MS).len(), 4);
    for _ in 0..10 {
        script.ack(seg(20));
    }
    assert_eq!(script.data(), []);
}

/// RFC 5681 section 3.2: duplicates count in a row.
#[test]
fn duplicates_before_progress_do_not_count_after_it() {
    let mut script = sending_to_old(20);
    script.now += 50 * MS;
    for ack in [1, 1, seg(1), seg(1), seg(1)] {
        script.ack(ack);
    }
    assert_eq!(script.connection.stats().counters.fast_retx, 0);
    assert_eq!(script.data(), []);
    script.ack(seg(1));
    assert_eq!(script.data(), [(seg(1), 1000)]);
}

/// RFC 5681 section 2: without data outstanding nothing is a duplicate.
#[test]
fn what_an_idle_connection_hears_is_no_duplicate() {
    let mut script = Script::established(plain(), 50);
    for _ in 0..2 {
        script.ack(1);
    }
    script.write(20_000);
    script.data();
    script.now += 50 * MS;
    script.ack(1);
    assert_eq!(script.data(), []);
    assert_eq!(script.connection.stats().counters.dup_acks, 1);
}

/// RFC 6582 section 3.2, step 3: the next hole is repeated at once, even on a path that is known to
/// reorder, where RACK would wait.
#[test]
fn a_partial_acknowledgement_repeats_the_next_hole_without_delay() {
    let mut script = sending_to_old(4);
    script.now += 50 * MS;
    for _ in 0..3 {
        script.ack(1);
    }
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 10 * MS;
    script.ack(seg(4));
    assert_eq!(script.connection.stats().counters.spurious_retx, 1, "it was only late");
    for pause in [30, 20] {
        script.write(10_000);
        assert_eq!(data(&script.wait(pause * MS)).len(), 10);
    }
    for _ in 0..3 {
        script.ack(seg(4));
    }
    assert_eq!(script.data(), [(seg(4), 1000)]);
    // Both the first segment and the last one, which left 20 ms before the repair, were lost.
    script.now += 50 * MS;
    script.ack(seg(23));
    assert_eq!(script.data(), [(seg(23), 1000)]);
}

/// RFC 6582 section 3.2: only an acknowledgement of something new points at the next hole.
#[test]
fn duplicates_during_a_repair_repeat_nothing() {
    let mut script = sending_to_old(20);
    script.now += 50 * MS;
    for ack in [1, 1, 1] {
        script.ack(ack);
    }
    script.data();
    script.now += 50 * MS;
    script.ack(seg(15));
    assert_eq!(script.data(), [(seg(15), 1000)]);
    for _ in 0..4 {
        script.ack(seg(15));
        assert_eq!(script.data(), []);
    }
}

/// WP 4.3: eight in a row break the connection.
#[test]
fn timeouts_with_progress_between_them_do_not_add_up() {
    let mut script = sending(20);
    for n in 1..=12 {
        wait_for_timeout(&mut script, u64::from(n));
        script.now += 60 * MS;
        script.ack(seg(n));
        script.data();
    }
    let closed = |event: &ConnectionEvent| {
        matches!(event, ConnectionEvent::Closed(CloseReason::RetransmissionTimeout))
    };
    assert!(!script.events().iter().any(closed));
}

/// RFC 6675 section 6: the timer must not expire before the answer to a retransmission can be here.
#[test]
fn the_timeout_counts_from_the_retransmission_of_the_first_segment() {
    let mut script = sending(200);
    script.now += 50 * MS;
    script.ack(seg(36));
    // The flight is paced now, and the retransmission must wait for its turn.
    script.data();
    script.sack(seg(36), &[(seg(37), seg(40))]);
    assert_eq!(script.data(), []);
    let sent = script.wait(2 * MS);
    let again = sent.iter().find(|out| out.seq == seg(36)).unwrap().at;
    assert!(again > 100 * MS);
    let sent = script.wait(Duration::from_secs(1));
    let timeout = sent.iter().find(|out| out.seq == seg(36)).unwrap();
    assert_eq!(timeout.at - again, 200 * MS);
}

/// RFC 5681 section 3.1 (the loss window) and RFC 8985 section 6.3: one segment leaves, then whatever
/// the window allows once anything is heard.
#[test]
fn after_a_timeout_news_opens_the_window_and_old_news_does_not() {
    let timed_out = || {
        let mut script = sending(20);
        let sent = data(&script.wait(310 * MS));
        assert_eq!(sent, [(seg(19), 1000), (seg(0), 1000)]);
        script.now += 60 * MS;
        script
    };
    let mut script = timed_out();
    // Half of the first segment is no news: old peers acknowledge whole ones.
    script.ack(501);
    assert_eq!(script.data(), []);
    script.sack(1, &[(seg(5), seg(7))]);
    assert_eq!(script.data().first(), Some(&(seg(1), 1000)));
    // The same report again leaves the window open.
    let mut script = timed_out();
    script.ack(seg(1));
    script.sack(seg(1), &[(seg(5), seg(7))]);
    script.sack(seg(1), &[(seg(5), seg(7))]);
    assert!(script.data().len() > 1);
}

/// RFC 8985 section 6.2: a false alarm restores what it reduced, and what was deemed lost is on its way.
#[test]
fn a_false_alarm_restores_the_threshold_and_the_flight() {
    let mut script = sending(20);
    script.wait(310 * MS);
    assert_eq!(script.connection.stats().ssthresh, 10_000);
    script.ack(seg(5));
    let stats = script.connection.stats();
    assert_eq!((stats.ssthresh, stats.in_flight, stats.in_recovery), (64 << 20, 15_000, false));
    assert_eq!(script.data(), []);
    assert_eq!(data(&script.wait(200 * MS)), [(seg(19), 1000)], "a probe");
}

/// Each is believed, as long as round trips measured between them show that the path did not change.
#[test]
fn a_second_false_alarm_is_undone_as_well() {
    let mut script = sending(20);
    for (first, timeouts) in [(0, 1), (20, 2)] {
        wait_for_timeout(&mut script, timeouts);
        assert!(script.connection.stats().ssthresh < 64 << 20);
        script.ack(seg(first + 5));
        let stats = script.connection.stats();
        assert_eq!((stats.ssthresh, stats.in_recovery), (64 << 20, false), "{timeouts}");
        script.ack(seg(first + 20));
        script.write(20_000);
        script.data();
    }
}

/// Only when all that was repeated need not have been.
#[test]
fn a_loss_beside_a_false_alarm_is_a_loss() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(5)), (seg(6), seg(20))]);
    assert_eq!(data(&script.wait(20 * MS)), [(seg(0), 1000), (seg(5), 1000)]);
    script.ack(seg(5));
    let stats = script.connection.stats();
    assert_eq!((stats.counters.spurious_retx, stats.in_recovery), (1, true));
    assert_eq!(stats.ssthresh, 10_000);
    script.ack(seg(20));
    let stats = script.connection.stats();
    assert_eq!((stats.counters.spurious_retx, stats.in_recovery), (2, false));
    assert_eq!(stats.ssthresh, 64 << 20);
}

/// RFC 8985 section 6.2, step 4: a quarter of a round trip, until as many arrived as for RFC 5681.
#[test]
fn what_arrives_late_by_less_than_a_quarter_round_trip_is_not_lost() {
    for is_late in [true, false] {
        let mut script = sending(20);
        script.now += 50 * MS;
        script.sack(1, &[(seg(1), seg(3))]);
        assert_eq!(data(&script.wait(12 * MS)), []);
        if is_late {
            script.ack(seg(3));
        }
        let expected = if is_late { vec![] } else { vec![(seg(0), 1000)] };
        assert_eq!(data(&script.wait(MS)), expected);
    }
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(4))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
}

/// Its retransmissions are judged as before: by what left after them.
#[test]
fn a_false_alarm_does_not_vouch_for_what_was_lost() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(5)), (seg(6), seg(20))]);
    assert_eq!(data(&script.wait(20 * MS)), [(seg(0), 1000), (seg(5), 1000)]);
    wait_for_timeout(&mut script, 1);
    script.write(1000);
    script.sack(seg(5), &[(seg(6), seg(20))]);
    assert_eq!(data(&script.wait(5 * MS)), [(seg(20), 1000)]);
    script.now += 80 * MS;
    script.sack(seg(5), &[(seg(6), seg(21))]);
    assert_eq!(script.data(), [(seg(5), 1000)]);
    assert_eq!(script.connection.stats().counters.retransmits, 1);
}

/// The delivery rate is measured from the segment that left last, which a retransmission is, whatever
/// its number (draft-ietf-ccwg-bbr section 4.1.2.3).
#[test]
fn the_delivery_rate_counts_from_the_last_departure() {
    let mut script = sending_to_old(10);
    script.now += 50 * MS;
    for ack in [seg(2), seg(2), seg(2), seg(2)] {
        script.ack(ack);
    }
    assert_eq!(script.data(), [(seg(2), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(10));
    // Eight segments in the 50 ms since; ten in the 100 ms since the first departure.
    assert_eq!(script.connection.stats().delivery_rate, 160_000);
}

/// An answer that comes faster than any before belongs to the first copy, or the path has become
/// shorter. Believing the first each time, when all was lost, would send one segment per timeout.
#[test]
fn a_path_that_became_shorter_does_not_make_every_timeout_false() {
    let mut script = sending(20);
    let (mut next, mut timeouts) = (0, 0);
    let mut arriving = 0;
    while next < 20 {
        if arriving == 0 {
            // What was sent first is lost; what the timer repeats arrives in 10 ms.
            timeouts += 1;
            let before = script.connection.stats().counters.retransmits;
            wait_for_timeout(&mut script, before + 1);
            arriving = 1;
        }
        script.now += 10 * MS;
        next += arriving;
        script.ack(seg(next));
        let sent = script.data();
        assert!(sent.iter().all(|(seq, _)| *seq >= seg(next)), "{sent:?} after {next}");
        arriving = u32::try_from(sent.len()).unwrap();
    }
    assert!(timeouts < 4, "{timeouts}");
}

/// RFC 8899 section 4.6: a router told that what left since then is too large.
#[test]
fn what_a_narrower_path_dropped_is_repeated_in_parts_without_slowing_down() {
    let mut script = Script::established(Options { max_segment: 2000, ..plain() }, 50);
    script.write(4000);
    assert_eq!(script.data(), [(1, 2000), (2001, 2000)]);
    let before = script.connection.stats();
    let since = script.now;
    script.now += 10 * MS;
    script.connection.set_max_segment(2000);
    script.connection.on_path_narrowed(script.now, since);
    assert_eq!((script.data(), script.connection.stats().in_recovery), (vec![], false), "nothing is larger");
    script.connection.set_max_segment(1000);
    script.connection.on_path_narrowed(script.now, since);
    let sent = data(&script.wait(20 * MS));
    assert_eq!(sent, [(seg(0), 1000), (seg(1), 1000), (seg(2), 1000), (seg(3), 1000)]);
    assert!(script.connection.stats().in_recovery);
    script.now += 50 * MS;
    script.ack(seg(4));
    let after = script.connection.stats();
    assert!(after.cwnd >= before.cwnd && after.ssthresh == before.ssthresh, "{after:?}");
    assert_eq!((after.in_recovery, after.counters.retransmits), (false, 0));
}
