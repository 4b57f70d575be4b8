//! Parameters and rules of `docs/reference/protocol/transport.md`, point by point, with a scripted peer.

use std::{sync::Arc, time::Duration};

use crate::{
    pair::options,
    script::{ACK, FIN_ACK, Out, RST, Script, WINDOW, sending},
};
use pilot_proto::{
    config::{Algorithm, TransportConfig},
    transport::{CloseReason, ConnectionEvent, Dialect, Options, State},
};

const SMSS: u32 = 1000;
const MS: Duration = Duration::from_millis(1);

/// Segments of a thousand bytes, so that numbers can be read; AIMD, so that windows can be foretold.
fn plain() -> Options {
    Options { max_segment: SMSS as usize, congestion: Some(Algorithm::Reno), ..options(Dialect::Native) }
}

/// The same to a peer that reports nothing of what it holds.
fn old() -> Options {
    Options { dialect: Dialect::G1, ..plain() }
}

fn configured(change: impl FnOnce(&mut TransportConfig)) -> Options {
    let mut config = TransportConfig::default();
    change(&mut config);
    Options { config: Arc::new(config), ..plain() }
}

/// The first number of the `n`th segment.
fn seg(n: u32) -> u32 {
    1 + n * SMSS
}

#[test]
fn a_repeated_syn_is_answered_again_and_changes_nothing() {
    let mut script = Script::accepting(plain());
    for _ in 0..3 {
        script.recv(pilot_proto::wire::packet::Flags::SYN, 0, 0, WINDOW, &[]);
        let sent = script.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].seq, sent[0].ack), (0, 1));
        assert_eq!(script.connection.state(), State::SynReceived);
    }
}

#[test]
fn the_initial_window_is_ten_segments_of_4096() {
    let mut script = Script::established(plain(), 50);
    script.write(100_000);
    let sent = script.data();
    assert_eq!(sent.len(), 40);
    assert_eq!(script.connection.stats().cwnd, 40_960);
}

#[test]
fn the_window_grows_beyond_a_megabyte_towards_native_peers_only() {
    for (dialect, bound) in [(Dialect::Native, 64 << 20), (Dialect::G1, 1 << 20)] {
        let mut script = Script::established(Options { dialect, ..plain() }, 50);
        for _ in 0..20 {
            let mut acked = 1;
            for _ in 0..50 {
                script.write(script.connection.send_capacity());
                let sent = script.wait(MS);
                acked = sent
                    .iter()
                    .filter_map(Out::data)
                    .next_back()
                    .map_or(acked, |(seq, len)| seq + len as u32);
            }
            script.recv(ACK, 1, acked, u16::MAX, &[]);
        }
        let cwnd = script.connection.stats().cwnd;
        assert!(cwnd <= bound, "{dialect:?}: {cwnd}");
        assert_eq!(cwnd > 1 << 20, dialect == Dialect::Native, "{dialect:?}: {cwnd}");
    }
}

#[test]
fn a_writer_hears_of_room_when_its_backlog_left_not_only_when_it_was_acknowledged() {
    let mut script = Script::established(configured(|config| config.send_backlog = 8000), 50);
    script.events();
    assert_eq!(script.connection.send(&[b'x'; 20_000]), Ok(8000));
    assert_eq!(script.events(), []);
    assert_eq!(script.data().len(), 8);
    assert_eq!(script.events(), [ConnectionEvent::Writable]);
    assert_eq!(script.connection.send(&[b'x'; 1000]), Ok(1000));
    script.data();
    assert_eq!(script.events(), [], "nobody was refused");
}

#[test]
fn what_the_peer_holds_behind_a_gap_leaves_room_for_the_writer() {
    let mut script = Script::established(configured(|config| config.send_buffer = 0), 50);
    script.write(40_000);
    assert_eq!(script.data().len(), 40);
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(40))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    // Recovery halved the window; of what is queued, 39 segments need it no more.
    assert_eq!(script.connection.stats().cwnd, 20_000);
    assert_eq!(script.connection.send_capacity(), 2 * 20_000 + 39_000 - 40_000);
}

#[test]
fn a_window_half_of_which_waits_behind_a_gap_doubles_up_to_its_bound() {
    let options = configured(|config| {
        config.recv_buffer = 16 * 4096;
        config.max_recv_buffer = 64 * 4096;
    });
    let mut script = Script::established(options, 50);
    let mut windows = Vec::new();
    for n in 1..300 {
        script.recv(ACK, seg(n), 1, WINDOW, &[b'y'; 1000]);
        let window = script.sent().last().unwrap().window;
        if windows.last() != Some(&window) {
            windows.push(window);
        }
    }
    assert_eq!(windows, [16, 32, 64]);
    let held = script.connection.stats().ooo_buf;
    // The last, which the window cuts, is joined to the one before.
    assert_eq!(held, 261, "what lies beyond the window is not kept");
}

