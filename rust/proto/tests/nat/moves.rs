//! How long a transfer stalls when a host gets another address.

use std::time::Duration;

use pilot_proto::node::DialOptions;
use pilot_sim::{Notice, Place, Rng, nat::Behaviour::EndpointIndependent};

use crate::{
    oracle::{self, Chain},
    scenario::{self, Access, Family, Scenario, Shared},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Of each write, every 10 ms.
const BYTES: u64 = 4000;
/// What the figure allows besides a round trip.
const SLACK: Duration = Duration::from_millis(200);

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
    built.stream(flow, BYTES, SECOND + MILLISECOND * (500 + rng.below(500)) as u32);
    let access = scenario::access(&mut rng);
    let was = scenario.sides[mover].access;
    scenario.sides[mover].access = access;
    let boxes = scenario::add_boxes(&mut built.world, Place::Public, access);
    let attachment = scenario::attachment(&boxes, Family::V4);
    built.world.roam(built.hosts[mover], attachment, Notice::Reported);
    let times = built.stream(flow, BYTES, 2 * SECOND);
    let (works_after, round_trip) = expected(&scenario, mover);
    let stall = scenario::longest_gap(&times);
    let bound = works_after + round_trip + SLACK;
    assert!(
        stall <= bound,
        "{stall:?}, not {bound:?}, after the {} moved from {was:?}: {scenario:?}",
        ["sender", "receiver"][mover]
    );
    built.world.finish(flow);
    built.settle(flow, 10 * SECOND);
}

/// The routers of one host get other addresses, which nobody reports: a round trip later than after a reported
/// change, its silence is noticed.
fn renumber(seed: u64) {
    let mut rng = Rng(seed ^ 0x5e_1f1e);
    let mover = rng.below(2) as usize;
    let mut scenario = scenario::draw(&mut rng);
    (scenario.shared, scenario.loss, scenario.beacons) = (Shared::Nothing, 0.0, 1);
    scenario.sides.iter_mut().for_each(|side| side.family = Family::V4);
    let is_translated = |access| matches!(access, Access::Home(_) | Access::Carrier { .. });
    while !is_translated(scenario.sides[mover].access) || !oracle::must_be_direct(&scenario) {
        scenario.sides.iter_mut().for_each(|side| side.access = scenario::access(&mut rng));
    }
    let mut built = scenario.build(seed);
    let [from, to] = built.hosts;
    let flow = built.world.start_flow(from, to, 1000, DialOptions::default(), false).unwrap();
    built.drip(flow, 5 * SECOND, |built| built.is_direct());
    built.stream(flow, BYTES, SECOND + MILLISECOND * (500 + rng.below(500)) as u32);
    for id in built.boxes[mover].clone() {
        built.world.reboot_box(id, true);
    }
    let times = built.stream(flow, BYTES, 3 * SECOND);
    let (works_after, round_trip) = expected(&scenario, mover);
    let stall = scenario::longest_gap(&times);
    let bound = works_after + 2 * scenario.direct + round_trip + SLACK;
    assert!(
        stall <= bound,
        "{stall:?}, not {bound:?}, after the {} was renumbered: {scenario:?}",
        ["sender", "receiver"][mover]
    );
    built.world.finish(flow);
    built.settle(flow, 10 * SECOND);
}

#[test]
fn a_change_of_address_that_nobody_reports_stalls_a_transfer_for_two_round_trips() {
    seeds::each(renumber);
}

#[test]
fn a_change_of_address_stalls_a_transfer_for_a_round_trip() {
    seeds::each(run);
}
