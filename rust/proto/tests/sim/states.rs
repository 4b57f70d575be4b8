//! The state machine of RFC 9293 (figure 5 and section 3.10) as a table that is run.

use std::{sync::Arc, time::Duration};

use crate::{
    pair::options,
    script::{ACK, FIN_ACK, RST, SYN_ACK, Script, WINDOW, header},
};
use pilot_proto::{
    config::TransportConfig,
    transport::{Dialect, Options, SendError, State, reset_for},
    wire::packet::Flags,
};

const SECOND: Duration = Duration::from_secs(1);

/// A state, what happens in it, the state after it, and what leaves at once (`-` for nothing).
///
/// Inputs: `syn` and `syn-ack` of an open; `old-syn`, the peer's first again; `fin`, `ack-of-fin`,
/// `data`, and `old-data` that was received before; `old-ack` and `old-fin`, which acknowledge nothing of
/// ours; `rst` in the window and `wild-rst` outside; `wild-ack` for what was never sent; the calls
/// `shutdown`, `close` and `abort`; `wait`, the end of a state that ends by itself.
const TABLE: &str = "
    SYN-SENT      syn-ack     ESTABLISHED   ack
    SYN-SENT      syn         SYN-RECEIVED  syn-ack
    SYN-SENT      fin         SYN-SENT      -
    SYN-SENT      data        SYN-SENT      -
    SYN-SENT      wild-ack    SYN-SENT      rst
    SYN-SENT      rst         CLOSED        -
    SYN-SENT      wild-rst    SYN-SENT      -
    SYN-SENT      close       CLOSED        -
    SYN-SENT      abort       CLOSED        -
    SYN-RECEIVED  ack         ESTABLISHED   -
    SYN-RECEIVED  data        ESTABLISHED   ack
    SYN-RECEIVED  old-syn     SYN-RECEIVED  syn-ack
    SYN-RECEIVED  rst         CLOSED        -
    SYN-RECEIVED  wild-rst    SYN-RECEIVED  -
    SYN-RECEIVED  wild-ack    SYN-RECEIVED  -
    SYN-RECEIVED  old-ack     SYN-RECEIVED  -
    SYN-RECEIVED  old-fin     SYN-RECEIVED  -
    SYN-RECEIVED  abort       CLOSED        rst
    ESTABLISHED   data        ESTABLISHED   ack
    ESTABLISHED   fin         CLOSE-WAIT    ack
    ESTABLISHED   rst         CLOSED        -
    ESTABLISHED   wild-rst    ESTABLISHED   -
    ESTABLISHED   old-syn     ESTABLISHED   any
    ESTABLISHED   wild-ack    ESTABLISHED   ack
    ESTABLISHED   shutdown    FIN-WAIT-1    fin
    ESTABLISHED   close       FIN-WAIT-1    fin
    ESTABLISHED   abort       CLOSED        rst
    FIN-WAIT-1    ack-of-fin  FIN-WAIT-2    -
    FIN-WAIT-1    fin         CLOSING       ack
    FIN-WAIT-1    both        TIME-WAIT     ack
    FIN-WAIT-1    data        FIN-WAIT-1    ack
    FIN-WAIT-1    rst         CLOSED        -
    FIN-WAIT-1    wild-ack    FIN-WAIT-1    ack
    FIN-WAIT-1    abort       CLOSED        rst
    FIN-WAIT-2    fin         TIME-WAIT     ack
    FIN-WAIT-2    data        FIN-WAIT-2    ack
    FIN-WAIT-2    rst         CLOSED        -
    FIN-WAIT-2    abort       CLOSED        rst
    CLOSE-WAIT    old-data    CLOSE-WAIT    ack
    CLOSE-WAIT    ack         CLOSE-WAIT    -
    CLOSE-WAIT    fin         CLOSE-WAIT    any
    CLOSE-WAIT    shutdown    LAST-ACK      fin
    CLOSE-WAIT    rst         CLOSED        -
    CLOSE-WAIT    abort       CLOSED        rst
    CLOSING       old-data    CLOSING       ack
    CLOSING       ack-of-fin  TIME-WAIT     -
    CLOSING       rst         CLOSED        -
    CLOSING       abort       CLOSED        rst
    LAST-ACK      old-data    LAST-ACK      ack
    LAST-ACK      ack-of-fin  CLOSED        -
    LAST-ACK      fin         LAST-ACK      any
    LAST-ACK      rst         CLOSED        -
    LAST-ACK      abort       CLOSED        rst
    TIME-WAIT     old-data    TIME-WAIT     ack
    TIME-WAIT     fin         TIME-WAIT     ack
    TIME-WAIT     rst         CLOSED        -
    TIME-WAIT     abort       CLOSED        -
    TIME-WAIT     wait        CLOSED        -
    CLOSED        data        CLOSED        -
    CLOSED        fin         CLOSED        -
    CLOSED        rst         CLOSED        -
    CLOSED        shutdown    CLOSED        -
    CLOSED        abort       CLOSED        -
