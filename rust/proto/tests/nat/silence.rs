//! How long a transfer stalls when the direct path falls silent.

use std::time::Duration;

use pilot_proto::node::DialOptions;
use pilot_sim::{
    Rng,
    nat::{Behaviour::EndpointIndependent, NatConfig},
};

use crate::{
    oracle,
    scenario::{self, Access, Built, Family, Scenario, Shared, Side},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);
/// The least retransmission timeout.
const RTO_MIN: Duration = Duration::from_millis(200);
/// Three intervals of writes: the last answer, the begin of the silence and the next delivery each wait for one.
const WRITES: Duration = Duration::from_millis(30);
/// Of each write. What is repeated needlessly, because it was delivered just before, fits the initial window.
const BYTES: u64 = 2000;

/// A network without loss in which there is one direct path.
fn draw(rng: &mut Rng) -> Scenario {
    loop {
        let drawn = scenario::draw(rng);
        let sides = drawn.sides.map(|side| Side { family: Family::V4, ..side });
        let scenario = Scenario { sides, shared: Shared::Nothing, loss: 0.0, beacons: 1, ..drawn };
        if oracle::must_be_direct(&scenario) {
            return scenario;
        }
    }
}

fn run(seed: u64) {
    let mut rng = Rng(seed ^ 0x0051_1e4c);
    let scenario = draw(&mut rng);
    let mut built = scenario.build(seed);
    let [from, to] = built.hosts;
    let flow = built.world.start_flow(from, to, 1000, DialOptions::default(), false).unwrap();
    built.stream(flow, BYTES, Duration::from_millis(1500 + rng.below(500)));
    built.drip(flow, 5 * SECOND, |built| built.is_direct());
    built.stream(flow, BYTES, SECOND);
    assert!(built.is_direct(), "{scenario:?}");
    let stats = built.world.flow(flow).stats;
    // The last answers still change it.
    let rto = Duration::from_nanos((stats.srtt_ns + 4 * stats.rttvar_ns) * 11 / 10).max(RTO_MIN);
    built.world.set_partition(from, to, true);
    let times = built.stream(flow, BYTES, 2 * SECOND);
    let stall = scenario::longest_gap(&times);
    // What is sent through the relay at last arrives later if that is longer than a timeout.
    let late = (scenario.relay_rtt() / 2).saturating_sub(rto) + WRITES;
    assert!(stall <= 3 * rto + late, "{stall:?}, not 3 times {rto:?} and {late:?}: {scenario:?}");
    assert_eq!(built.world.flow(flow).closed, None, "nothing is reset");
    built.world.set_partition(from, to, false);
    built.world.finish(flow);
    built.settle(flow, 10 * SECOND);
}

/// An application that writes in bursts: nothing is wrong with the path.
fn pause(seed: u64) {
    let mut rng = Rng(seed ^ 0xba5e);
    let scenario = draw(&mut rng);
    let mut built = scenario.build(seed);
    let [from, to] = built.hosts;
    let flow = built.world.start_flow(from, to, 1000, DialOptions::default(), false).unwrap();
    built.drip(flow, 5 * SECOND, |built| built.is_direct());
    built.drip(flow, 5 * SECOND, |_| false);
    let switches = |built: &mut Built| {
        built.hosts.map(|host| built.world.node(host).stats().counters).map(|counters| counters.path_switches)
    };
    let before = switches(&mut built);
    for _ in 0..10 {
        built.stream(flow, BYTES, Duration::from_millis(300 + rng.below(500)));
        built.world.run_for(Duration::from_millis(100 + rng.below(1000)));
    }
    assert_eq!(switches(&mut built), before, "{scenario:?}");
    built.world.finish(flow);
    built.settle(flow, 10 * SECOND);
}

/// Both boxes forget bindings sooner than peers are pinged. An open stream is silent, then something is sent. Returns
/// how long it takes to come back.
fn forget(seed: u64) -> Duration {
    let mut rng = Rng(seed ^ 0xf0_4e7);
    let mut scenario = draw(&mut rng);
    for side in &mut scenario.sides {
        let lifetime = Duration::from_secs(15 + rng.below(10));
        let nat = NatConfig { mapping: EndpointIndependent, lifetime, ..scenario::nat(&mut rng) };
        side.access = Access::Home(nat);
    }
    let mut built = scenario.build(seed);
    let flow = built.dial(1000);
    built.drip(flow, 5 * SECOND, |built| built.is_direct());
    built.world.run_for(Duration::from_secs(45 + rng.below(60)));
    built.world.append(flow, 100);
    let began = built.world.now;
    built.settle(flow, 30 * SECOND);
    built.world.now.saturating_since(began)
}

#[test]
fn short_bindings_are_kept_alive() {
    let times = seeds::each(forget);
    let late = times.iter().filter(|took| **took > 3 * SECOND).count();
    // Some bindings are so short that the second keepalive comes too late as well.
    assert!(late * 100 <= times.len(), "{late} of {}", times.len());
}

#[test]
fn a_pause_of_the_application_is_no_silence() {
    seeds::each(pause);
}

#[test]
fn the_relay_takes_over_from_a_silent_path_within_three_timeouts() {
    seeds::each(run);
}
