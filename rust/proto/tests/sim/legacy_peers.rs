//! Deviations of legacy peers from RFC 9293 ([`Dialect`]).

use std::time::Duration;

use crate::{
    pair::options,
    script::{ACK, FIN_ACK, Out, SYN_ACK, Script, WINDOW, seg},
};
use pilot_proto::{
    transport::{Dialect, Options, State},
    wire::{packet::Flags, sack::SackBlocks},
};

const MS: Duration = Duration::from_millis(1);

fn speaking(dialect: Dialect) -> Options {
    Options { max_segment: 1000, ..options(dialect) }
}

/// G2 numbers segments as RFC 9293; a SYN-ACK for another SYN is dropped.
#[test]
fn a_foreign_syn_ack_is_dropped_and_counted() {
    let mut script = Script::connecting(speaking(Dialect::G2));
    script.recv(SYN_ACK, 0, 7, WINDOW, &[]);
    assert_eq!((script.connection.state(), script.sent()), (State::SynSent, vec![]));
    assert_eq!(script.connection.stats().counters.unacceptable, 1);
}

/// Data that looks like SACK is split, in new segments and in tail loss probes.
#[test]
fn data_that_looks_like_sack_is_split() {
    let report = [b"SACK\x02".as_slice(), &[0; 16]].concat();
    for dialect in [Dialect::G1, Dialect::G2, Dialect::Native] {
        let mut script = Script::established(Options { max_segment: report.len(), ..options(dialect) }, 50);
        script.recv(ACK, 1, 1, 1, &[]);
        assert_eq!(script.connection.send(&report.repeat(1000)), Ok(21_000));
        let mut sent = script.sent();
        script.recv(ACK, 1, 1, WINDOW, &[]);
        sent.extend(script.sent());
        sent.extend(script.wait(190 * MS));
        assert_eq!(script.connection.stats().counters.loss_probes, 1);
        let payloads: Vec<_> = sent.iter().filter(|out| !out.payload.is_empty()).collect();
        assert!(payloads.iter().any(|out| out.payload == b"SA"), "{payloads:?}");
        assert!(payloads.iter().all(|out| SackBlocks::parse(&out.payload).is_err()));
    }
}

/// G1 needs three duplicate ACKs without SACK to retransmit.
#[test]
fn g1_is_sent_three_duplicate_acks_per_gap() {
    for (dialect, empty) in [(Dialect::G1, [1, 1, 1, 0, 0]), (Dialect::G2, [0; 5]), (Dialect::Native, [0; 5])]
    {
        let mut script = Script::established(speaking(dialect), 50);
        for gap in [0, 10] {
            for (n, expected) in (gap + 1..).zip(empty) {
                script.recv(ACK, seg(n), 1, WINDOW, &[b'y'; 1000]);
                let sent = script.sent();
                let is_empty = |out: &&Out| out.flags == ACK && out.payload.is_empty();
                assert_eq!(sent.iter().filter(is_empty).count(), expected, "{dialect:?} {n}: {sent:?}");
                assert_eq!(sent.len(), expected + 1, "and one with SACK");
            }
            for n in [gap, gap + 6, gap + 7, gap + 8, gap + 9] {
                script.recv(ACK, seg(n), 1, WINDOW, &[b'y'; 1000]);
                script.sent();
            }
        }
        assert_eq!(script.connection.readable(), 20_000);
    }
}

#[test]
fn a_zero_window_in_a_g1_keepalive_is_ignored() {
    for (dialect, is_closed) in [(Dialect::G1, false), (Dialect::G2, true), (Dialect::Native, true)] {
        let mut script = Script::established(speaking(dialect), 50);
        script.recv(ACK, 1, 1, 0, &[]);
        assert_eq!(script.connection.stats().snd_wnd == 0, is_closed, "{dialect:?}");
    }
    // With data or a new ACK the zero window applies, as does any other window.
    let g1 = || {
        let mut script = Script::established(speaking(Dialect::G1), 50);
        script.write(3000);
        script.data();
        script
    };
    for (ack, window, payload, slots) in [(1, 0, &b"y"[..], 0), (seg(2), 0, &[], 0), (1, 7, &[], 7)] {
        let mut script = g1();
        script.recv(ACK, 1, ack, window, payload);
        assert_eq!(script.connection.stats().snd_wnd, slots * 4096);
    }
}