";

fn in_state(name: &str) -> Script {
    let options = options(Dialect::Native);
    let mut script = match name {
        "SYN-SENT" => return Script::connecting(options),
        "SYN-RECEIVED" => return Script::accepting(options),
        _ => Script::established(options, 20),
    };
    let finish = |script: &mut Script| {
        script.connection.shutdown();
        script.sent();
    };
    match name {
        "ESTABLISHED" => {}
        "FIN-WAIT-1" => finish(&mut script),
        "FIN-WAIT-2" => {
            finish(&mut script);
            script.ack(2);
        }
        "CLOSE-WAIT" => script.recv(FIN_ACK, 1, 1, WINDOW, &[]),
        "CLOSING" => {
            finish(&mut script);
            script.recv(FIN_ACK, 1, 1, WINDOW, &[]);
        }
        "LAST-ACK" => {
            script.recv(FIN_ACK, 1, 1, WINDOW, &[]);
            script.sent();
            finish(&mut script);
        }
        "TIME-WAIT" => {
            finish(&mut script);
            script.recv(FIN_ACK, 1, 2, WINDOW, &[]);
        }
        "CLOSED" => script.recv(RST, 1, 1, WINDOW, &[]),
        other => panic!("no such state: {other}"),
    }
    script.sent();
    assert_eq!(script.connection.state().to_string(), name);
    script
}

fn happen(script: &mut Script, input: &str) {
    let has_finished = matches!(script.connection.state(), State::FinWait2 | State::TimeWait | State::Closed);
    // What the peer acknowledges: our SYN, and our FIN once it did.
    let ack = if has_finished { 2 } else { 1 };
    let now = script.now;
    match input {
        "syn" | "old-syn" => script.recv(Flags::SYN, 0, 0, WINDOW, &[]),
        "syn-ack" => script.recv(SYN_ACK, 0, 1, WINDOW, &[]),
        "ack" if script.connection.state() == State::CloseWait => script.recv(ACK, 2, 1, WINDOW, &[]),
        "ack" => script.recv(ACK, 1, 1, WINDOW, &[]),
        "data" => script.recv(ACK, 1, ack, WINDOW, b"data"),
        "old-data" => script.recv(ACK, 0, ack, WINDOW, b"d"),
        "old-ack" => script.recv(ACK, 1, 0, WINDOW, b"data"),
        "old-fin" => script.recv(FIN_ACK, 1, 0, WINDOW, &[]),
        "fin" => script.recv(FIN_ACK, 1, ack, WINDOW, &[]),
        "ack-of-fin" => script.recv(ACK, 2, 2, WINDOW, &[]),
        "both" => script.recv(FIN_ACK, 1, 2, WINDOW, &[]),
        "rst" if script.connection.state() == State::SynSent => {
            script.recv(RST.union(ACK), 0, 1, 0, &[]);
        }
        "rst"
            if matches!(
                script.connection.state(),
                State::CloseWait | State::Closing | State::LastAck | State::TimeWait
            ) =>
        {
            script.recv(RST, 2, 0, 0, &[]);
        }
        "rst" => script.recv(RST, 1, 0, 0, &[]),
        "wild-rst" => script.recv(RST, 0x7000_0000, 0, 0, &[]),
        "wild-ack" => script.recv(ACK, 1, 0x1000_0000, WINDOW, &[]),
        "shutdown" => script.connection.shutdown(),
        "close" => script.connection.close(now),
        "abort" => script.connection.abort(now),
        "wait" => {
            script.wait(Duration::from_secs(11));
        }
        other => panic!("no such input: {other}"),
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| !row.is_empty())
        .collect();
    for row in &rows {
        let [before, input, after, emits] = row[..] else { panic!("not a row: {row:?}") };
        let mut script = in_state(before);
        happen(&mut script, input);
        let sent = script.sent();
        assert_eq!(script.connection.state().to_string(), after, "{row:?}");
        let is_as_said = match emits {
            "any" => true,
            "-" => sent.is_empty(),
            "ack" => sent.len() == 1 && sent[0].flags == ACK,
            "syn-ack" => sent.len() == 1 && sent[0].flags == SYN_ACK,
            "fin" => sent.len() == 1 && sent[0].flags == FIN_ACK,
            "rst" => sent.len() == 1 && sent[0].flags.contains(RST),
            other => panic!("no such segment: {other}"),
        };
        assert!(is_as_said, "{row:?} sent {sent:?}");
    }
    let states: std::collections::BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(states.len(), 10, "every state but LISTEN, which the node holds: {states:?}");
}

