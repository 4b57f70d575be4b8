//! An authenticated but hostile peer: no panic, bounded memory, every violation counted.

use crate::{
    pair::options,
    rng::Rng,
    script::{ACK, FIN_ACK, RST, Script, WINDOW},
};
use pilot_proto::{
    transport::{Dialect, Options, State},
    wire::packet::Flags,
};

fn plain() -> Options {
    Options { max_segment: 1000, ..options(Dialect::Native) }
}

#[test]
fn acknowledgements_of_unsent_data_are_ignored() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    let before = script.connection.stats();
    for ack in [20_002, 1 << 20, 1 << 30, u32::MAX - 1] {
        script.ack(ack);
    }
    let after = script.connection.stats();
    assert_eq!((after.unacked, after.cwnd), (before.unacked, before.cwnd));
    assert!(after.counters.unacceptable >= 2);
}

#[test]
fn split_and_repeated_acknowledgements_do_not_inflate_the_window() {
    let mut script = Script::established(plain(), 50);
    script.write(20_000);
    script.data();
    script.now += std::time::Duration::from_millis(50);
    // One ACK per byte: growth counts bytes, and partial ACKs of a segment do not count.
    for ack in 2..=1001 {
        script.ack(ack);
    }
    assert!(script.connection.stats().cwnd <= 40_960 + 1000);
    for _ in 0..10_000 {
        script.ack(1001);
    }
    assert!(script.connection.stats().cwnd <= 40_960 + 1000);
}

#[test]
fn sack_of_unsent_data_is_ignored() {
    let mut script = Script::established(plain(), 50);
    script.write(5_000);
    script.data();
    script.sack(1, &[(100_000, 200_000)]);
    assert_eq!(script.connection.stats().counters.sack_recv, 0);
    assert_eq!(script.data(), []);
}

#[test]
fn overlapping_data_never_changes_received_bytes() {
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, WINDOW, b"good");
    script.recv(ACK, 1, 1, WINDOW, b"evil, and more");
    script.recv(ACK, 3, 1, WINDOW, b"xx");
    let mut out = [0; 64];
    let n = script.connection.recv(&mut out).unwrap().unwrap();
    assert_eq!(&out[..n], b"good, and more");
}

#[test]
fn data_beyond_the_window_is_not_held() {
    let mut script = Script::established(plain(), 50);
    let window = script.connection.stats().rcv_wnd as u32;
    for n in 0..100 {
        script.recv(ACK, 1 + window + n * 1000, 1, WINDOW, &[1; 1000]);
    }
    let stats = script.connection.stats();
    assert_eq!(stats.ooo_buf, 0);
    assert_eq!(stats.counters.unacceptable, 100);
}

#[test]
fn single_bytes_out_of_order_are_bounded() {
    let mut script = Script::established(plain(), 50);
    for n in 0..200_000u32 {
        script.recv(ACK, 3 + 2 * n, 1, WINDOW, b"x");
    }
    let stats = script.connection.stats();
    assert!(stats.ooo_buf <= 32_768, "{}", stats.ooo_buf);
    assert!(stats.counters.reassembly_overflow > 0);
}

#[test]
fn a_window_that_flaps_sends_no_more_than_it_allows() {
    let mut script = Script::established(plain(), 50);
    script.write(200_000);
    let mut sent = 0;
    for round in 0..200u32 {
        let window = u16::from(round % 2 == 0);
        script.recv(ACK, 1, 1 + sent, window, &[]);
        for (seq, len) in script.data() {
            let end = seq + len as u32 - 1;
            assert!(window > 0 && end <= sent + 4096, "{end} beyond the window");
            sent = sent.max(end);
        }
        script.now += std::time::Duration::from_millis(5);
    }
}

#[test]
fn resets_and_syns_outside_the_window_are_ignored() {
    let mut script = Script::established(plain(), 50);
    let mut rng = Rng(9);
    let window = script.connection.stats().rcv_wnd as u32;
    for _ in 0..10_000 {
        let seq = window + 2 + rng.below(1 << 30) as u32;
        let flags = if rng.chance(50) { RST } else { Flags::SYN };
        script.recv(flags, seq, 0, WINDOW, &[]);
        assert!(script.sent().len() <= 1);
    }
    assert_eq!(script.connection.state(), State::Established);
    assert_eq!(script.connection.stats().counters.unacceptable, 10_000);
}

#[test]
fn contradictory_fins_are_refused() {
    let mut script = Script::established(plain(), 50);
    script.recv(FIN_ACK, 100, 1, WINDOW, &[]);
    script.recv(FIN_ACK, 50, 1, WINDOW, &[]);
    script.recv(ACK, 101, 1, WINDOW, b"after the end");
    let stats = script.connection.stats();
    assert_eq!((stats.counters.unacceptable, stats.ooo_buf), (2, 0));
}

#[test]
fn a_fin_outside_the_window_is_ignored() {
    for (dialect, after) in [(Dialect::Native, State::CloseWait), (Dialect::G2, State::TimeWait)] {
        for seq in [0x7000_0000, 0, u32::MAX - 1000] {
            let mut script = Script::established(Options { dialect, ..plain() }, 50);
            script.recv(ACK, 1, 1, WINDOW, b"data");
            script.recv(FIN_ACK, seq, 1, WINDOW, &[]);
            assert_eq!(script.connection.stats().counters.unacceptable, 1);
            script.recv(FIN_ACK, 5, 1, WINDOW, &[]);
            assert_eq!(script.connection.state(), after, "{dialect:?} {seq}");
        }
    }
}

#[test]
fn random_segments_do_not_break_invariants() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let dialect = [Dialect::Native, Dialect::G1, Dialect::G2][rng.below(3) as usize];
        let mut script = Script::established(Options { dialect, ..plain() }, 20);
        for _ in 0..400 {
            let near = |rng: &mut Rng| match rng.below(4) {
                0 => rng.next() as u32,
                1 => 1u32.wrapping_sub(rng.below(3000) as u32),
                _ => 1 + rng.below(30_000) as u32,
            };
            let (seq, ack) = (near(&mut rng), near(&mut rng));
            let payload = vec![7; rng.below(1400) as usize];
            let flags = Flags::from_bits(rng.below(16) as u8);
            let flags = if rng.chance(90) { ACK } else { flags };
            script.recv(flags, seq, ack, rng.below(600) as u16, &payload);
            let _ = script.connection.send(&payload);
            let sent = script.wait(std::time::Duration::from_millis(rng.below(300)));
            assert!(sent.len() < 2000, "seed {seed}");
            let stats = script.connection.stats();
            assert!(stats.cwnd <= 64 << 20 && stats.in_flight <= 2 << 20, "seed {seed}: {stats:?}");
            assert!(script.connection.readable() <= 2 << 20);
        }
    }
}
