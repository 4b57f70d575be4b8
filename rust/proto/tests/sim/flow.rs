//! Flow control: send window, window probes, pacing, buffer auto-tuning (RFC 9293 section 3.8.6, RFC 7661),
//! with a scripted peer.

use std::{sync::Arc, time::Duration};

use crate::script::{ACK, FIN_ACK, Out, SYN_ACK, Script, WINDOW, plain, seg};
use pilot_proto::{
    config::{Algorithm, TransportConfig},
    transport::{ConnectionEvent, Dialect, Options, State, Supply},
    wire::{packet::Flags, seq::SeqNumber},
};

const MS: Duration = Duration::from_millis(1);

fn configured(change: impl FnOnce(&mut TransportConfig)) -> Options {
    let mut config = TransportConfig::default();
    change(&mut config);
    Options { config: Arc::new(config), ..plain() }
}

/// RFC 9293 section 3.8.6.1: the interval doubles while the window stays closed and restarts once it was
/// open.
#[test]
fn window_probe_intervals_double() {
    let mut script = Script::established(plain(), 50);
    let mut acked = 1;
    let mut closed = |script: &mut Script| {
        script.recv(ACK, 1, acked, 0, &[]);
        script.write(8000);
        let mut begin = script.now;
        let mut intervals = Vec::new();
        for _ in 0..8 {
            loop {
                let sent = script.wait(250 * MS);
                if let Some((seq, len)) = sent.iter().find_map(Out::data) {
                    acked = seq + len as u32;
                    break;
                }
                assert!(script.now.saturating_since(begin) < 40_000 * MS, "no probe");
                script.recv(ACK, 1, acked, 0, &[]);
            }
            intervals.push(script.now.saturating_since(begin).as_millis());
            begin = script.now;
            script.recv(ACK, 1, acked, 0, &[]);
        }
        intervals
    };
    let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
    assert_eq!(closed(&mut script), expected);
    script.recv(ACK, 1, seg(8), WINDOW, &[]);
    assert_eq!(closed(&mut script), expected);
}

/// After the first RTT a window is paced over the next one (RFC 9002 section 7.7).
#[test]
fn a_flight_is_paced_over_the_round_trip() {
    let mut script = Script::established(plain(), 50);
    script.write(200_000);
    assert_eq!(script.data().len(), 40, "the initial window at once");
    assert_eq!(script.connection.stats().pacing_rate, 0);
    script.now += 50 * MS;
    script.ack(seg(40));
    // Five windows of 80,960 bytes per 50 ms.
    assert_eq!(script.connection.stats().pacing_rate, 8_096_000);
    // The bytes of two pacing quanta.
    let burst = script.data().len();
    assert!((8..=18).contains(&burst), "{burst} segments at once");
    let sent = script.wait(5 * MS).iter().filter_map(Out::data).count();
    assert!((32..=50).contains(&sent), "{sent} segments in 5 ms");
}

/// FIN and pure ACKs are not paced.
#[test]
fn fin_and_pure_acks_are_not_paced() {
    let mut script = Script::established(plain(), 50);
    script.write(41_000);
    script.data();
    script.now += 50 * MS;
    script.ack(seg(38));
    assert_eq!(script.data(), [(seg(40), 1000)]);
    script.connection.shutdown();
    assert_eq!(script.sent()[0].flags, FIN_ACK);
}

/// One segment may always be sent; otherwise no acknowledgement would open the window.
#[test]
fn a_single_segment_ignores_the_window() {
    let mut script = Script::established(configured(|config| config.initial_window = 500), 50);
    script.write(2000);
    assert_eq!(script.data(), [(seg(0), 1000)]);
    script.now += 50 * MS;
    script.ack(seg(1));
    assert_eq!(script.data(), [(seg(1), 1000)]);
}

/// RFC 7661 section 4.3: in slow start a half-used window grows.
#[test]
fn an_unused_window_does_not_grow() {
    for (writes, grows) in [(&[20_479][..], false), (&[20_480], true), (&[2000, 19_000], true)] {
        let mut script = Script::established(Options { no_delay: true, ..plain() }, 50);
        for len in writes {
            script.write(*len);
            script.data();
        }
        script.now += 50 * MS;
        script.ack(1 + writes.iter().sum::<usize>() as u32);
        let cwnd = script.connection.stats().cwnd;
        assert_eq!(cwnd > 40_960, grows, "{writes:?}: {cwnd}");
    }
    // The use in an earlier round trip does not count.
    let mut script = Script::established(plain(), 50);
    let mut round = |segments: usize| {
        script.write(segments * 1000);
        let last = script.wait(50 * MS).iter().filter_map(Out::data).next_back().unwrap();
        script.ack(last.0 + 1000);
        script.connection.stats().cwnd
    };
    assert_eq!(round(45), 80_960, "five wait for the window");
    assert_eq!([10; 4].map(round), [80_960; 4]);
}