#[test]
fn a_reader_that_does_not_read_gets_no_larger_window() {
    let options = configured(|config| config.recv_buffer = 16 * 4096);
    let mut script = Script::established(options, 50);
    for n in 0..65 {
        script.recv(ACK, seg(n), 1, WINDOW, &[b'y'; 1000]);
    }
    script.now += 50 * MS;
    assert_eq!(script.wait(50 * MS).last().unwrap().window, 0);
}

#[test]
fn three_duplicates_of_a_peer_without_sack_repeat_the_first_segment_once() {
    let mut script = Script::established(old(), 50);
    script.write(20_000);
    assert_eq!(script.data().len(), 20);
    script.now += 50 * MS;
    script.ack(1);
    script.ack(1);
    assert_eq!(script.data(), []);
    script.ack(1);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    for _ in 0..10 {
        script.ack(1);
    }
    assert_eq!(script.data(), []);
    let stats = script.connection.stats();
    assert_eq!((stats.counters.fast_retx, stats.in_recovery), (1, true));
    assert_eq!(stats.ssthresh, 10_000, "half of what was in flight");
    script.now += 50 * MS;
    script.ack(seg(20));
    let stats = script.connection.stats();
    assert_eq!((stats.cwnd, stats.in_recovery), (10_000, false));
}

#[test]
fn a_window_update_or_data_is_no_duplicate() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    for n in 0..6u16 {
        script.recv(ACK, 1, 1, WINDOW - 1 - n, &[]);
    }
    for n in 0..6 {
        script.recv(ACK, 1 + n, 1, WINDOW - 6, b"y");
    }
    assert_eq!(script.connection.stats().counters.fast_retx, 0);
    assert_eq!(script.connection.stats().counters.dup_acks, 0);
}

#[test]
fn a_partial_acknowledgement_without_sack_repeats_the_next_hole() {
    let mut script = Script::established(old(), 50);
    script.write(20_000);
    script.data();
    script.now += 50 * MS;
    for _ in 0..3 {
        script.ack(1);
    }
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(5));
    assert_eq!(script.data().first(), Some(&(seg(5), 1000)));
    script.now += 50 * MS;
    script.ack(seg(20));
    assert!(!script.connection.stats().in_recovery);
}

#[test]
fn sack_repeats_every_hole_in_one_round_trip_and_nothing_that_arrived() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(5)), (seg(7), seg(20))]);
    let mut repeated = script.data();
    repeated.extend(script.wait(20 * MS).iter().filter_map(Out::data));
    assert_eq!(repeated, [(seg(0), 1000), (seg(5), 1000), (seg(6), 1000)]);
}

#[test]
fn a_timeout_skips_what_the_peer_reported() {
    let mut script = Script::established(plain(), 50);
    script.write(6_000);
    script.data();
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(3)), (seg(4), seg(6))]);
    assert_eq!(script.data().first(), Some(&(seg(0), 1000)));
    // Everything repeated is lost again, until the timer expires.
    let retransmits = |script: &Script| script.connection.stats().counters.retransmits;
    while retransmits(&script) == 0 {
        script.wait(10 * MS);
    }
    script.now += 50 * MS;
    script.sack(seg(3), &[(seg(4), seg(6))]);
    let sent: Vec<_> = script.wait(100 * MS).iter().filter_map(Out::data).collect();
    assert_eq!(sent, [(seg(3), 1000)]);
}

#[test]
fn a_peer_that_drops_what_it_reported_is_sent_it_again() {
    let mut script = Script::established(plain(), 50);
    script.write(5_000);
    script.data();
    script.now += 50 * MS;
    script.sack(1, &[(seg(1), seg(5))]);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    // The hole is filled, and the peer reneged on the rest (RFC 2018 section 8).
    script.ack(seg(1));
    let mut repeated = Vec::new();
    while repeated.len() < 4 {
        let (at, _) = script.connection.poll_timeout().unwrap();
        let sent = script.wait(at.saturating_since(script.now));
        let data: Vec<_> = sent.iter().filter_map(Out::data).collect();
        if let Some((seq, len)) = data.last() {
            script.ack(seq + *len as u32);
        }
        repeated.extend(data);
    }
    let expected: Vec<_> = (1..5).map(|n| (seg(n), 1000)).collect();
    assert_eq!(repeated, expected);
}

