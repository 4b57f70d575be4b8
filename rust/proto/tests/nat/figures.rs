//! The figures that the docs promise, over many networks.

use std::time::Duration;

use pilot_sim::{
    Rng,
    nat::{Behaviour, NatConfig},
};

use crate::{
    scenario::{self, Access, Built, Family, Scenario, Shared, Side},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A network without loss whose hosts are behind home routers that map like this.
fn homes(rng: &mut Rng, mappings: [Behaviour; 2]) -> Scenario {
    let sides = mappings.map(|mapping| {
        let nat = NatConfig { mapping, ..scenario::nat(rng) };
        Side { access: Access::Home(nat), family: Family::V4 }
    });
    Scenario { sides, shared: Shared::Nothing, loss: 0.0, beacons: 1, ..scenario::draw(rng) }
}

fn percentile(mut values: Vec<Duration>, percent: usize) -> Duration {
    values.sort();
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// Dials and returns the time until both sides use a direct path.
fn time_to_direct(built: &mut Built, limit: Duration) -> Option<Duration> {
    let started = built.world.now;
    let flow = built.dial(200);
    let is_direct = built.drip(flow, limit, |built| built.is_direct());
    is_direct.then(|| built.world.now.saturating_since(started))
}

#[test]
fn endpoint_independent_mappings_give_a_direct_path_within_a_second() {
    let times = seeds::each(|seed| {
        let mut rng = Rng(seed ^ 0xd1ec);
        let scenario = homes(&mut rng, [Behaviour::EndpointIndependent; 2]);
        time_to_direct(&mut scenario.build(seed), 10 * SECOND).unwrap_or(10 * SECOND)
    });
    let (median, high) = (percentile(times.clone(), 50), percentile(times, 95));
    assert!(high <= SECOND, "direct after {median:?}, at the 95th percentile after {high:?}");
}

#[test]
fn the_first_byte_never_waits_for_punching() {
    seeds::each(|seed| {
        let mut rng = Rng(seed ^ 0xf125);
        let scenario = Scenario { loss: 0.0, beacons: 1, ..scenario::draw(&mut rng) };
        let mut built = scenario.build(seed);
        let flow = built.dial(200);
        built.settle(flow, 10 * SECOND);
        let flow = built.world.flow(flow);
        let took = flow.connected.unwrap().saturating_since(flow.started);
        let bound = 2 * scenario.relay_rtt() + 100 * MILLISECOND;
        assert!(took <= bound, "connected after {took:?}, not {bound:?}: {scenario:?}");
    });
}
