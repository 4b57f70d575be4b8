//! One test per requirement of RFC 4787 that a simulated box can keep or break.

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use std::collections::BTreeSet;

use pilot_proto::time::Instant;

use super::{Allocation, Behaviour, Behaviour::*, Firewall, FirewallConfig, Nat, NatConfig};
use crate::rng::Rng;

const LIFETIME: Duration = Duration::from_secs(120);
const OUTSIDE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 1));

struct Fixture {
    now: Instant,
    rng: Rng,
    nat: Nat,
}

impl Fixture {
    fn new(config: NatConfig) -> Self {
        let mut rng = Rng(1);
        let nat = Nat::new(config, vec![OUTSIDE], &mut rng);
        Self { now: Instant::from_millis(1), rng, nat }
    }

    fn out(&mut self, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        self.nat.outbound(self.now, inside, remote, &mut self.rng).expect("forwarded")
    }

    fn back(&mut self, remote: SocketAddr, outside: SocketAddr) -> Option<SocketAddr> {
        self.nat.inbound(self.now, remote, outside)
    }
}

fn inside(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 1, host], 4000))
}

fn remote(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, host], port))
}

fn with(mapping: Behaviour, filtering: Behaviour) -> NatConfig {
    NatConfig { mapping, filtering, ..NatConfig::default() }
}

#[test]
fn req_1_the_mapping_depends_on_what_it_is_said_to_depend_on() {
    for (mapping, expected) in [(EndpointIndependent, 1), (AddressDependent, 2), (AddressAndPortDependent, 3)]
    {
        let mut fixture = Fixture::new(with(mapping, AddressAndPortDependent));
        let remotes = [remote(1, 1), remote(1, 2), remote(2, 1)];
        let once: Vec<_> = remotes.iter().map(|remote| fixture.out(inside(2), *remote)).collect();
        let again: Vec<_> = remotes.iter().map(|remote| fixture.out(inside(2), *remote)).collect();
        assert_eq!(once, again, "a mapping is reused");
        assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), expected, "{mapping:?}");
        assert_ne!(fixture.out(inside(3), remotes[0]), once[0], "endpoints do not share mappings");
    }
}

#[test]
fn req_2_paired_pooling_gives_a_host_one_address() {
    for (is_paired, expected) in [(true, 1), (false, 8)] {
        let config = NatConfig { is_paired, ..with(AddressAndPortDependent, AddressAndPortDependent) };
        let mut rng = Rng(1);
        let pool = (1..=8).map(|n| IpAddr::from([198, 51, 100, n])).collect();
        let mut nat = Nat::new(config, pool, &mut rng);
        let used: BTreeSet<_> = (0..200)
            .filter_map(|n| nat.outbound(Instant::ZERO, inside(2), remote(1, n), &mut rng))
            .map(|outside| outside.ip())
            .collect();
        assert_eq!(used.len(), expected);
    }
}

#[test]
fn req_3_no_port_serves_two_endpoints() {
    for allocation in
        [Allocation::Preserving, Allocation::Sequential { step: 2, noise: 3 }, Allocation::Random]
    {
        let config = NatConfig { allocation, ..with(AddressAndPortDependent, EndpointIndependent) };
        let mut fixture = Fixture::new(config);
        let outside: BTreeSet<_> =
            (0..1000).map(|n| fixture.out(inside(u8::try_from(n % 10).unwrap()), remote(1, n))).collect();
        assert_eq!(outside.len(), 1000, "{allocation:?}");
        assert!(outside.iter().all(|outside| outside.port() >= 1024));
    }
}

#[test]
fn ports_are_allocated_as_configured() {
    let ports = |allocation, hosts: u8| {
        let mut fixture = Fixture::new(NatConfig { allocation, ..with(AddressDependent, AddressDependent) });
        (0..hosts).map(|n| fixture.out(inside(2 + n), remote(n, 1)).port()).collect::<Vec<_>>()
    };
    assert_eq!(ports(Allocation::Preserving, 3), [4000, 4001, 4002], "the next free one is the fallback");
    let sequential = ports(Allocation::Sequential { step: 2, noise: 0 }, 5);
    assert!(sequential.windows(2).all(|pair| pair[1] == pair[0] + 2), "{sequential:?}");
    let noisy = ports(Allocation::Sequential { step: 1, noise: 4 }, 50);
    let steps: BTreeSet<_> = noisy.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(steps, BTreeSet::from([1, 2, 3, 4, 5]));
    let random = ports(Allocation::Random, 50);
    assert!(random.windows(2).filter(|pair| pair[1].abs_diff(pair[0]) < 100).count() < 5, "{random:?}");
}

#[test]
fn req_5_and_6_bindings_expire_and_outbound_traffic_refreshes_them() {
    for is_refreshed_inbound in [false, true] {
        let mut fixture = Fixture::new(NatConfig {
            is_refreshed_inbound,
            allocation: Allocation::Random,
            lifetime: LIFETIME,
            ..with(EndpointIndependent, EndpointIndependent)
        });
        let outside = fixture.out(inside(2), remote(1, 1));
        for _ in 0..3 {
            fixture.now += LIFETIME - Duration::from_secs(1);
            assert_eq!(fixture.out(inside(2), remote(1, 1)), outside);
        }
        fixture.now += LIFETIME - Duration::from_secs(1);
        assert_eq!(fixture.back(remote(1, 1), outside), Some(inside(2)));
        fixture.now += Duration::from_secs(2);
        assert_eq!(fixture.back(remote(1, 1), outside).is_some(), is_refreshed_inbound);
        fixture.now += LIFETIME;
        assert_eq!(fixture.back(remote(1, 1), outside), None);
        assert_ne!(fixture.out(inside(2), remote(1, 1)), outside, "a new binding has a new port");
    }
}