/// Keepalives of legacy peers have arbitrary numbers, and legacy peers answer answers.
#[test]
fn legacy_keepalives_are_not_answered() {
    for (dialect, answers) in [(Dialect::G1, 0), (Dialect::G2, 0), (Dialect::Native, 1)] {
        let mut script = Script::established(speaking(dialect), 50);
        script.recv(ACK, 0, 1, WINDOW, &[]);
        assert_eq!(script.sent().len(), answers, "{dialect:?}");
    }
}

/// A legacy peer that sends data has received our SYN-ACK.
#[test]
fn a_legacy_peer_that_sends_data_needs_no_syn_ack() {
    for dialect in [Dialect::G1, Dialect::G2] {
        let mut script = Script::accepting(speaking(dialect));
        script.recv(Flags::SYN, 0, 0, WINDOW, &[]);
        assert_eq!(script.sent()[0].flags, SYN_ACK, "{dialect:?}");
        script.recv(Flags::SYN, 0, 0, WINDOW, &[]);
        script.recv(ACK, 1, 1, WINDOW, b"y");
        assert_eq!(script.sent()[0].flags, ACK, "{dialect:?}");
        assert_eq!(script.wait(2000 * MS), [], "{dialect:?}");
    }
}

/// A legacy peer would answer the FIN in our answer.
#[test]
fn legacy_segments_after_the_end_are_not_answered() {
    for (dialect, answers) in [(Dialect::G1, 0), (Dialect::G2, 0), (Dialect::Native, 1)] {
        let mut script = Script::established(speaking(dialect), 50);
        script.connection.close(script.now);
        script.sent();
        script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
        assert_eq!(script.connection.state(), State::TimeWait, "{dialect:?}");
        script.sent();
        script.recv(ACK, 0, 2, WINDOW, b"y");
        assert_eq!(script.sent().len(), answers, "{dialect:?}");
        // FIN is answered, FIN|ACK is not.
        script.recv(Flags::FIN, 1, 0, WINDOW, &[]);
        script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
        assert_eq!(script.sent().len(), 1, "{dialect:?}");
        script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
        assert_eq!(script.sent().len(), answers, "{dialect:?}");
    }
}

/// FIN of a legacy peer ends both directions. FIN|ACK tells it so, unless it is what ours was answered with.
#[test]
fn a_fin_of_a_legacy_peer_is_answered_and_an_answer_is_not() {
    for dialect in [Dialect::G1, Dialect::G2] {
        let mut script = Script::established(speaking(dialect), 50);
        script.recv(Flags::FIN, 1, 0, WINDOW, &[]);
        assert_eq!(script.connection.state(), State::TimeWait, "{dialect:?}");
        assert_eq!(script.sent().iter().map(|out| out.flags).collect::<Vec<_>>(), [FIN_ACK], "{dialect:?}");
        let mut script = Script::established(speaking(dialect), 50);
        script.connection.close(script.now);
        script.sent();
        script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
        assert_eq!((script.connection.state(), script.sent()), (State::TimeWait, vec![]), "{dialect:?}");
    }
}