/// In congestion avoidance only a fully used window grows.
#[test]
fn in_congestion_avoidance_only_a_full_window_grows() {
    let mut script = Script::established(Options { dialect: Dialect::G1, ..plain() }, 50);
    script.write(20_000);
    script.data();
    script.now += 50 * MS;
    for _ in 0..3 {
        script.ack(1);
    }
    script.data();
    script.now += 50 * MS;
    script.ack(seg(20));
    for last in [26, 32, 38] {
        script.write(6000);
        script.wait(50 * MS);
        script.ack(seg(last));
        assert_eq!(script.connection.stats().cwnd, 10_000);
    }
}

/// A flight counts until all that was on its way with it is acknowledged, not longer for having been as
/// large once more. Legacy peers' acknowledgements grow the window by two segments each (RFC 3465).
#[test]
fn a_used_window_grows_for_one_round_trip() {
    let mut script = Script::established(Options { dialect: Dialect::G2, ..plain() }, 50);
    script.write(40_000);
    assert_eq!(script.data().len(), 40);
    let mut window_after = |acked: u32, written: usize| {
        script.ack(seg(acked));
        script.write(written);
        script.wait(25 * MS);
        script.connection.stats().cwnd
    };
    assert_eq!(window_after(20, 20_000), 42_960);
    assert_eq!(window_after(40, 0), 44_960);
    assert_eq!(window_after(60, 0), 44_960);
}

/// Silly window avoidance ends when nothing is outstanding.
#[test]
fn a_small_window_is_filled_when_nothing_is_outstanding() {
    let options = Options { dialect: Dialect::G2, max_segment: 4000, ..plain() };
    let mut script = Script::established(options, 50);
    script.recv(ACK, 1, 1, 1, &[]);
    script.write(4000);
    assert_eq!(script.data(), [(1, 1152)]);
    script.recv(ACK, 1, 1153, 1, &[]);
    assert_eq!(script.data(), [(1153, 1152)]);
}

/// FIN is accepted beyond a full window.
#[test]
fn a_fin_is_accepted_beyond_a_full_window() {
    let mut script = Script::established(configured(|config| config.recv_buffer = 4 * 4096), 50);
    for n in 0..4 {
        script.recv(ACK, 1 + n * 4096, 1, WINDOW, &[b'y'; 4096]);
    }
    assert_eq!(script.sent().last().unwrap().window, 0);
    script.recv(FIN_ACK, 1 + 4 * 4096, 1, WINDOW, &[]);
    assert_eq!(script.connection.state(), State::CloseWait);
}

/// One segment at a time, and no out-of-order segments.
#[test]
fn exhausted_memory_keeps_one_segment() {
    let mut script = Script::established(plain(), 50);
    script.connection.set_supply(Supply::Exhausted);
    script.recv(ACK, 4097, 1, WINDOW, &[b'y'; 4096]);
    assert_eq!(script.connection.held(), 0);
    for n in 0..3 {
        script.recv(ACK, 1 + n * 4096, 1, WINDOW, &[b'y'; 4096]);
    }
    assert_eq!((script.connection.readable(), script.connection.held()), (4096, 4096));
    assert_eq!(script.connection.stats().counters.reassembly_overflow, 3);
    script.connection.recv_consume(4096);
    script.recv(ACK, 4097, 1, WINDOW, &[b'y'; 4096]);
    assert_eq!(script.connection.readable(), 4096, "whoever reads is served");
}

/// Data carries the acknowledgement; SACK needs a pure ACK.
#[test]
fn acknowledgements_are_piggybacked_unless_they_carry_sack() {
    for (seq, expected) in [(1, 1), (100, 2)] {
        let mut script = Script::established(plain(), 50);
        script.write(10);
        script.recv(ACK, seq, 1, WINDOW, b"y");
        let sent = script.sent();
        assert_eq!(sent.len(), expected, "{sent:?}");
        assert_eq!(sent[0].data(), Some((1, 10)));
    }
}

/// The window doubles once half of it is read per RTT.
#[test]
fn a_reader_that_keeps_up_gets_a_larger_window() {
    for (reads, ms, expected) in [
        ([16_000, 16_000], 50, 16),
        ([16_000, 18_000], 50, 32),
        ([16_000, 18_000], 100, 16),
        ([32_000, 34_000], 100, 32),
    ] {
        let options = configured(|config| config.recv_buffer = 16 * 4096);
        let mut script = Script::established(options, 50);
        let (begin, mut seq) = (script.now, 1);
        for (len, after) in [(1000, 0), (reads[0], 25), (reads[1], ms)] {
            script.now = begin + after * MS;
            script.recv(ACK, seq, 1, WINDOW, &vec![b'y'; len]);
            seq += len as u32;
            script.connection.recv_consume(len);
        }
        assert_eq!(script.sent().last().unwrap().window, expected, "{reads:?} in {ms} ms");
    }
}

/// RFC 9293 section 3.8.6.2.2: after FIN no window is needed.
#[test]
fn no_window_update_follows_a_fin() {
    let mut script = Script::established(plain(), 50);
    let mut seq = 1;
    while script.connection.stats().rcv_wnd > 8192 {
        script.recv(ACK, seq, 1, WINDOW, &[b'y'; 4096]);
        seq += 4096;
        script.sent();
    }
    script.recv(FIN_ACK, seq, 1, WINDOW, &[]);
    script.sent();
    script.connection.recv_consume(usize::MAX / 4);
    assert_eq!(script.sent(), []);
}