/// Section 3.10.7.4, fifth check: without ACK a segment is dropped.
#[test]
fn nothing_without_ack_is_taken() {
    let mut script = in_state("ESTABLISHED");
    script.recv(Flags::FIN, 1, 0, WINDOW, &[]);
    script.recv(Flags::from_bits(0), 1, 0, WINDOW, b"data");
    assert_eq!((script.connection.readable(), script.sent()), (0, vec![]));
    script.wait(11 * SECOND);
    assert_eq!(script.connection.state(), State::Established);
    assert_eq!(script.connection.stats().counters.unacceptable, 2);
}

/// Section 3.10.7.4, fifth check: until our SYN is acknowledged nothing that arrives is taken.
#[test]
fn data_that_acknowledges_another_syn_is_not_taken() {
    let mut script = in_state("SYN-RECEIVED");
    happen(&mut script, "old-ack");
    assert_eq!(script.connection.readable(), 0);
    happen(&mut script, "data");
    assert_eq!(script.connection.readable(), 4);
}

/// Section 3.6.1 asks for a reset when nobody will read what arrives, not when it was read already.
#[test]
fn a_repetition_does_not_reset_a_connection_that_was_closed() {
    for state in ["FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK"] {
        let mut script = in_state(state);
        happen(&mut script, "close");
        happen(&mut script, "old-data");
        let sent = script.sent();
        assert!(sent.len() == 1 && sent[0].flags == ACK, "{state}: {sent:?}");
        assert_ne!(script.connection.state(), State::Closed);
        let counters = script.connection.stats().counters;
        assert_eq!(counters.unacceptable + counters.duplicates, 1);
    }
}

/// Section 3.6.1 again: one byte that is new is enough.
#[test]
fn data_that_nobody_will_read_resets_a_connection_that_was_closed() {
    for state in ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"] {
        for (seq, payload) in [(1, &b"y"[..]), (0, b"xy")] {
            let mut script = in_state(state);
            happen(&mut script, "close");
            script.sent();
            script.recv(ACK, seq, 1, WINDOW, payload);
            let sent = script.sent();
            assert!(sent.len() == 1 && sent[0].flags.contains(RST), "{state}: {sent:?}");
            assert_eq!(script.connection.state(), State::Closed);
        }
    }
}

/// Section 3.10.7.1: the answer to what belongs to no connection takes the place of what it answers.
#[test]
fn a_stray_segment_is_reset_with_numbers_that_fit() {
    let reset = |flags, payload: &[u8]| {
        reset_for(&header(flags, 100, 7, WINDOW), payload.len())
            .map(|reset| (reset.flags, reset.seq.value(), reset.ack.value()))
    };
    let fin = Flags::FIN;
    for (flags, payload, expected) in [
        (ACK, &b"data"[..], Some((RST, 7, 0))),
        (FIN_ACK, &[], Some((RST, 7, 0))),
        (Flags::SYN, &[], Some((RST.union(ACK), 0, 101))),
        (fin, b"data", Some((RST.union(ACK), 0, 105))),
        (Flags::SYN.union(fin), b"data", Some((RST.union(ACK), 0, 106))),
        (RST, &[], None),
        (RST.union(ACK), &[], None),
    ] {
        assert_eq!(reset(flags, payload), expected, "{flags:?}");
    }
}

