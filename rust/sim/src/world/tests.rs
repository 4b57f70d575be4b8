//! Addresses, boxes and movement in the simulated network.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions};

use super::{Attachment, BoxConfig, BoxId, Notice, Place, World, realms::Routed};
use crate::{
    Path,
    flow::HostId,
    nat::{Behaviour, FirewallConfig, NatConfig},
};

const SECOND: Duration = Duration::from_secs(1);

fn world() -> World {
    World::new(1, NodeConfig::default(), Path { latency: Duration::from_millis(10), ..Path::default() })
}

fn add_nat(world: &mut World, place: Place, nat: NatConfig) -> BoxId {
    world.add_box(place, BoxConfig { nat: Some(nat), firewall: None, outside: 1 })
}

fn behind(id: BoxId) -> Attachment {
    Attachment::v4(Place::Behind(id))
}

/// Sends a datagram between hosts, to an address; returns who received it and from where.
fn send(
    world: &mut World,
    from: HostId,
    to: core::net::SocketAddr,
) -> Option<(HostId, core::net::SocketAddr)> {
    let routed: Routed = world.hosts[from].send(to)?;
    let routed = world.realms.send(world.now, routed, &mut world.rng)?;
    match world.realms.receive(world.now, routed)? {
        (super::Party::Host(host), at) if world.hosts[host].receives_at(at) => Some((host, routed.source)),
        _ => None,
    }
}

#[test]
fn addresses_behind_boxes_mean_something_only_there() {
    let mut world = world();
    let homes = [0, 1].map(|_| add_nat(&mut world, Place::Public, NatConfig::default()));
    let hosts = [homes[0], homes[0], homes[1]].map(|home| world.add_host_at(behind(home)));
    let at = |world: &World, n: usize| world.addresses(hosts[n])[0];
    assert_eq!(at(&world, 0), at(&world, 2), "every home has the same addresses");
    let neighbour = at(&world, 1);
    assert_eq!(send(&mut world, hosts[0], neighbour).unwrap().0, hosts[1]);
    assert_eq!(send(&mut world, hosts[2], neighbour), None);
}

#[test]
fn datagrams_pass_two_boxes_and_answers_come_back() {
    let mut world = world();
    let carrier = add_nat(&mut world, Place::Public, NatConfig::default());
    let home = add_nat(&mut world, Place::Behind(carrier), NatConfig::default());
    let inside = world.add_host_at(behind(home));
    let public = [world.add_host(), world.add_host()];
    let at = public.map(|host| world.addresses(host)[0]);
    let (host, source) = send(&mut world, inside, at[0]).unwrap();
    assert_eq!((host, vec![source.ip()]), (public[0], world.nat(carrier).unwrap().outside().to_vec()));
    assert_eq!(send(&mut world, public[1], source), None, "filtered");
    assert_eq!(send(&mut world, public[0], source), Some((inside, at[0])));
    world.reboot_box(home, false);
    assert_eq!(send(&mut world, public[0], source), None, "the inner box forgot");
}

#[test]
fn customers_of_a_carrier_need_hairpinning() {
    for has_hairpinning in [true, false] {
        let mut world = world();
        let open = NatConfig { filtering: Behaviour::EndpointIndependent, ..NatConfig::default() };
        let carrier = add_nat(&mut world, Place::Public, NatConfig { has_hairpinning, ..open });
        let homes = [0, 1].map(|_| add_nat(&mut world, Place::Behind(carrier), open));
        let hosts = homes.map(|home| world.add_host_at(behind(home)));
        let public = world.add_host();
        let public_at = world.addresses(public)[0];
        let [first, second] = hosts.map(|host| send(&mut world, host, public_at).unwrap().1);
        let expected = has_hairpinning.then_some((hosts[1], first));
        assert_eq!(send(&mut world, hosts[0], second), expected, "seen under the outside endpoint");
    }
}

#[test]
fn a_firewall_leaves_addresses_alone() {
    let mut world = world();
    let firewall = BoxConfig { firewall: Some(FirewallConfig::default()), ..BoxConfig::default() };
    let home = world.add_box(Place::Public, firewall);
    let inside = world.add_host_at(Attachment::dual(Place::Behind(home)));
    let public = world.add_host_at(Attachment::dual(Place::Public));
    for (own, other) in world.addresses(inside).into_iter().zip(world.addresses(public)) {
        assert_eq!(send(&mut world, public, own), None);
        assert_eq!(send(&mut world, inside, other), Some((public, own)));
        assert_eq!(send(&mut world, public, own), Some((inside, other)));
    }
    let only_v6 = world.add_host_at(Attachment::v6(Place::Public));
    let at = world.addresses(only_v6)[0];
    let only_v4 = world.add_host();
    assert!(at.is_ipv6() && send(&mut world, only_v4, at).is_none());
    assert!(send(&mut world, inside, at).is_some());
}

#[test]
fn old_addresses_are_dead_and_sleepers_deaf() {
    let mut world = world();
    let [a, b] = [world.add_host(), world.add_host()];
    let old = world.addresses(b)[0];
    world.set_awake(b, false);
    assert_eq!(send(&mut world, a, old), None);
    world.set_awake(b, true);
    world.set_interface(b, 0, false, Notice::Silent);
    assert_eq!(send(&mut world, a, old), None);
    world.set_interface(b, 0, true, Notice::Silent);
    assert!(send(&mut world, a, old).is_some());
    world.roam(b, Attachment::default(), Notice::Silent);
    let new = world.addresses(b)[0];
    assert_ne!(new, old);
    assert_eq!(send(&mut world, a, old), None);
    assert!(send(&mut world, a, new).is_some());
}

#[test]
fn a_box_may_come_back_with_other_addresses() {
    let mut world = world();
    let home = add_nat(&mut world, Place::Public, NatConfig::default());
    let inside = world.add_host_at(behind(home));
    let public = world.add_host();
    let at = world.addresses(public)[0];
    let (_, before) = send(&mut world, inside, at).unwrap();
    world.reboot_box(home, true);
    let (_, after) = send(&mut world, inside, at).unwrap();
    assert_ne!(before.ip(), after.ip());
    assert_eq!(send(&mut world, public, before), None);
    assert!(send(&mut world, public, after).is_some());
}

#[test]
fn a_transfer_from_behind_a_box_survives_a_move() {
    let mut world = world();
    world.set_registry_delay(SECOND / 50);
    let home = add_nat(&mut world, Place::Public, NatConfig::default());
    let inside = world.add_host_at(behind(home));
    let public = world.add_host();
    let flow = world.start_flow(inside, public, 1_000_000, DialOptions::default(), true).unwrap();
    world.run_until(SECOND, |world| world.flow(flow).received > 100_000).unwrap();
    let elsewhere = add_nat(&mut world, Place::Public, NatConfig::default());
    world.roam(inside, behind(elsewhere), Notice::Silent);
    world.run_until(30 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    let more = world.flow(flow).total;
    world.append(flow, 1000);
    world.run_until(30 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    assert_eq!(world.flow(flow).returned(), more + 1000);
}
