//! Restarts while packets of the old process are still in flight.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions, transport::CloseReason};
use pilot_sim::{FlowId, Path, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn set_latency(world: &mut World, from: usize, to: usize, latency: Duration) {
    world.set_path(from, to, Path { latency, ..Path::default() });
}

fn dial(world: &mut World, from: usize, to: usize) -> FlowId {
    world.start_flow(from, to, 1000, DialOptions::default(), false).unwrap()
}

fn finish(world: &mut World, flow: FlowId, limit: Duration) {
    let result = world.run_until(limit, |world| world.flow(flow).finished.is_some());
    assert!(result.is_ok(), "{result:?}: {:?}", world.flow(flow));
}

/// The key of a process that is gone, and a ping under it, arrive after the key of its successor. They
/// are taken for news; then the successor's own key must not count as a replay for good.
#[test]
fn late_frames_of_a_dead_process_do_not_lock_out_its_successor() {
    let mut world = World::pair(1, NodeConfig::default(), Path::default());
    set_latency(&mut world, 0, 1, 100 * MS);
    set_latency(&mut world, 1, 0, 5 * MS);
    dial(&mut world, 1, 0);
    // The old process received the key and answered; the answer is still in flight.
    world.run_for(50 * MS);
    world.restart(0);
    set_latency(&mut world, 0, 1, 5 * MS);
    let first = dial(&mut world, 0, 1);
    finish(&mut world, first, 50 * MS);
    world.run_for(150 * MS);
    let second = dial(&mut world, 0, 1);
    finish(&mut world, second, 5 * SECOND);
    let back = dial(&mut world, 1, 0);
    finish(&mut world, back, 5 * SECOND);
}

/// RFC 9293 section 3.5.1: a restarted host dials from the port of a connection that its peer holds.
#[test]
fn a_restarted_host_can_reuse_a_port() {
    let mut world = World::pair(1, NodeConfig::default(), Path::default());
    // Without latency all events have the same time, and a restart cannot be ordered.
    let old = world.start_flow(0, 1, 1_000_000, DialOptions::default(), false).unwrap();
    world.set_reading(old, false);
    let result = world.run_until(SECOND, |world| world.flow(old).connected.is_some());
    assert!(result.is_ok(), "{result:?}");
    world.restart(0);
    let new = dial(&mut world, 0, 1);
    finish(&mut world, new, 5 * SECOND);
}

/// What a dead process says of itself under its old session, late, is no word of another restart.
#[test]
fn late_capabilities_of_a_dead_process_break_no_connection() {
    for seed in 1..=100 {
        let mut world = World::pair(seed, NodeConfig::default(), Path::default());
        let late = Path { latency: 5 * MS, jitter: 300 * MS, ..Path::default() };
        world.set_path(0, 1, late);
        set_latency(&mut world, 1, 0, 5 * MS);
        let old = dial(&mut world, 0, 1);
        finish(&mut world, old, 5 * SECOND);
        // Path MTU probes in flight carry the boot id of their sender.
        world.restart(0);
        set_latency(&mut world, 0, 1, 5 * MS);
        let new = dial(&mut world, 1, 0);
        finish(&mut world, new, SECOND);
        world.run_for(SECOND);
        let closed = world.flow(new).closed;
        assert!(closed.is_none_or(|reason| reason == CloseReason::Finished), "seed {seed}: {closed:?}");
    }
}
