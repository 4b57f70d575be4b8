//! Path MTU discovery with fixed and changing MTUs.

use std::{sync::Arc, time::Duration};

use pilot_proto::{
    config::{Algorithm, NodeConfig, TransportConfig},
    node::{DialOptions, NodeCounters, TooBig},
    wire::{addr::NodeId, tunnel},
};
use pilot_sim::{ETHERNET, FlowId, Loss, Path, World};

/// Bytes around a segment in a UDP datagram.
const AROUND: usize = 70;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes per second.
const RATE: u64 = 5_000_000;

/// A network of two, each direction with this MTU.
fn world(mtu: usize) -> World {
    let mut world = World::pair(1, NodeConfig::default(), Path::default());
    set_mtu(&mut world, mtu);
    world
}

fn set_mtu(world: &mut World, mtu: usize) {
    set_path(world, 200_000, Path { mtu, ..Path::default() });
}

/// Makes both directions this path, 10 ms long, no faster than [`RATE`], with a queue of these bytes.
fn set_path(world: &mut World, queue: usize, path: Path) {
    for (from, to) in [(0, 1), (1, 0)] {
        let link = Some(world.add_link(RATE, queue));
        world.set_path(from, to, Path { latency: Duration::from_millis(10), link, ..path });
    }
}

/// One whose receivers take less than the queues hold, so that nothing is lost but for its size.
fn limited_world() -> World {
    let transport =
        TransportConfig { recv_buffer: 200_000, max_recv_buffer: 200_000, ..TransportConfig::default() };
    let config = NodeConfig { transport: Arc::new(transport), ..NodeConfig::default() };
    let mut world = World::pair(1, config, Path::default());
    set_path(&mut world, 400_000, Path { mtu: 0, ..Path::default() });
    world
}

fn counters(world: &mut World) -> NodeCounters {
    world.node(0).stats().counters
}

fn segment(world: &mut World) -> usize {
    world.node(0).connections().next().map_or(0, |(_, connection)| connection.max_segment())
}

fn start(world: &mut World, total: u64) -> FlowId {
    world.start_flow(0, 1, total, DialOptions::default(), false).unwrap()
}

#[test]
fn segments_fill_every_path_mtu() {
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
fn a_stream_survives_a_black_hole() {
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

#[test]
fn a_reported_mtu_is_used_exactly() {
    for (mtu, expected) in [(1400, 1400 - AROUND), (1280, 1280 - AROUND), (2000, 2000 - AROUND)] {
        let mut world = world(0);
        set_path(&mut world, 200_000, Path { mtu, has_icmp: true, ..Path::default() });
        let flow = start(&mut world, u64::MAX);
        world.run_for(SECOND / 2);
        assert_eq!(segment(&mut world), expected, "{mtu}");
        assert_eq!(world.flow(flow).stats.counters.retransmits, 0, "{mtu}");
        assert!(counters(&mut world).ptb_recv > 0, "{mtu}");
    }
}

#[test]
fn a_reported_mtu_reduction_costs_no_timeout_and_no_window() {
    for congestion in Algorithm::ALL {
        let mut world = limited_world();
        let options = DialOptions { congestion: Some(congestion), ..DialOptions::default() };
        let flow = world.start_flow(0, 1, u64::MAX, options, false).unwrap();
        world.run_for(3 * SECOND);
        let before = (world.flow(flow).received, world.flow(flow).stats.cwnd);
        let narrow = Path { mtu: 1333 + AROUND, has_icmp: true, ..Path::default() };
        set_path(&mut world, 400_000, narrow);
        world.run_for(SECOND);
        let received = world.flow(flow).received - before.0;
        assert!(received > RATE * 8 / 10, "{congestion:?}: {received}");
        let stats = world.flow(flow).stats;
        assert_eq!(stats.counters.retransmits, 0, "{congestion:?}: a timeout");
        assert!(stats.cwnd >= before.1 * 9 / 10, "{congestion:?}: {} of {}", stats.cwnd, before.1);
        assert_eq!(segment(&mut world), 1333, "{congestion:?}");
    }
}

#[test]
fn forged_reports_change_nothing() {
    let mut world = world(ETHERNET);
    let flow = start(&mut world, u64::MAX);
    world.run_for(2 * SECOND);
    let destination = world.node(0).peers().find_map(|(_, peer)| peer.endpoint).unwrap();
    let sealed = |sender: u32, prefix: u32| {
        let nonce = tunnel::Nonce { prefix, counter: 40 };
        let mut quote = tunnel::SealedHeader { sender: NodeId(sender), nonce }.emit().to_vec();
        quote.resize(500, 0);
        quote
    };
    let now = world.now;
    let quotes =
        [vec![], vec![0; 8], b"PILS".to_vec(), sealed(1, 0), sealed(1, 1), sealed(2, 0), vec![7; 548]];
    for quote in &quotes {
        let report = TooBig { destination, max_datagram: 1300, quote: Some(quote) };
        world.node(0).handle_too_big(now, &report);
    }
    assert_eq!(counters(&mut world).dropped_ptb, quotes.len() as u64);
    for _ in 0..1000 {
        let report = TooBig { destination, max_datagram: 1300, quote: Some(&quotes[3]) };
        world.node(0).handle_too_big(now, &report);
    }
    let counted = counters(&mut world);
    assert_eq!((counted.ptb_recv, counted.dropped_ptb + counted.dropped_limited), (0, 1007));
    assert!(counted.dropped_limited > 800, "a flood is not looked at");
    world.run_for(SECOND);
    assert_eq!(segment(&mut world), 1402);
    assert_eq!(world.flow(flow).stats.counters.retransmits, 0);
}

#[test]
fn reports_of_this_host_need_no_quote() {
    let mut world = world(ETHERNET);
    start(&mut world, u64::MAX);
    world.run_for(2 * SECOND);
    let endpoint = world.node(0).peers().find_map(|(_, peer)| peer.endpoint).unwrap();
    let unknown_port = std::net::SocketAddr::new(endpoint.ip(), 0);
    let now = world.now;
    let report = TooBig { destination: unknown_port, max_datagram: 1300, quote: None };
    world.node(0).handle_too_big(now, &report);
    world.run_for(SECOND / 2);
    assert_eq!(segment(&mut world), 1300 - AROUND);
}

/// Random loss is no black hole.
#[test]
fn losses_do_not_narrow_the_path() {
    for congestion in Algorithm::ALL {
        for percent in [1, 2, 5] {
            let mut world = World::pair(1, NodeConfig::default(), Path::default());
            let loss = Loss::Random(f64::from(percent) / 100.0);
            set_path(&mut world, 200_000, Path { loss, ..Path::default() });
            let options = DialOptions { congestion: Some(congestion), ..DialOptions::default() };
            world.start_flow(0, 1, u64::MAX, options, false).unwrap();
            world.run_for(5 * SECOND);
            let mut narrow = 0;
            for _ in 0..200 {
                world.run_for(SECOND / 10);
                narrow += usize::from(segment(&mut world) < 1402);
            }
            println!("{congestion}, {percent} %: {narrow} of 200");
            assert!(narrow <= 10, "{congestion}, {percent} %: {narrow} of 200");
        }
    }
}
