//! Bounds on cold starts, windows that follow long paths, 2^32 bytes on one connection.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions, transport::Algorithm};
use pilot_sim::{Loss, Path, World};

fn dial(algorithm: Algorithm) -> DialOptions {
    DialOptions { congestion: Some(algorithm), ..DialOptions::default() }
}

fn path(rtt_ms: u64, loss: Loss) -> Path {
    Path { latency: Duration::from_micros(rtt_ms * 500), loss, ..Path::default() }
}

/// Bytes per second of a cold echo over an unlimited path, counted from the connection's being up.
fn echo(algorithm: Algorithm, rtt_ms: u64, bytes: u64) -> f64 {
    let mut world = World::pair(1, NodeConfig::default(), path(rtt_ms, Loss::None));
    let flow = world.start_flow(0, 1, bytes, dial(algorithm), true).unwrap();
    world.run_until(Duration::from_secs(60), |world| world.flow(flow).finished.is_some()).unwrap();
    world.flow(flow).goodput(world.now)
}

#[test]
fn a_cold_echo_comes_near_the_bound_of_slow_start() {
    // 1 MB at 96 ms: at most 2.2 MB/s; 8 MB at 50 ms: at most 21 MB/s.
    for algorithm in [Algorithm::Reno, Algorithm::Cubic] {
        let (short, long) = (echo(algorithm, 96, 1_000_000), echo(algorithm, 50, 8_000_000));
        assert!(short >= 2.0e6, "{algorithm}: {short:.0}/s");
        assert!(long >= 15.0e6, "{algorithm}: {long:.0}/s");
    }
}

#[test]
fn the_receive_window_follows_a_long_fat_path() {
    // 500 Mbit/s at 200 ms hold 12.5 MB, six times the window advertised at first.
    for algorithm in Algorithm::ALL {
        let mut world = World::pair(1, NodeConfig::default(), Path::default());
        let link = world.add_link(62_500_000, 12_500_000);
        let forward = Path { link: Some(link), ..path(200, Loss::None) };
        world.set_path(0, 1, forward);
        world.set_path(1, 0, path(200, Loss::None));
        let flow = world.start_flow(0, 1, u64::MAX, dial(algorithm), false).unwrap();
        world.run_for(Duration::from_secs(6));
        let before = world.flow(flow).received;
        world.run_for(Duration::from_secs(4));
        let rate = (world.flow(flow).received - before) as f64 / 4.0;
        assert!(rate >= 0.85 * 62_500_000.0, "{algorithm}: {rate:.0}/s {:?}", world.flow(flow).stats);
    }
}

#[test]
fn more_than_four_gigabytes_pass_one_connection() {
    let wide = Path { mtu: 0, ..path(2, Loss::Random(0.0001)) };
    let mut world = World::pair(1, NodeConfig::default(), wide);
    let total = (1u64 << 32) + 100_000_000;
    let flow = world.start_flow(0, 1, total, dial(Algorithm::Bbr), false).unwrap();
    world.run_until(Duration::from_secs(3600), |world| world.flow(flow).finished.is_some()).unwrap();
    assert_eq!(world.flow(flow).received, total);
}

#[test]
fn random_loss_does_not_collapse_bbr() {
    let rate = |loss: f64| {
        let mut world = World::pair(1, NodeConfig::default(), Path::default());
        let link = world.add_link(12_500_000, 375_000);
        world.set_path(0, 1, Path { link: Some(link), ..path(30, Loss::Random(loss)) });
        world.set_path(1, 0, path(30, Loss::None));
        let flow = world.start_flow(0, 1, 20_000_000, dial(Algorithm::Bbr), false).unwrap();
        world.run_until(Duration::from_secs(60), |world| world.flow(flow).finished.is_some()).unwrap();
        world.flow(flow).goodput(world.now)
    };
    let (clean, lossy) = (rate(0.0), rate(0.02));
    assert!(lossy > 0.8 * clean, "{clean:.0}/s without loss, {lossy:.0}/s with 2 %");
}