#[test]
fn filters_expire_for_each_remote() {
    let mut fixture = Fixture::new(with(EndpointIndependent, AddressDependent));
    let outside = fixture.out(inside(2), remote(1, 1));
    fixture.now += LIFETIME / 2;
    fixture.out(inside(2), remote(2, 1));
    fixture.now += LIFETIME / 2;
    assert_eq!(fixture.back(remote(1, 1), outside), None);
    assert_eq!(fixture.back(remote(2, 1), outside), Some(inside(2)));
    assert_eq!(fixture.nat.counters().filtered, 1);
}

#[test]
fn req_8_the_filter_depends_on_what_it_is_said_to_depend_on() {
    for (filtering, expected) in [
        (EndpointIndependent, [true, true, true]),
        (AddressDependent, [true, true, false]),
        (AddressAndPortDependent, [true, false, false]),
    ] {
        let mut fixture = Fixture::new(with(EndpointIndependent, filtering));
        let outside = fixture.out(inside(2), remote(1, 1));
        let passed = [remote(1, 1), remote(1, 2), remote(2, 1)]
            .map(|remote| fixture.back(remote, outside) == Some(inside(2)));
        assert_eq!(passed, expected, "{filtering:?}");
    }
}

#[test]
fn unmapped_ports_are_closed() {
    let mut fixture = Fixture::new(with(EndpointIndependent, EndpointIndependent));
    assert_eq!(fixture.back(remote(1, 1), SocketAddr::new(OUTSIDE, 4000)), None);
    assert_eq!(fixture.nat.counters().unmapped, 1);
}

#[test]
fn a_full_table_refuses_new_bindings_until_old_ones_expire() {
    let config = NatConfig { capacity: 10, ..with(AddressAndPortDependent, EndpointIndependent) };
    let mut fixture = Fixture::new(config);
    let try_out = |fixture: &mut Fixture, port| {
        fixture.nat.outbound(fixture.now, inside(2), remote(1, port), &mut fixture.rng).is_some()
    };
    for port in 0..10 {
        assert!(try_out(&mut fixture, port));
    }
    assert!(!try_out(&mut fixture, 10) && try_out(&mut fixture, 9));
    assert_eq!((fixture.nat.bindings(), fixture.nat.counters().full), (10, 1));
    fixture.now += LIFETIME;
    assert!(try_out(&mut fixture, 10));
    assert_eq!(fixture.nat.bindings(), 1);
}

#[test]
fn a_reboot_forgets_every_binding() {
    let mut fixture = Fixture::new(with(EndpointIndependent, EndpointIndependent));
    let outside = fixture.out(inside(2), remote(1, 1));
    fixture.nat.reboot(Some(vec![IpAddr::from([198, 51, 100, 9])]), &mut fixture.rng);
    assert_eq!(fixture.back(remote(1, 1), outside), None);
    assert_eq!(fixture.out(inside(2), remote(1, 1)).ip(), IpAddr::from([198, 51, 100, 9]));
}

#[test]
fn a_forwarded_port_is_open_to_everyone_and_does_not_expire() {
    let mut fixture = Fixture::new(with(EndpointIndependent, AddressAndPortDependent));
    let outside = fixture.nat.forward(fixture.now, inside(2), &mut fixture.rng).unwrap();
    fixture.now += 10 * LIFETIME;
    assert_eq!(fixture.back(remote(9, 9), outside), Some(inside(2)));
    assert_eq!(fixture.out(inside(2), remote(1, 1)), outside);
}

#[test]
fn a_firewall_admits_only_what_was_sent_to() {
    let v6 = |host: u16, port| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], port));
    for (filtering, expected) in [
        (EndpointIndependent, [true, true, true]),
        (AddressDependent, [true, true, false]),
        (AddressAndPortDependent, [true, false, false]),
    ] {
        let mut firewall = Firewall::new(FirewallConfig {
            filtering,
            lifetime: LIFETIME,
            is_refreshed_inbound: false,
            capacity: 2,
        });
        let remotes = [v6(1, 1), v6(1, 2), v6(2, 1)];
        let mut now = Instant::ZERO;
        assert!(remotes.iter().all(|remote| !firewall.inbound(now, *remote, v6(9, 9))), "closed at first");
        assert!(firewall.outbound(now, v6(9, 9), remotes[0]));
        assert_eq!(remotes.map(|remote| firewall.inbound(now, remote, v6(9, 9))), expected);
        assert!(
            firewall.outbound(now, v6(8, 8), remotes[0]) && !firewall.outbound(now, v6(7, 7), remotes[0])
        );
        now += LIFETIME;
        assert!(!firewall.inbound(now, remotes[0], v6(9, 9)));
        assert!(firewall.outbound(now, v6(7, 7), remotes[0]), "expired states make room");
        firewall.reboot();
        assert!(!firewall.inbound(now, remotes[0], v6(7, 7)));
    }
}