#[test]
fn a_blocked_writer_is_woken_at_half_a_backlog() {
    for (max_segment, is_told) in [(1000, true), (1300, false)] {
        let options = configured(|config| config.send_backlog = 8000);
        let mut script = Script::established(Options { max_segment, ..options }, 50);
        // Room for four segments of 1,000 bytes, or for three of 1,300.
        script.recv(ACK, 1, 1, 1, &[]);
        script.events();
        assert_eq!(script.connection.send(&[b'x'; 9000]), Ok(8000));
        script.data();
        let told = [ConnectionEvent::Writable];
        assert_eq!(script.events(), if is_told { &told[..] } else { &[] });
        script.ack(3901);
        script.data();
        assert_eq!(script.events(), if is_told { &[][..] } else { &told });
    }
}

#[test]
fn bytes_written_in_place_are_sent_unchanged() {
    let mut script = Script::established(configured(|config| config.send_backlog = 5), 50);
    script.events();
    let room = script.connection.send_reserve(100).unwrap();
    assert_eq!(room.len(), 5);
    room[..3].copy_from_slice(b"abc");
    script.connection.send_commit(3);
    assert_eq!(script.sent()[0].payload, b"abc");
    // A failed reservation requests a Writable event.
    assert_eq!(script.connection.send(b"01234"), Ok(5));
    assert!(script.connection.send_reserve(1).unwrap().is_empty());
    assert_eq!(script.events(), []);
    script.ack(4);
    script.sent();
    assert_eq!(script.events(), [ConnectionEvent::Writable]);
}

/// Small reads within an RTT are added up.
#[test]
fn a_window_read_within_a_round_trip_doubles() {
    let mut script = Script::established(plain(), 50);
    let window = script.connection.stats().rcv_wnd;
    for n in 0..=window as u32 / 1000 {
        if n % 40 == 0 {
            script.now += MS;
        }
        script.recv(ACK, 1 + n * 1000, 1, WINDOW, &[b'y'; 1000]);
        script.connection.recv_consume(1000);
        script.sent();
    }
    assert_eq!(script.connection.stats().rcv_wnd, 2 * window);
}

#[test]
fn readable_is_not_reported_after_reading() {
    let mut script = Script::established(plain(), 50);
    script.events();
    script.recv(ACK, 1, 1, WINDOW, b"abc");
    let bytes: Vec<u8> = script.connection.recv_slices().flatten().copied().collect();
    assert_eq!(bytes, b"abc");
    script.connection.recv_consume(2);
    assert_eq!(script.events(), [ConnectionEvent::Readable], "there is more");
    script.connection.recv_consume(1);
    script.recv(ACK, 4, 1, WINDOW, b"d");
    script.connection.recv_consume(1);
    assert_eq!(script.events(), []);
    assert!(!script.connection.is_at_end());
    script.recv(FIN_ACK, 5, 1, WINDOW, b"e");
    assert!(!script.connection.is_at_end(), "a byte is left");
    script.connection.recv_consume(1);
    assert!(script.connection.is_at_end());
}

/// The dialect is known only when the peer's session is established.
#[test]
fn data_queued_before_the_handshake_uses_the_final_iss_and_segment_size() {
    let now = pilot_proto::time::Instant::from_millis(1000);
    let options = Options { max_segment: 4000, ..plain() };
    let tuple = crate::pair::tuple(0);
    let connection = pilot_proto::transport::Connection::connect(now, tuple, options, SeqNumber::new(7));
    let mut script = Script::at(connection, now);
    script.write(1500);
    script.connection.set_iss(SeqNumber::new(5000));
    script.connection.set_max_segment(1000);
    script.connection.retry_syn();
    let syns = |script: &mut Script| -> Vec<u32> {
        script.sent().iter().filter(|out| out.flags == Flags::SYN).map(|out| out.seq).collect()
    };
    assert_eq!(syns(&mut script), [5000], "once, although it was due already");
    script.connection.retry_syn();
    assert_eq!(syns(&mut script), [5000]);
    script.recv(SYN_ACK, 0, 5001, WINDOW, &[]);
    script.connection.retry_syn();
    assert_eq!(script.data(), [(5001, 1000), (6001, 500)]);
    assert_eq!(script.connection.state(), State::Established);
}

/// The controller and its bound depend on the dialect.
#[test]
fn the_controller_is_set_with_the_dialect() {
    let mut script = Script::connecting(plain());
    script.connection.set_congestion(Algorithm::Bbr);
    assert_eq!(script.connection.stats().congestion, Algorithm::Bbr);
    script.connection.set_congestion(Algorithm::Cubic);
    script.connection.set_dialect(Dialect::G2);
    let stats = script.connection.stats();
    assert_eq!((stats.congestion, stats.ssthresh), (Algorithm::Cubic, 512 << 10));
    script.recv(SYN_ACK, 0, 1, 5, &[]);
    assert_eq!(script.connection.stats().snd_wnd, 5 * 1152);
}
