//! Two nodes behind NATs that map every destination to a port of its own: how often they meet.

mod nat;

use core::time::Duration;
use std::{collections::BTreeSet, net::SocketAddr};

use self::nat::{Nat, Ports};
use super::{
    FIRST_PORT, NatBehaviour, Observation, Observations, PORTS, Probing, Role, distance, port_after,
};
use crate::{crypto::entropy::Entropy, time::Instant};

/// From one end to the other.
const LATENCY: Duration = Duration::from_millis(25);
/// How much later the second end learns of the first one's behaviour than the first of the second's.
const SKEW: Duration = Duration::from_millis(30);
const SEEDS: u8 = 200;

/// One end: its NAT, what its beacons reported, and its probing.
struct End {
    nat: Nat,
    observations: Observations,
    probing: Probing,
    entropy: Entropy,
}

impl End {
    fn new(host: u8, seed: u8, ports: Ports, busy: u32, role: Role, start: Instant) -> Self {
        let mut nat = Nat::new(host, seed, ports);
        let mut observations = Observations::default();
        // The beacons are asked at once, and others use the NAT as well.
        for beacon in 1..=3 {
            let server = SocketAddr::from(([198, 51, 100, beacon], 9001));
            let endpoint = nat.map(0, server);
            observations.note(Instant::ZERO, Observation { local_port: 4000, server, endpoint });
        }
        for _ in 0..busy {
            nat.waste();
        }
        let entropy = Entropy::new(&[seed ^ host; 32]);
        Self { nat, observations, probing: Probing::new(start, role), entropy }
    }
}

/// A ping on its way.
struct Ping {
    arrives: Instant,
    /// The end that it goes to.
    to: usize,
    source: SocketAddr,
    target: SocketAddr,
}

/// What each end was told of the other just before an attempt.
struct Told {
    at: Option<Instant>,
    behaviours: [NatBehaviour; 2],
}

impl Told {
    fn refresh(&mut self, now: Instant, ends: &[End; 2]) {
        if self.at.is_none_or(|at| now >= at + Duration::from_secs(1)) {
            self.at = Some(now);
            self.behaviours = [0, 1].map(|at: usize| ends[at].observations.behaviour(now));
        }
    }
}

/// When the first ping arrives at a node, if one does.
fn meet(seed: u8, ports: [Ports; 2], busy: [u32; 2], waste_per_burst: u32) -> Option<Instant> {
    let mut ends = [
        End::new(1, seed, ports[0], busy[0], Role::First, Instant::ZERO),
        End::new(2, seed, ports[1], busy[1], Role::Second, Instant::ZERO + SKEW),
    ];
    let mut pings: Vec<Ping> = Vec::new();
    let mut told = Told { at: None, behaviours: Default::default() };
    loop {
        let due = ends.iter().filter_map(|end| end.probing.poll_timeout());
        let now = due.chain(pings.iter().map(|ping| ping.arrives)).min()?;
        pings.sort_by_key(|ping| ping.arrives);
        while pings.first().is_some_and(|ping| ping.arrives <= now) {
            let ping = pings.remove(0);
            if ends[ping.to].nat.may_enter(ping.source, ping.target) {
                return Some(now);
            }
        }
        told.refresh(now, &ends);
        for at in [0, 1] {
            let (ours, theirs) = (ends[at].observations.behaviour(now), told.behaviours[1 - at]);
            let outside = ends[1 - at].nat.outside();
            let end = &mut ends[at];
            let attempt = end.probing.handle_timeout(now, &ours, &theirs, &mut end.entropy);
            let targets: BTreeSet<_> = attempt.ports.iter().collect();
            end.observations.on_new_destinations(u32::try_from(targets.len()).unwrap());
            for port in attempt.ports {
                let target = SocketAddr::new(outside, port);
                let source = end.nat.map(0, target);
                pings.push(Ping { arrives: now + LATENCY, to: 1 - at, source, target });
            }
            for _ in 0..waste_per_burst {
                end.nat.waste();
            }
        }
    }
}

/// Share of the seeds with which the ends meet within five seconds.
fn share(ports: [Ports; 2], busy: impl Fn(u32) -> [u32; 2], waste_per_burst: u32) -> f64 {
    let met = (0..SEEDS).filter(|seed| {
        let at = meet(*seed, ports, busy(u32::from(*seed)), waste_per_burst);
        at.is_some_and(|at| at < Instant::ZERO + Duration::from_secs(5))
    });
    f64::from(u32::try_from(met.count()).unwrap()) / f64::from(SEEDS)
}

#[test]
fn sequential_ports_on_both_sides_meet() {
    for steps in [[1, 1], [2, 1], [1, 4], [-1, 3]] {
        let share = share(steps.map(Ports::Sequential), |_| [0, 0], 0);
        assert!(share >= 0.99, "steps {steps:?}: {share}");
    }
}

#[test]
fn they_meet_though_others_use_both_nats_as_well() {
    let busy = |seed: u32| [seed % 12, seed / 12 % 12];
    for steps in [[1, 1], [2, 2]] {
        let share = share(steps.map(Ports::Sequential), busy, 0);
        assert!(share >= 0.95, "steps {steps:?}: {share}");
    }
}

#[test]
fn they_mostly_meet_while_others_go_on_using_both_nats() {
    // One mapping of others for eight of ours.
    let share = share([Ports::Sequential(1); 2], |seed| [seed % 5, seed % 3], 1);
    assert!(share >= 0.8, "{share}");
}

#[test]
fn random_ports_end_after_the_budget() {
    assert_eq!(meet(1, [Ports::Random; 2], [0, 0], 0), None);
    assert_eq!(meet(1, [Ports::Random, Ports::Sequential(1)], [0, 0], 0), None);
}

#[test]
fn the_first_port_follows_the_last() {
    assert_eq!(port_after(65_535, 1), FIRST_PORT);
    assert_eq!(port_after(FIRST_PORT, -1), 65_535);
    assert_eq!(port_after(4000, PORTS), 4000);
    assert_eq!(distance(65_534, FIRST_PORT + 1), 3);
    assert_eq!(distance(FIRST_PORT + 1, 65_534), -3);
    for (from, steps) in [(2000, 7), (2000, -7), (65_000, 900), (1100, -500)] {
        assert_eq!(distance(from, port_after(from, steps)), steps);
    }
}
