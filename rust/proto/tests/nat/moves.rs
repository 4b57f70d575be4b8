//! How long a transfer stalls when a host gets another address.

use std::time::Duration;

use pilot_proto::{node::DialOptions, time::Instant};
use pilot_sim::{FlowId, Notice, Place, Rng, nat::Behaviour::EndpointIndependent};

use crate::{
    oracle::Chain,
    scenario::{self, Built, Family, Scenario, Shared},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// What the figure allows besides a round trip.
const SLACK: Duration = Duration::from_millis(200);

/// Streams at 400 kilobytes per second for `time`. Returns when bytes were delivered.
fn stream(built: &mut Built, flow: FlowId, time: Duration) -> Vec<Instant> {
    let (end, mut times, mut received) = (built.world.now + time, Vec::new(), 0);
    while built.world.now < end {
        built.world.append(flow, 4000);
        let until = built.world.now + 10 * MILLISECOND;
        let _ = built.world.run_until(10 * MILLISECOND, |world| {
            let now = world.flow(flow).received;
            if now > received {
                times.push(world.now);
                received = now;
            }
            world.now >= until
        });
    }
    times
}

/// The longest time without a delivery.
fn longest_gap(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1].saturating_since(pair[0])).max().unwrap_or_default()
}

/// The round trip by which a transfer resumes, and how long it takes until the new address works: at once if
/// strangers reach the other host, and else when the beacon has proof of it and relays.
fn expected(scenario: &Scenario, mover: usize) -> (Duration, Duration) {
    let other = Chain::of(scenario.sides[1 - mover].access);
    if other.mapping == EndpointIndependent && other.filtering == EndpointIndependent {
        return (Duration::ZERO, 2 * scenario.direct);
    }
    let relayed = scenario.relay_rtt();
    (2 * scenario.to_beacon[mover], relayed.max(2 * scenario.direct))
}

fn run(seed: u64) {
    let mut rng = Rng(seed ^ 0x0030_0fed);
    let mut scenario = scenario::draw(&mut rng);
    (scenario.shared, scenario.loss, scenario.beacons) = (Shared::Nothing, 0.0, 1);
    scenario.sides.iter_mut().for_each(|side| side.family = Family::V4);
    let mover = rng.below(2) as usize;
    let mut built = scenario.build(seed);
    let [from, to] = built.hosts;
    let flow = built.world.start_flow(from, to, 1000, DialOptions::default(), false).unwrap();
    stream(&mut built, flow, 2 * SECOND + MILLISECOND * rng.below(1000) as u32);
    let access = scenario::access(&mut rng, Some(scenario.sides[1 - mover].access));
    let was = scenario.sides[mover].access;
    scenario.sides[mover].access = access;
    let boxes = scenario::add_boxes(&mut built.world, Place::Public, access);
    let attachment = scenario::attachment(&boxes, Family::V4);
    built.world.roam(built.hosts[mover], attachment, Notice::Reported);
    let times = stream(&mut built, flow, 3 * SECOND);
    let (works_after, round_trip) = expected(&scenario, mover);
    let stall = longest_gap(&times);
    let bound = works_after + round_trip + SLACK;
    assert!(
        stall <= bound,
        "{stall:?}, not {bound:?}, after the {} moved from {was:?}: {scenario:?}",
        ["sender", "receiver"][mover]
    );
    built.world.finish(flow);
    built.settle(flow, 10 * SECOND);
}

#[test]
fn a_change_of_address_stalls_a_transfer_for_a_round_trip() {
    seeds::each(run);
}
