//! Boxes that give each destination a port of its own and let frames from anywhere in: every challenge, and every
//! answer, comes from an address that was not seen before.

use std::time::Duration;

use pilot_sim::nat::{Allocation, Behaviour::*, NatConfig};

use crate::scenario::{Access, Family, Scenario, Shared, Side};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Writes of [`Built::drip`](crate::scenario::Built::drip) in ten seconds, each with its echo and two acknowledgements.
const TRAFFIC: u64 = 4 * 200;
/// Challenges and their answers: what a peer may draw from each side at once, and in ten seconds after that.
const CHALLENGES: u64 = 2 * 2 * (32 + 4 * 10);
/// Checks of the candidates, punches, pings through the relay and discovery.
const REST: u64 = 400;

#[test]
fn new_addresses_with_every_frame_draw_few_challenges() {
    for filterings in
        [[EndpointIndependent; 2], [EndpointIndependent, AddressDependent], [AddressDependent; 2]]
    {
        let sides = filterings.map(|filtering| {
            let mapping = AddressAndPortDependent;
            let nat =
                NatConfig { mapping, filtering, allocation: Allocation::Random, ..NatConfig::default() };
            Side { access: Access::Home(nat), family: Family::V4 }
        });
        let (direct, to_beacon) = (5 * MILLISECOND, [5 * MILLISECOND; 2]);
        let scenario = Scenario { sides, shared: Shared::Nothing, direct, to_beacon, loss: 0.0, beacons: 1 };
        let mut built = scenario.build(1);
        let flow = built.dial(200);
        built.settle(flow, Duration::from_secs(10));
        let before = built.world.datagrams();
        built.drip(flow, Duration::from_secs(10), |_| false);
        let sent = built.world.datagrams() - before;
        assert!(sent <= TRAFFIC + CHALLENGES + REST, "{filterings:?}: {sent} datagrams");
        built.settle(flow, Duration::from_secs(10));
    }
}
