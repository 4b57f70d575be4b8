//! What is written and not acknowledged is bounded for a peer and in all, and so is what small
//! segments beyond gaps take.

use std::time::Duration;

use crate::script::{ACK, Out, Script, WINDOW, plain, seg};
use pilot_proto::{
    config::NodeConfig,
    node::DialOptions,
    transport::{ConnectionEvent, Supply},
};
use pilot_sim::{Path, World};

const SECOND: Duration = Duration::from_secs(1);

/// Writes all that is taken for a round trip, and acknowledges what left in the one before.
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

/// The peer acknowledges all it gets for a while, then nothing.
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

/// Whoever has nothing on its way may write a segment, and is told when there is more room.
#[test]
fn an_exhausted_writer_is_told_when_it_may_go_on() {
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

/// The records of what was sent count, and all of it is given back.
#[test]
fn what_was_sent_counts_at_its_real_cost() {
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
fn single_bytes_beyond_gaps_take_little() {
    let mut script = Script::established(plain(), 50);
    for n in 0..30_000 {
        script.recv(ACK, 3 + 2 * n, 1, WINDOW, b"x");
    }
    let stats = script.connection.stats();
    assert!(script.connection.held() < 128 << 10, "{}", script.connection.held());
    assert!(stats.counters.reassembly_overflow > 28_000);
    // What repairs the gap is taken, and what lies in useful segments beyond.
    script.recv(ACK, seg(100), 1, WINDOW, &[b'y'; 1000]);
    assert_eq!(script.connection.stats().counters.reassembly_overflow, stats.counters.reassembly_overflow);
    script.recv(ACK, 1, 1, WINDOW, b"abcd");
    assert!(script.connection.readable() >= 4);
}

/// Many small unread streams hold chunks, not bytes.
#[test]
fn what_is_unread_counts_at_its_real_cost() {
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

/// A peer downloads on many streams and then acknowledges nothing: it fills its share, and another
/// peer's transfer goes on as if it were alone.
#[test]
fn a_peer_that_acknowledges_nothing_fills_its_share_and_harms_no_other() {
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

    // It is given up, and leaves nothing.
    world.run_for(140 * SECOND);
    assert!(flows.iter().all(|flow| world.flow(*flow).closed.is_some()));
    assert_eq!(world.node(server).stats().send_held, 0);
}