#[test]
fn a_timeout_sends_one_segment_and_backs_off_once_per_event() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    let sent = script.wait(Duration::from_secs(3));
    let data: Vec<_> = sent.iter().filter(|out| out.data().is_some()).collect();
    // The loss probe first (RFC 8985), two round trips after the flight: the last segment.
    assert_eq!((data[0].seq, data[0].at.as_millis()), (seg(19), 150));
    // Then one segment per timeout; the timeout doubles once.
    assert!(data[1..].iter().all(|out| out.seq == seg(0)), "{data:?}");
    let times: Vec<_> = data[1..].iter().map(|out| out.at.as_millis()).collect();
    assert_eq!(times[..4], [350, 750, 1150, 1550]);
    let stats = script.connection.stats();
    assert_eq!((stats.cwnd, stats.ssthresh), (40_960, 10_000), "the initial window again");
}

#[test]
fn a_connection_with_a_legacy_peer_breaks_after_eight_timeouts() {
    let mut script = Script::established(Options { dialect: Dialect::G2, ..plain() }, 50);
    script.write(1000);
    script.data();
    let sent = script.wait(Duration::from_secs(60));
    let data = sent.iter().filter(|out| out.data().is_some()).count();
    assert_eq!(data, 1 + 8, "the loss probe and eight retransmissions");
    assert!(script.events().contains(&ConnectionEvent::Closed(CloseReason::RetransmissionTimeout)));
    assert!(sent.last().unwrap().flags.contains(RST));
}

#[test]
fn a_lost_tail_is_repaired_by_a_probe_and_costs_no_timeout() {
    let mut script = Script::established(plain(), 50);
    script.write(10_000);
    script.data();
    script.now += 50 * MS;
    script.ack(seg(8));
    let sent = script.wait(101 * MS);
    let probes: Vec<_> = sent.iter().filter_map(Out::data).collect();
    assert_eq!(probes, [(seg(9), 1000)]);
    script.now += 50 * MS;
    script.sack(seg(8), &[(seg(9), seg(10))]);
    let sent = script.wait(20 * MS);
    assert_eq!(sent.iter().filter_map(Out::data).collect::<Vec<_>>(), [(seg(8), 1000)]);
    let counters = script.connection.stats().counters;
    assert_eq!((counters.loss_probes, counters.retransmits, counters.fast_retx), (1, 0, 1));
}

#[test]
fn a_probe_that_was_not_needed_costs_nothing() {
    let mut script = Script::established(plain(), 50);
    script.write(10_000);
    script.data();
    let cwnd = script.connection.stats().cwnd;
    let sent = script.wait(101 * MS);
    assert_eq!(sent.iter().filter_map(Out::data).collect::<Vec<_>>(), [(seg(9), 1000)]);
    script.ack(seg(10));
    let stats = script.connection.stats();
    assert!(stats.cwnd >= cwnd, "{stats:?}");
    assert_eq!(stats.counters.spurious_retx, 1);
}

#[test]
fn a_timeout_that_was_none_is_undone() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    let cwnd = script.connection.stats().cwnd;
    script.wait(360 * MS);
    assert!(script.connection.stats().counters.retransmits > 0);
    // The originals arrive late: the ACK comes earlier than one of a retransmission could.
    script.ack(seg(20));
    let stats = script.connection.stats();
    assert!(stats.cwnd >= cwnd && !stats.in_recovery, "{stats:?}");
}

#[test]
fn windows_are_advertised_in_segments_and_never_shrink_below_a_promise() {
    let mut script = Script::established(plain(), 50);
    let mut edge = 0;
    for n in 0..200 {
        script.recv(ACK, seg(n), 1, WINDOW, &[7; SMSS as usize]);
        for out in script.wait(10 * MS) {
            let right = out.ack as usize + usize::from(out.window) * 4096;
            assert!(out.ack as usize + 4096 * 512 >= edge, "{out:?}");
            // The unit is a segment of 4,096, so that rounding may hide a part of one.
            assert!(right + 4096 > edge, "{out:?}");
            edge = edge.max(right);
        }
    }
    assert_eq!(script.connection.readable(), 200_000);
}