/// Section 3.10.8: who gives up an attempt has nobody to reset.
#[test]
fn only_a_peer_that_answered_is_reset_when_the_idle_time_is_over() {
    let config =
        TransportConfig { idle_timeout: 5 * SECOND, keepalive: SECOND, ..TransportConfig::default() };
    let options = Options { config: Arc::new(config), ..options(Dialect::Native) };
    for (mut script, is_reset) in [
        (Script::connecting(options.clone()), false),
        (Script::accepting(options.clone()), true),
        (Script::established(options, 20), true),
    ] {
        let sent = script.wait(7 * SECOND);
        assert_eq!(script.connection.state(), State::Closed);
        assert_eq!(sent.iter().any(|out| out.flags.contains(RST)), is_reset, "{sent:?}");
    }
}

/// Section 3.10.2: what may be written, and what not after the end was announced.
#[test]
fn data_is_taken_before_our_fin_only() {
    for (state, is_open) in [
        ("SYN-SENT", true),
        ("SYN-RECEIVED", true),
        ("ESTABLISHED", true),
        ("FIN-WAIT-1", false),
        ("FIN-WAIT-2", false),
        ("CLOSE-WAIT", true),
        ("CLOSING", false),
        ("LAST-ACK", false),
        ("TIME-WAIT", false),
    ] {
        let mut script = in_state(state);
        let closed = Err(SendError::Closed);
        assert_eq!(script.connection.send(b"x"), if is_open { Ok(1) } else { closed }, "{state}");
        script.connection.shutdown();
        assert_eq!(script.connection.send(b"x"), closed, "{state}");
    }
}

#[test]
fn a_connection_that_ended_holds_no_data() {
    for end in ["rst", "abort"] {
        let mut script = in_state("ESTABLISHED");
        script.connection.send(&[b'x'; 100_000]).unwrap();
        script.recv(ACK, 100, 1, WINDOW, b"beyond a gap");
        script.sent();
        happen(&mut script, end);
        script.sent();
        let stats = script.connection.stats();
        assert_eq!((stats.unacked, stats.in_flight, stats.ooo_buf), (0, 0, 0), "{end}");
        assert_eq!(script.connection.poll_timeout(), None, "{end}");
    }
}

#[test]
fn every_state_repeats_its_segment_until_it_is_answered() {
    for (state, expected) in [
        ("SYN-SENT", Flags::SYN),
        ("SYN-RECEIVED", SYN_ACK),
        ("FIN-WAIT-1", FIN_ACK),
        ("CLOSING", FIN_ACK),
        ("LAST-ACK", FIN_ACK),
    ] {
        let mut script = in_state(state);
        let sent = script.wait(Duration::from_millis(1500));
        assert!(sent.iter().any(|out| out.flags == expected), "{state}: {sent:?}");
    }
}

/// RFC 9293 section 3.5.1, half-open connections: the peer still holds a connection of ours from before
/// a crash, between the same ports. Its acknowledgement of that one makes us reset it.
#[test]
fn a_dial_resets_what_the_peer_holds_from_an_earlier_life() {
    let mut script = Script::connecting(options(Dialect::Native));
    for ack in [5000, 0] {
        script.recv(ACK, 7000, ack, WINDOW, &[]);
        let sent = script.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!((sent[0].flags, sent[0].seq), (RST, ack));
        assert_eq!(script.connection.state(), State::SynSent);
    }
    script.recv(SYN_ACK, 0, 5000, WINDOW, &[]);
    assert_eq!(script.sent().iter().map(|out| (out.flags, out.seq)).collect::<Vec<_>>(), [(RST, 5000)]);
    script.recv(SYN_ACK, 0, 1, WINDOW, &[]);
    assert_eq!(script.connection.state(), State::Established);
}

/// Figure 5, simultaneous open: only the SYN-ACK that answers our SYN opens the connection.
#[test]
fn a_foreign_syn_ack_does_not_end_a_simultaneous_open() {
    let mut script = Script::connecting(options(Dialect::Native));
    script.recv(Flags::SYN, 0, 0, WINDOW, &[]);
    assert_eq!(script.sent()[0].flags, SYN_ACK);
    script.recv(SYN_ACK, 0, 7, WINDOW, &[]);
    assert_eq!(script.connection.state(), State::SynReceived);
    script.recv(SYN_ACK, 0, 1, WINDOW, &[]);
    assert_eq!(script.connection.state(), State::Established);
}
