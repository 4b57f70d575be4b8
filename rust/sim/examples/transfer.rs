//! One transfer of 32 MB over a lossy path in virtual time, for instruction counts:
//! `valgrind --tool=callgrind target/release/examples/transfer`.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions};
use pilot_sim::{Loss, Path, World};

const BYTES: u64 = 32_000_000;

fn main() {
    let latency = Duration::from_millis(5);
    let path = Path { latency, loss: Loss::Random(0.001), ..Path::default() };
    let mut world = World::pair(1, NodeConfig::default(), path);
    let Ok(flow) = world.start_flow(0, 1, BYTES, DialOptions::default(), false) else { return };
    let result = world.run_until(Duration::from_secs(600), |world| world.flow(flow).finished.is_some());
    assert!(result.is_ok(), "the transfer is stuck");
}