#[test]
fn a_closed_window_is_probed_at_growing_intervals_for_ever() {
    let mut script = Script::established(plain(), 50);
    script.write(5000);
    assert_eq!(script.data().len(), 5);
    script.recv(ACK, 1, seg(5), 0, &[]);
    script.write(3000);
    assert_eq!(script.data(), []);
    let begin = script.now;
    let mut times = Vec::new();
    for _ in 0..40 {
        let before = script.now;
        let sent = script.wait(500 * MS);
        for out in sent.iter().filter(|out| out.data().is_some()) {
            times.push((before.as_nanos(), out.seq));
            // The peer drops the probe and says so.
            script.recv(ACK, 1, seg(5), 0, &[]);
        }
    }
    assert!(times.len() >= 4, "{times:?}");
    assert!(times.iter().all(|(_, seq)| *seq == seg(5)), "{times:?}");
    assert!(script.now.saturating_since(begin) >= Duration::from_secs(20));
    assert_eq!(script.connection.state(), State::Established);
    script.recv(ACK, 1, seg(5), WINDOW, &[]);
    let sent = script.wait(MS);
    assert_eq!(sent.iter().filter(|out| out.data().is_some()).count(), 3);
}

#[test]
fn a_reader_that_makes_room_sends_a_window_update_unasked() {
    let mut script = Script::established(plain(), 50);
    let mut n = 0;
    loop {
        script.recv(ACK, seg(n), 1, WINDOW, &[7; SMSS as usize]);
        n += 1;
        if script.wait(10 * MS).last().is_some_and(|out| out.window == 0) {
            break;
        }
    }
    script.connection.recv_consume(usize::MAX / 4);
    let update = script.sent();
    assert_eq!(update.len(), 1);
    assert!(update[0].window >= 500, "{update:?}");
}

#[test]
fn small_writes_are_held_at_most_forty_milliseconds() {
    let mut script = Script::established(plain(), 100);
    script.write(10);
    assert_eq!(script.data(), [(1, 10)]);
    script.write(10);
    assert_eq!(script.data(), []);
    let sent = script.wait(60 * MS);
    let data: Vec<_> = sent.iter().filter(|out| out.data().is_some()).collect();
    assert_eq!(data.len(), 1);
    assert_eq!((data[0].seq, data[0].at.as_millis()), (11, 140));
    script.connection.set_no_delay(true);
    script.write(10);
    assert_eq!(script.data(), [(21, 10)]);
}

#[test]
fn acknowledgements_wait_for_a_second_segment_or_five_milliseconds() {
    let mut script = Script::established(configured(|config| config.quick_acks = 1), 50);
    script.recv(ACK, 1, 1, WINDOW, b"a");
    assert_eq!(script.sent().len(), 1, "a quick one first");
    script.recv(ACK, 2, 1, WINDOW, b"b");
    assert_eq!(script.sent(), []);
    script.recv(ACK, 3, 1, WINDOW, b"c");
    assert_eq!(script.sent()[0].ack, 4, "the second at once");
    script.recv(ACK, 4, 1, WINDOW, b"d");
    let sent = script.wait(40 * MS);
    assert_eq!((sent.len(), sent[0].ack, sent[0].at.as_millis()), (1, 5, 55));
}

#[test]
fn data_carries_the_acknowledgement_and_cancels_the_delayed_one() {
    let mut script = Script::established(configured(|config| config.quick_acks = 0), 50);
    script.recv(ACK, 1, 1, WINDOW, b"a");
    assert_eq!(script.sent(), []);
    script.write(10);
    let sent = script.wait(45 * MS);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].ack, sent[0].payload.len()), (2, 10));
}

#[test]
fn what_arrives_out_of_order_is_reported_at_once_in_four_blocks() {
    let mut script = Script::established(plain(), 50);
    for n in [2, 4, 6, 8, 10] {
        script.recv(ACK, seg(n), 1, WINDOW, &[7; SMSS as usize]);
    }
    let sent = script.sent();
    let blocks = pilot_proto::wire::sack::parse_exact(
        &sent.last().unwrap().payload,
        pilot_proto::wire::seq::SeqNumber::new(u32::MAX / 2),
    );
    let left: Vec<_> = blocks.unwrap().as_slice().iter().map(|block| block.left_edge.value()).collect();
    let mut sorted = left.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [seg(4), seg(6), seg(8), seg(10)]);
}

