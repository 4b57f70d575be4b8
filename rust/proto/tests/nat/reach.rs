//! Two nodes whose beacon lives reach each other, and find a direct path where there is one.

use std::time::Duration;

use pilot_sim::Rng;

use crate::{oracle, scenario, seeds};

const SECOND: Duration = Duration::from_secs(1);

fn run(seed: u64) {
    let scenario = scenario::draw(&mut Rng(seed ^ 0x00de_cade));
    let mut built = scenario.build(seed);
    let flow = built.dial(1000);
    built.settle(flow, 10 * SECOND);
    if oracle::must_be_direct(&scenario) {
        let is_direct = built.drip(flow, 20 * SECOND, |built| built.is_direct());
        assert!(is_direct, "a direct path is not found: {scenario:?}: {:?}", built.peers());
    }
    built.drip(flow, SECOND, |_| false);
    built.settle(flow, 10 * SECOND);
}

#[test]
fn nodes_reach_each_other_and_find_the_direct_path() {
    seeds::each(run);
}
