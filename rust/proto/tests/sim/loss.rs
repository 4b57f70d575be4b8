//! Loss, and what looks like it: RFC 5681, 6298, 6582, 6675 and section 6 of 8985 with a hand-made peer.

use std::time::Duration;

use crate::script::{Script, data, plain, seg, sending};
use pilot_proto::transport::{CloseReason, ConnectionEvent, Dialect, Options};

const MS: Duration = Duration::from_millis(1);

/// [`sending`] to a peer that reports nothing of what it holds.
fn sending_to_old(segments: usize) -> Script {
    let mut script = Script::established(Options { dialect: Dialect::G1, ..plain() }, 50);
    script.write(segments * 1000);
    script.data();
    script
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

/// Eight in a row break the connection.
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

/// RFC 6298 (5.1): nor does it start again with what leaves later.
#[test]
fn what_leaves_after_the_first_segment_does_not_move_the_timeout() {
    let mut script = sending(200);
    script.now += 50 * MS;
    script.ack(seg(10));
    script.sack(seg(10), &[(seg(11), seg(15)), (seg(16), seg(40))]);
    let sent = script.wait(20 * MS);
    let at = |seq| sent.iter().find(|out| out.seq == seq).unwrap().at;
    let first = at(seg(10));
    assert!(first < at(seg(15)) && at(seg(15)) < at(seg(45)), "{sent:?}");
    let sent = script.wait(Duration::from_secs(1));
    let timeout = sent.iter().find(|out| out.seq == seg(10)).unwrap();
    assert_eq!(timeout.at - first, 200 * MS);
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
    // So does progress, from a peer that holds nothing else.
    let mut script = timed_out();
    script.ack(seg(1));
    assert!(script.wait(20 * MS).len() > 1);
    // The same report again opens nothing,
    let mut script = sending(20);
    script.sack(1, &[(seg(5), seg(7))]);
    wait_for_timeout(&mut script, 1);
    script.data();
    script.sack(1, &[(seg(5), seg(7))]);
    assert_eq!(script.wait(20 * MS), []);
    // and closes nothing.
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

/// RFC 8985 section 6.2, step 3: what an acknowledgement delivers in order was not reordered, although
/// the same one reports what is beyond a gap.
#[test]
fn a_gap_that_is_reported_with_progress_is_no_reordering() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(seg(1), &[(seg(2), seg(5))]);
    assert_eq!(script.data(), [(seg(1), 1000)]);
}

/// RFC 8985 section 6.2, step 5: what was sent again has its round trip and the reordering window too.
#[test]
fn a_retransmission_is_not_lost_before_its_time() {
    let mut script = sending(10);
    script.now += 20 * MS;
    script.write(90_000);
    assert_eq!(script.data().len(), 30);
    script.now += 30 * MS;
    // The path reorders, so a segment has more time even during a repair.
    script.sack(1, &[(seg(1), seg(2))]);
    script.ack(seg(2));
    script.now += 20 * MS;
    script.sack(seg(2), &[(seg(3), seg(40))]);
    let sent = data(&script.wait(5 * MS));
    assert_eq!(sent[0], (seg(2), 1000));
    let last = sent.last().unwrap().0;
    assert!(last > seg(40), "{sent:?}");
    // The answer to what left later is here, the one to the retransmission may still come.
    script.now += 50 * MS;
    script.sack(seg(2), &[(seg(3), last + 1000)]);
    assert!(script.data().iter().all(|(seq, _)| *seq != seg(2)));
    assert!(data(&script.wait(20 * MS)).iter().any(|(seq, _)| *seq == seg(2)));
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