#[test]
fn the_reordering_buffer_is_as_large_as_the_window() {
    let mut script = Script::established(plain(), 50);
    let window = script.connection.stats().rcv_wnd as u32;
    let count = window / SMSS;
    for n in (1..count).rev() {
        script.recv(ACK, seg(n), 1, WINDOW, &[7; SMSS as usize]);
    }
    assert_eq!(script.connection.stats().ooo_buf as u32, count - 1);
    script.recv(ACK, 1, 1, WINDOW, &[7; SMSS as usize]);
    assert_eq!(script.connection.readable() as u32, count * SMSS);
}

#[test]
fn an_idle_connection_is_probed_after_thirty_seconds_and_closed_120_later() {
    for (dialect, expected, end) in [
        (Dialect::Native, &[30, 45, 60, 75, 90, 105, 120, 135, 150][..], 150),
        (Dialect::G2, &[30, 60, 90], 120),
    ] {
        let mut script = Script::established(Options { dialect, ..plain() }, 50);
        script.sent();
        script.wait(MS);
        let sent = script.wait(Duration::from_secs(end - 1));
        let probes: Vec<_> = sent.iter().map(|out| out.at.as_secs()).collect();
        assert_eq!(probes, expected[..expected.len() - usize::from(expected.contains(&end))]);
        assert_eq!(script.connection.state(), State::Established);
        script.wait(Duration::from_secs(2));
        assert!(script.events().contains(&ConnectionEvent::Closed(CloseReason::IdleTimeout)));
    }
}

#[test]
fn the_idle_time_counts_from_the_last_arrival() {
    let mut script = Script::established(plain(), 50);
    script.wait(Duration::from_millis(19_950));
    script.recv(ACK, 1, 1, WINDOW, b"y");
    script.sent();
    let sent = script.wait(Duration::from_secs(152));
    let probes: Vec<_> = sent.iter().filter(|out| out.flags == ACK).map(|out| out.at.as_secs()).collect();
    assert_eq!(probes[..3], [50, 65, 80]);
    assert!(sent.last().is_some_and(|out| out.flags.contains(RST) && out.at.as_secs() == 170));
}

#[test]
fn time_wait_lasts_ten_seconds_and_answers_a_repeated_fin() {
    let mut script = Script::established(plain(), 50);
    script.connection.shutdown();
    assert_eq!(script.sent()[0].flags, FIN_ACK);
    script.recv(ACK, 1, 2, WINDOW, &[]);
    script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
    assert_eq!(script.connection.state(), State::TimeWait);
    script.sent();
    script.wait(Duration::from_secs(9));
    script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
    assert_eq!(script.sent()[0].ack, 2);
    script.wait(Duration::from_millis(9900));
    assert_eq!(script.connection.state(), State::TimeWait, "the wait began anew");
    script.wait(Duration::from_millis(200));
    assert_eq!(script.connection.state(), State::Closed);
}

#[test]
fn acknowledgements_outside_what_was_sent_are_ignored() {
    let mut script = Script::established(plain(), 50);
    script.write(5000);
    script.data();
    script.ack(seg(6));
    script.ack(u32::MAX - 5);
    assert_eq!(script.connection.stats().unacked, 5);
    assert_eq!(script.connection.stats().counters.unacceptable, 1);
    script.ack(seg(5));
    assert_eq!(script.connection.stats().unacked, 0);
}

#[test]
fn retransmissions_keep_the_boundaries_of_the_first_transmission() {
    // Whose receivers cannot trim what overlaps.
    for dialect in [Dialect::G1, Dialect::G2] {
        let mut script = Script::established(Options { dialect, ..plain() }, 50);
        script.write(2500);
        let first = script.data();
        script.connection.set_max_segment(1152);
        let again: Vec<_> = script.wait(Duration::from_secs(2)).iter().filter_map(Out::data).collect();
        assert!(!again.is_empty() && again.iter().all(|part| first.contains(part)), "{dialect:?} {again:?}");
    }
}

#[test]
fn what_was_sent_before_the_path_became_narrow_is_cut_when_it_is_repeated() {
    let mut script = Script::established(plain(), 50);
    script.write(1000);
    script.data();
    script.connection.set_max_segment(400);
    let mut again = Vec::new();
    for ack in [1, 401, 801, 1001] {
        script.ack(ack);
        again.extend(script.wait(Duration::from_millis(1500)).iter().filter_map(Out::data));
    }
    again.sort_unstable();
    again.dedup();
    assert_eq!(again, [(1, 400), (401, 400), (801, 200)]);
}