/// RFC 9293 section 3.10.7.4 (SND.WL1, SND.WL2) keeps what was overtaken from moving the window. Old
/// peers do not keep their numbers, so each of their segments does.
#[test]
fn only_a_legacy_peer_moves_the_window_with_a_segment_that_was_overtaken() {
    for (dialect, is_moved) in [(Dialect::G1, true), (Dialect::Native, false)] {
        let mut script = Script::established(speaking(dialect), 50);
        script.write(3000);
        script.data();
        let mut window_after = |seq, ack, window, payload: &[u8]| {
            script.recv(ACK, seq, ack, window, payload);
            script.connection.stats().snd_wnd / 4096
        };
        assert_eq!(window_after(1, seg(2), 100, &[]), 100);
        // Reordered behind an acknowledgement, then behind data.
        assert_eq!(window_after(1, seg(1), 90, &[]), if is_moved { 90 } else { 100 }, "{dialect:?}");
        assert_eq!(window_after(5, seg(2), 80, b"y"), 80);
        assert_eq!(window_after(1, seg(3), 70, &[]), if is_moved { 70 } else { 80 }, "{dialect:?}");
    }
}

/// A legacy peer takes a window to mean segments, so that is what bounds what is on its way.
#[test]
fn a_legacy_peer_is_sent_no_more_segments_than_its_slots() {
    for (dialect, slots, expected) in
        [(Dialect::G1, 5, 5), (Dialect::G2, 5, 5), (Dialect::Native, 5, 20), (Dialect::G1, 0, 0)]
    {
        let mut script = Script::established(speaking(dialect), 50);
        script.recv(ACK, 1, 1, slots, b"y");
        script.write(100_000);
        assert_eq!(script.data().len(), expected, "{dialect:?} {slots}");
    }
}

/// G1 repeats its SYN-ACK with the number it would use now, which counts data that is lost as well.
#[test]
fn a_repeated_syn_ack_of_g1_may_have_drifted() {
    for (syns, seq, first) in [(1, 0, 1), (1, 5000, 5001), (2, 5000, 1)] {
        let mut script = Script::connecting(speaking(Dialect::G1));
        if syns > 1 {
            script.wait(1100 * MS);
        }
        script.recv(SYN_ACK, seq, 77, WINDOW, &[]);
        assert_eq!(script.connection.state(), State::Established);
        script.recv(ACK, first, 1, WINDOW, b"first");
        assert_eq!(script.connection.readable(), 5, "{syns} SYNs");
    }
}

/// A SYN that was sent twice measures nothing (RFC 6298 section 3), whoever speaks.
#[test]
fn only_a_syn_that_was_sent_once_measures_the_round_trip() {
    for dialect in [Dialect::Native, Dialect::G1, Dialect::G2] {
        for (ms, srtt) in [(70, 70), (1070, 0)] {
            let mut script = Script::connecting(speaking(dialect));
            script.wait(ms * MS);
            script.recv(SYN_ACK, 0, 1, WINDOW, &[]);
            assert_eq!(script.connection.stats().srtt_ns, srtt * 1_000_000, "{dialect:?}");
        }
    }
    for (ms, srtt) in [(70, 70), (1070, 0)] {
        let mut script = Script::accepting(speaking(Dialect::Native));
        script.wait(ms * MS);
        script.recv(ACK, 1, 1, WINDOW, &[]);
        assert_eq!(script.connection.stats().srtt_ns, srtt * 1_000_000);
    }
}

/// A legacy peer acts on FIN at once, even when data before it is missing.
#[test]
fn fin_to_a_legacy_peer_waits_until_all_data_is_acknowledged() {
    for (dialect, is_held) in [(Dialect::G1, true), (Dialect::G2, true), (Dialect::Native, false)] {
        let mut script = Script::established(speaking(dialect), 50);
        script.write(2000);
        script.connection.close(script.now);
        let has_fin = |sent: &[Out]| sent.iter().any(|out| out.flags.contains(Flags::FIN));
        assert_eq!(has_fin(&script.sent()), !is_held, "{dialect:?}");
        script.ack(seg(1));
        assert!(!has_fin(&script.sent()));
        script.ack(seg(2));
        assert_eq!(has_fin(&script.sent()), is_held, "{dialect:?}");
    }
}
