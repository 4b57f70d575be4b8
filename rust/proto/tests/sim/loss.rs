//! Loss detection and recovery (RFC 5681, 6298, 6582, 6675, 8985 section 6) with a scripted peer.

use std::time::Duration;

use crate::script::{Script, data, plain, seg, sending};
use pilot_proto::transport::{CloseReason, ConnectionEvent, Dialect, Options};

const MS: Duration = Duration::from_millis(1);

/// [`sending`] to a peer without SACK.
fn sending_to_old(segments: usize) -> Script {
    let mut script = Script::established(Options { dialect: Dialect::G1, ..plain() }, 50);
    script.write(segments * 1000);
    script.data();
    script
}

/// Waits until `count` segments were retransmitted after timeouts.
fn wait_for_timeout(script: &mut Script, count: u64) {
    for _ in 0..20_000 {
        if script.connection.stats().counters.retransmits >= count {
            return;
        }
        script.wait(MS);
    }
    panic!("no timeout: {:?}", script.connection.stats());
}

/// RFC 8985 section 3.4: a lost retransmission is detected without a timeout.
#[test]
fn a_lost_retransmission_needs_no_timeout() {
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

/// RFC 6582 section 3.2, step 3: a full acknowledgement leaves the halved window.
#[test]
fn the_end_of_recovery_does_not_grow_the_window() {
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

/// RFC 6675 section 2: with SACK, a duplicate acknowledgement must carry new SACK information.
#[test]
fn bare_duplicates_of_a_sack_peer_retransmit_nothing() {
    let mut script = sending(20);
    script.now += 50 * MS;
    for _ in 0..10 {
        script.ack(1);
    }
    assert_eq!(script.data(), []);
    // The same for a legacy peer that has sent SACK once.
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

/// RFC 5681 section 3.2: only consecutive duplicates count.
#[test]
fn progress_resets_the_duplicate_count() {
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
fn an_idle_connection_counts_no_duplicates() {
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

/// RFC 6582 section 3.2, step 3: the next hole is retransmitted at once, even where RACK would wait for
/// reordering.
#[test]
fn a_partial_acknowledgement_retransmits_the_next_hole_at_once() {
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
    // The first and the last segment, sent 20 ms before the retransmission, were lost.
    script.now += 50 * MS;
    script.ack(seg(23));
    assert_eq!(script.data(), [(seg(23), 1000)]);
}

/// RFC 6582 section 3.2: only a partial acknowledgement indicates the next hole.
#[test]
fn duplicates_during_recovery_retransmit_nothing() {
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

/// Eight consecutive timeouts break the connection.
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

/// RFC 6675 section 6: retransmitting the first segment restarts the timer.
#[test]
fn retransmitting_the_first_segment_restarts_the_timer() {
    let mut script = sending(200);
    script.now += 50 * MS;
    script.ack(seg(36));
    // The flight is paced now, so the retransmission is delayed.
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

/// RFC 6298 (5.1): later segments do not restart the timer.
#[test]
fn later_segments_do_not_restart_the_timer() {
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

/// RFC 5681 section 3.1 (loss window) and RFC 8985 section 6.3: one segment is sent, then as much as the
/// window allows after a new acknowledgement.
#[test]
fn after_a_timeout_only_new_acknowledgements_open_the_window() {
    let timed_out = || {
        let mut script = sending(20);
        let sent = data(&script.wait(310 * MS));
        assert_eq!(sent, [(seg(19), 1000), (seg(0), 1000)]);
        script.now += 60 * MS;
        script
    };
    let mut script = timed_out();
    // A partial ACK of the first segment is no progress: legacy peers acknowledge whole segments.
    script.ack(501);
    assert_eq!(script.data(), []);
    script.sack(1, &[(seg(5), seg(7))]);
    assert_eq!(script.data().first(), Some(&(seg(1), 1000)));
    // So does progress, from a peer without SACK.
    let mut script = timed_out();
    script.ack(seg(1));
    assert!(script.wait(20 * MS).len() > 1);
    // The same SACK again does not open the window,
    let mut script = sending(20);
    script.sack(1, &[(seg(5), seg(7))]);
    wait_for_timeout(&mut script, 1);
    script.data();
    script.sack(1, &[(seg(5), seg(7))]);
    assert_eq!(script.wait(20 * MS), []);
    // and does not close it.
    let mut script = timed_out();
    script.ack(seg(1));
    script.sack(seg(1), &[(seg(5), seg(7))]);
    script.sack(seg(1), &[(seg(5), seg(7))]);
    assert!(script.data().len() > 1);
}

/// RFC 8985 section 6.2: a spurious timeout restores threshold, window and flight.
#[test]
fn a_spurious_timeout_is_undone() {
    let mut script = sending(20);
    script.wait(310 * MS);
    assert_eq!(script.connection.stats().ssthresh, 10_000);
    script.ack(seg(5));
    let stats = script.connection.stats();
    assert_eq!((stats.ssthresh, stats.in_flight, stats.in_recovery), (64 << 20, 15_000, false));
    assert_eq!(script.data(), []);
    assert_eq!(data(&script.wait(200 * MS)), [(seg(19), 1000)], "a probe");
}

/// Each is undone, if an RTT sample in between shows that the path did not change.
#[test]
fn a_second_spurious_timeout_is_undone() {
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

/// Undone only if all retransmissions were spurious.
#[test]
fn a_partly_spurious_loss_event_is_not_undone() {
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

/// RFC 8985 section 6.2, step 4: the reordering window is a quarter of min RTT.
#[test]
fn reordering_within_a_quarter_rtt_is_no_loss() {
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

/// After the undo RACK still detects its lost retransmissions.
#[test]
fn undone_retransmissions_can_still_be_lost() {
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

/// The delivery rate is sampled from the most recently sent segment, here a retransmission
/// (draft-ietf-ccwg-bbr section 4.1.2.3).
#[test]
fn the_delivery_rate_is_sampled_from_the_last_sent_segment() {
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
fn a_shorter_path_does_not_make_every_timeout_spurious() {
    let mut script = sending(20);
    let (mut next, mut timeouts) = (0, 0);
    let mut arriving = 0;
    while next < 20 {
        if arriving == 0 {
            // The originals are lost; the retransmissions arrive in 10 ms.
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

/// RFC 8985 section 6.2, step 3: in-order delivery is no reordering, even if the same acknowledgement carries
/// SACK.
#[test]
fn sack_with_progress_is_no_reordering() {
    let mut script = sending(20);
    script.now += 50 * MS;
    script.sack(seg(1), &[(seg(2), seg(5))]);
    assert_eq!(script.data(), [(seg(1), 1000)]);
}

/// RFC 8985 section 6.2, step 5: a retransmission is lost only after its own RTT plus reordering window.
#[test]
fn a_retransmission_is_not_marked_lost_early() {
    let mut script = sending(10);
    script.now += 20 * MS;
    script.write(90_000);
    assert_eq!(script.data().len(), 30);
    script.now += 30 * MS;
    // Reordering was seen, so the reordering window applies during recovery too.
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

/// RFC 8899 section 4.6: a PTB message reports that segments sent since then are too large.
#[test]
fn segments_above_a_reduced_mtu_are_split_without_a_congestion_response() {
    let mut script = Script::established(Options { max_segment: 2000, ..plain() }, 50);
    script.write(4000);
    assert_eq!(script.data(), [(1, 2000), (2001, 2000)]);
    let before = script.connection.stats();
    let since = script.now;
    script.now += 10 * MS;
    script.connection.set_max_segment(2000);
    script.connection.on_path_mtu_reduced(script.now, since);
    assert_eq!((script.data(), script.connection.stats().in_recovery), (vec![], false), "nothing is larger");
    script.connection.set_max_segment(1000);
    script.connection.on_path_mtu_reduced(script.now, since);
    let sent = data(&script.wait(20 * MS));
    assert_eq!(sent, [(seg(0), 1000), (seg(1), 1000), (seg(2), 1000), (seg(3), 1000)]);
    assert!(!script.connection.stats().in_recovery);
    script.now += 50 * MS;
    script.ack(seg(4));
    let after = script.connection.stats();
    assert!(after.cwnd >= before.cwnd && after.ssthresh == before.ssthresh, "{after:?}");
    assert_eq!((after.in_recovery, after.counters.retransmits), (false, 0));
}
