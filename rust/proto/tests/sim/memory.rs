//! Memory limits of send buffers, receive buffers and reassembly, per peer and in total.

use std::time::Duration;

use crate::script::{ACK, Out, Script, WINDOW, plain, seg};
use pilot_proto::{
    config::NodeConfig,
    node::DialOptions,
    transport::{ConnectionEvent, Supply},
};
use pilot_sim::{Path, World};

const SECOND: Duration = Duration::from_secs(1);

/// Writes as much as is accepted for one RTT, and acknowledges the data of the previous one.
fn write_for_a_round(script: &mut Script, supply: Supply, end: &mut u32) {
    if *end > 0 {
        script.ack(*end);
    }
    for _ in 0..50 {
        script.connection.set_send_supply(supply);
        while script.connection.send(&vec![7; 1 << 20]).unwrap() > 0 {
            *end = script.data().last().map_or(*end, |(seq, len)| seq + *len as u32);
        }
        let sent = script.wait(Duration::from_millis(1));
        *end = sent.iter().filter_map(Out::data).next_back().map_or(*end, |(seq, len)| seq + len as u32);
    }
}

/// The peer acknowledges everything for a while, then nothing.
#[test]
fn send_buffers_stop_growing_while_memory_is_scarce() {
    let held = |supply| {
        let (mut script, mut end) = (Script::established(plain(), 50), 0);
        for _ in 0..8 {
            write_for_a_round(&mut script, supply, &mut end);
        }
        script.connection.send_held()
    };
    let [ample, scarce, exhausted] = [Supply::Ample, Supply::Scarce, Supply::Exhausted].map(held);
    assert!(ample > 512 << 10, "{ample}");
    assert!(scarce <= 400 << 10, "{scarce}");
    assert!(exhausted <= 16 << 10, "{exhausted}");
}

/// With nothing outstanding one segment may be written, and Writable follows.
#[test]
fn a_writer_without_memory_is_woken() {
    let mut script = Script::established(plain(), 50);
    script.connection.set_send_supply(Supply::Exhausted);
    assert_eq!(script.connection.send(&[7; 10_000]), Ok(4096));
    assert_eq!(script.connection.send(&[7; 10_000]), Ok(0));
    script.connection.set_no_delay(true);
    assert_eq!(script.data().len(), 5);
    script.events();
    script.ack(seg(1));
    assert_eq!(script.events(), []);
    script.ack(4097);
    assert_eq!(script.events(), [ConnectionEvent::Writable]);
    assert_eq!(script.connection.send(&[7; 10_000]), Ok(4096));
    script.data();
    assert_eq!(script.connection.send(&[7; 10_000]), Ok(0));
    script.connection.set_send_supply(Supply::Ample);
    script.ack(4097 + 4096);
    assert_eq!(script.events(), [ConnectionEvent::Writable]);
    assert_eq!(script.connection.send(&[7; 10_000]), Ok(10_000));
}

/// The retransmission queue counts, and all memory is released.
#[test]
fn sent_data_is_accounted_with_overhead() {
    let mut script = Script::established(plain(), 50);
    assert_eq!(script.connection.send_held(), 0);
    script.write(40_000);
    assert_eq!(script.connection.send_held(), 4096 + 65_536);
    script.data();
    assert!(script.connection.send_held() > 4096 + 65_536 + 40 * 64);
    script.ack(seg(40));
    assert_eq!(script.connection.send_held(), 0);
}

#[test]
fn single_byte_segments_beyond_gaps_are_bounded() {
    let mut script = Script::established(plain(), 50);
    for n in 0..30_000 {
        script.recv(ACK, 3 + 2 * n, 1, WINDOW, b"x");
    }
    let stats = script.connection.stats();
    assert!(script.connection.held() < 128 << 10, "{}", script.connection.held());
    assert!(stats.counters.reassembly_overflow > 28_000);
    // Segments that fill the gap, and larger segments beyond it, are accepted.
    script.recv(ACK, seg(100), 1, WINDOW, &[b'y'; 1000]);
    assert_eq!(script.connection.stats().counters.reassembly_overflow, stats.counters.reassembly_overflow);
    script.recv(ACK, 1, 1, WINDOW, b"abcd");
    assert!(script.connection.readable() >= 4);
}

/// Unread data is accounted in chunks.
#[test]
fn unread_data_is_accounted_with_overhead() {
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, WINDOW, b"x");
    assert_eq!(script.connection.held(), 4096);
    script.recv(ACK, 2, 1, WINDOW, &[b'x'; 5000]);
    assert_eq!(script.connection.held(), 4096 + 65_536);
    script.connection.recv_consume(5001);
    assert_eq!(script.connection.held(), 65_536, "one chunk is kept for what comes next");
    script.wait(31 * SECOND);
    assert_eq!(script.connection.held(), 0, "and given back after a pause");
}

/// A peer downloads on many streams and stops acknowledging: it fills only its share, and another peer's
/// transfer is not slowed down.
#[test]
fn a_silent_peer_fills_only_its_share() {
    const LIMIT: usize = 16 << 20;
    let config = NodeConfig { send_memory: LIMIT, ..NodeConfig::default() };
    let latency = Duration::from_millis(5);
    let mut world = World::new(1, config, Path { latency, ..Path::default() });
    let [hostile, server, honest] = [(); 3].map(|()| world.add_host());
    let flows: Vec<_> = (0..60)
        .map(|_| world.start_flow(server, hostile, u64::MAX, DialOptions::default(), false).unwrap())
        .collect();
    world.run_until(SECOND, |world| flows.iter().all(|flow| world.flow(*flow).connected.is_some())).unwrap();
    world.set_partition(hostile, server, true);
    world.run_for(10 * SECOND);
    let held = world.node(server).stats().send_held;
    assert!((LIMIT / 5..LIMIT / 4 + 60 * 70_000).contains(&held), "{held}");

    let total = 20_000_000;
    let flow = world.start_flow(server, honest, total, DialOptions::default(), false).unwrap();
    world.run_until(20 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();

    // The connection times out and releases its memory.
    world.run_for(140 * SECOND);
    assert!(flows.iter().all(|flow| world.flow(*flow).closed.is_some()));
    assert_eq!(world.node(server).stats().send_held, 0);
}
