//! Segments that fit their path, whatever its MTU is and becomes.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions};
use pilot_sim::{ETHERNET, FlowId, Path, World};

/// Octets around a segment in a UDP datagram.
const AROUND: usize = 70;
const SECOND: Duration = Duration::from_secs(1);
/// Octets per second.
const RATE: u64 = 5_000_000;

/// A network of two, each direction with this MTU.
fn world(mtu: usize) -> World {
    let mut world = World::pair(1, NodeConfig::default(), Path::default());
    set_mtu(&mut world, mtu);
    world
}

fn set_mtu(world: &mut World, mtu: usize) {
    for (from, to) in [(0, 1), (1, 0)] {
        let link = Some(world.add_link(RATE, 200_000));
        let path = Path { latency: Duration::from_millis(10), mtu, link, ..Path::default() };
        world.set_path(from, to, path);
    }
}

fn segment(world: &mut World) -> usize {
    world.node(0).connections().next().map_or(0, |(_, connection)| connection.max_segment())
}

fn start(world: &mut World, total: u64) -> FlowId {
    world.start_flow(0, 1, total, DialOptions::default(), false).unwrap()
}

#[test]
fn every_path_is_filled_and_none_is_exceeded() {
    for (mtu, expected) in [
        (1152 + AROUND, 1152),
        (1310 + AROUND, 1302),
        (1390 + AROUND, 1382),
        (ETHERNET, 1402),
        (4096 + AROUND, 4096),
        (0, 4096),
    ] {
        let mut world = world(mtu);
        let flow = start(&mut world, u64::MAX);
        world.run_for(20 * SECOND);
        assert_eq!(segment(&mut world), expected, "{mtu}");
        assert_eq!(world.flow(flow).stats.counters.retransmits, 0, "{mtu}");
    }
}

#[test]
fn a_stream_survives_a_path_that_becomes_narrow_without_a_word() {
    let mut world = world(0);
    let flow = start(&mut world, 100_000_000);
    world.run_for(2 * SECOND);
    assert_eq!(segment(&mut world), 4096);
    let before = world.flow(flow).received;
    set_mtu(&mut world, 1310 + AROUND);
    world.run_for(4 * SECOND);
    let received = world.flow(flow).received - before;
    assert!(received > RATE, "{received}");
    world.run_until(60 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    assert_eq!(segment(&mut world), 1302);
}

#[test]
fn one_direction_may_carry_more_than_the_other() {
    let mut world = world(1152 + AROUND);
    let wide = Path { latency: Duration::from_millis(10), ..Path::default() };
    world.set_path(0, 1, wide);
    let flow = start(&mut world, 20_000_000);
    world.run_for(SECOND / 2);
    assert_eq!(segment(&mut world), 1402);
    world.run_until(20 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
}