#[test]
fn a_timeout_of_a_large_segment_makes_the_path_suspect() {
    let mut script = Script::established(Options { max_segment: 4096, ..plain() }, 50);
    script.write(4096);
    script.data();
    assert!(!script.connection.take_path_suspicion());
    while script.connection.stats().counters.retransmits < 1 {
        let (at, _) = script.connection.poll_timeout().unwrap();
        let wait = at.saturating_since(script.now);
        script.wait(wait);
    }
    assert!(script.connection.take_path_suspicion());
    assert!(!script.connection.take_path_suspicion(), "once");
    assert_eq!(script.connection.max_segment(), 4096, "nothing is proven");
}

/// RFC 8899 section 4.3: small segments pass, so that no timer expires.
#[test]
fn a_segment_lost_again_and_again_makes_the_path_suspect() {
    let mut script = sending(250);
    for round in 1..=3 {
        assert!(!script.connection.take_path_suspicion(), "{round}");
        script.now += Duration::from_millis(60);
        let sent = 1 + script.connection.stats().counters.bytes_sent as u32;
        script.sack(1, &[(seg(1), sent)]);
        script.wait(Duration::from_millis(20));
    }
    assert_eq!(script.connection.stats().counters.retransmits, 0);
    assert!(script.connection.take_path_suspicion());
}

#[test]
fn segments_that_every_path_carries_do_not_make_it_suspect() {
    for (max_segment, is_suspect) in [(473, false), (474, true)] {
        let mut script = Script::established(Options { max_segment, ..plain() }, 50);
        script.write(474);
        script.wait(Duration::from_secs(3));
        assert!(script.connection.stats().counters.retransmits >= 2);
        assert_eq!(script.connection.take_path_suspicion(), is_suspect, "{max_segment}");
    }
}

#[test]
fn a_window_is_filled_to_its_last_byte_and_no_silly_segment_follows() {
    // Four segments of 1,024 fill a window of one slot; forty the initial congestion window.
    for (window, expected) in [(1, 4), (WINDOW, 40)] {
        let mut script = Script::established(Options { max_segment: 1024, ..plain() }, 50);
        script.recv(ACK, 1, 1, window, &[]);
        script.write(100_000);
        assert_eq!(script.data().len(), expected);
    }
    // The remaining 96 bytes of the window are not used while segments are outstanding.
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, 1, &[]);
    script.write(100_000);
    assert_eq!(script.data(), (0..4).map(|n| (seg(n), 1000)).collect::<Vec<_>>());
}

#[test]
fn a_full_segment_does_not_wait_for_a_small_one() {
    let mut script = Script::established(plain(), 50);
    script.write(10);
    script.write(SMSS as usize);
    assert_eq!(script.data()[0], (1, 1000));
    let mut script = Script::established(plain(), 50);
    script.write(10);
    assert_eq!(script.data(), [(1, 10)]);
    script.write(SMSS as usize);
    assert_eq!(script.data(), [(11, 1000)]);
}

#[test]
fn the_first_probe_of_a_closed_window_comes_after_half_a_second() {
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, 0, &[]);
    script.write(1000);
    assert_eq!(script.data(), []);
    let begin = script.now;
    let sent = script.wait(600 * MS);
    assert_eq!(sent.iter().filter_map(Out::data).collect::<Vec<_>>(), [(1, 1000)]);
    assert_eq!(sent[0].at.as_millis(), 550, "half a second after {begin:?}");
}

#[test]
fn a_closed_window_is_no_loss() {
    let mut script = Script::established(plain(), 50);
    let cwnd = script.connection.stats().cwnd;
    script.recv(ACK, 1, 1, 0, &[]);
    script.write(1000);
    script.wait(Duration::from_secs(20));
    let stats = script.connection.stats();
    assert!(stats.counters.retransmits > 0, "{stats:?}");
    assert_eq!((stats.cwnd, stats.ssthresh), (cwnd, 64 << 20));
    assert_eq!(stats.counters.loss_probes, 0, "nothing needs to be found out");
}

#[test]
fn a_legacy_peer_that_forgot_the_connection_is_sent_fin_five_times_more() {
    let mut script = Script::established(Options { dialect: Dialect::G2, ..plain() }, 50);
    script.connection.close(script.now);
    let sent = script.wait(Duration::from_secs(60));
    let fins = sent.iter().filter(|out| out.flags.contains(pilot_proto::wire::packet::Flags::FIN));
    // The loss probe, and five retransmissions after it.
    assert_eq!(fins.count(), 1 + 1 + 5);
    assert!(script.events().contains(&ConnectionEvent::Closed(CloseReason::Finished)));
}
