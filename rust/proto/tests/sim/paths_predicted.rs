//! Direct paths through NATs that map every destination to another port, where the ports can be predicted.

use std::time::Duration;

use pilot_proto::tunnel::prediction::{Allocation, Mapping};

use crate::{
    nat_net::{BeaconBox, Nat, NatNet, beacon},
    rng::pattern,
};

/// Two hosts and two beacons; others use `waste` ports at each host after the beacons answered.
fn net(nats: [Nat; 2], waste: [u16; 2]) -> NatNet {
    let mut net = NatNet::new(&nats);
    net.beacons.insert(beacon(2), BeaconBox::default());
    net.start();
    net.waste(1, waste[0]);
    net.waste(2, waste[1]);
    net
}

/// How long it takes both ends to use a direct path from the dial on; `None` if it takes more than 5 s.
fn time_to_direct(net: &mut NatNet) -> Option<Duration> {
    let begin = net.now;
    let ((a, b), _) = net.connect(1, 2);
    while net.now < begin + Duration::from_secs(5) {
        net.transfer((1, a), (2, b), &pattern(2000));
        net.run_for(Duration::from_millis(20));
        if net.is_direct(1, 2) && net.is_direct(2, 1) {
            net.transfer((2, b), (1, a), &pattern(100_000));
            return Some(net.now.saturating_since(begin));
        }
    }
    None
}

#[test]
fn two_beacons_tell_what_the_nat_does() {
    let mut net = net([Nat::Cone, Nat::Sequential(3)], [0, 0]);
    let now = net.now;
    assert_eq!(net.of(1).nat_behaviour(now).mapping, Mapping::EndpointIndependent);
    let behaviour = net.of(2).nat_behaviour(now);
    assert_eq!(behaviour.mapping, Mapping::AddressAndPortDependent);
    assert_eq!(behaviour.allocation, Allocation::Sequential(3));
    net.of(2).on_own_address(now);
    assert_eq!(net.of(2).nat_behaviour(now).mapping, Mapping::Unknown, "another network");
}

#[test]
fn one_side_with_predictable_ports_is_reached_directly_within_five_seconds() {
    for step in [1, 2, 5] {
        for waste in [0, 1, 5] {
            for nats in [[Nat::Cone, Nat::Sequential(step)], [Nat::Sequential(step), Nat::Cone]] {
                let mut net = net(nats, [waste, waste]);
                assert!(time_to_direct(&mut net).is_some(), "{nats:?}, {waste} ports of others");
            }
        }
    }
}

#[test]
fn both_sides_with_sequential_ports_mostly_find_a_direct_path() {
    let mut found = Vec::new();
    for steps in [[1, 1], [1, 2], [4, 1], [2, 2]] {
        for waste in [[0, 0], [3, 0], [0, 4], [2, 7], [9, 9]] {
            let mut net = net(steps.map(Nat::Sequential), waste);
            found.push((steps, waste, time_to_direct(&mut net)));
        }
    }
    let direct = found.iter().filter(|(_, _, time)| time.is_some()).count();
    assert!(direct * 10 >= found.len() * 8, "{direct} of {}: {found:?}", found.len());
}

#[test]
fn random_ports_on_both_sides_stay_with_the_relay_within_the_budget() {
    let mut net = net([Nat::Symmetric, Nat::Symmetric], [0, 0]);
    assert_eq!(time_to_direct(&mut net), None);
    let sent: usize = net.direct.values().sum();
    assert!(sent < 100, "{sent} datagrams towards addresses that do not answer");
}
