//! The counters shown by `info`, one per kind of sent, received or dropped segment.

use std::{sync::Arc, time::Duration};

use crate::{
    pair::options,
    script::{ACK, FIN_ACK, SYN_ACK, Script, WINDOW},
};
use pilot_proto::{
    config::TransportConfig,
    transport::{Counters, Dialect, Options},
    wire::packet::Flags,
};

const MS: Duration = Duration::from_millis(1);

fn plain() -> Options {
    Options { max_segment: 1000, ..options(Dialect::Native) }
}

#[test]
fn sent_and_retransmitted_segments_are_counted() {
    let mut script = Script::established(plain(), 50);
    script.write(5500);
    assert_eq!(script.data().len(), 6);
    // Two segments of the tail are lost; the probe shows it.
    script.now += 50 * MS;
    script.ack(4001);
    script.wait(101 * MS);
    script.now += 50 * MS;
    script.sack(4001, &[(5001, 5501)]);
    script.wait(20 * MS);
    script.now += 50 * MS;
    script.ack(5501);
    // The tail loss probe is lost as well, so the timer retransmits.
    script.write(1000);
    script.data();
    script.wait(500 * MS);
    script.ack(6501);
    let expected = Counters {
        bytes_sent: 6500,
        segs_sent: 7 + 4,
        loss_probes: 2,
        fast_retx: 1,
        retransmits: 1,
        sack_recv: 1,
        dup_acks: 1,
        ..Counters::default()
    };
    assert_eq!(script.connection.stats().counters, expected);
}

#[test]
fn a_fin_is_not_counted_as_data() {
    let mut script = Script::established(plain(), 50);
    script.write(1000);
    script.connection.shutdown();
    assert_eq!(script.sent().len(), 2);
    assert_eq!(script.connection.stats().counters.segs_sent, 1);
}

#[test]
fn received_and_dropped_segments_are_counted() {
    let config = TransportConfig { out_of_order_segments: 1, ..TransportConfig::default() };
    let mut script = Script::established(Options { config: Arc::new(config), ..plain() }, 50);
    let counters = |script: &Script| script.connection.stats().counters;
    for (seq, payload) in [(1, "abc"), (1, "abc"), (2, "bcd"), (10, "j"), (12, "l"), (10, "j")] {
        script.recv(ACK, seq, 1, WINDOW, payload.as_bytes());
        script.sent();
    }
    let expected = Counters {
        bytes_recv: 4,
        segs_recv: 6,
        duplicates: 1,
        // The buffer is full; repeated segments count as dropped too.
        reassembly_overflow: 2,
        sack_sent: 3,
        ..Counters::default()
    };
    assert_eq!(counters(&script), expected);
    // An acknowledgement of what was never sent, a SYN out of time, FINs that contradict each other,
    // data beyond a FIN.
    script.ack(1000);
    script.recv(Flags::SYN, 500, 0, WINDOW, &[]);
    script.recv(FIN_ACK, 11, 1, WINDOW, &[]);
    script.recv(FIN_ACK, 12, 1, WINDOW, &[]);
    script.recv(ACK, 11, 1, WINDOW, b"k");
    assert_eq!(counters(&script).unacceptable, 4);
    script.recv(ACK, 5, 1, WINDOW, b"efghi");
    script.recv(ACK, 11, 1, WINDOW, b"k");
    assert_eq!(counters(&script).unacceptable, 5, "data after the end");
}

#[test]
fn a_syn_ack_for_another_syn_is_counted() {
    let mut script = Script::connecting(plain());
    script.recv(SYN_ACK, 0, 7, WINDOW, &[]);
    script.recv(ACK, 0, 1, WINDOW, &[]);
    assert_eq!(script.connection.stats().counters.unacceptable, 2);
}
