//! Two nodes behind NATs that map every destination to a port of its own: how often they meet.

mod nat;

use core::time::Duration;
use std::net::SocketAddr;

use self::nat::{Nat, Ports};
use super::{
    FIRST_PORT, NatBehaviour, Observation, Observations, PORTS, Probing, Role, distance, port_after,
};
use crate::{crypto::entropy::Entropy, time::Instant};

/// From one end to the other.
const LATENCY: Duration = Duration::from_millis(25);
/// The same through the relay.
const RELAY_LATENCY: Duration = Duration::from_millis(60);
const SEEDS: u8 = 200;

/// One end: its NAT, what its beacons reported, and its probing.
struct End {
    nat: Nat,
    observations: Observations,
    probing: Probing,
    entropy: Entropy,
    /// Sockets that were opened besides.
    sockets: u32,
}

impl End {
    fn new(host: u8, seed: u8, ports: Ports, busy: u32, role: Role) -> Self {
        let mut nat = Nat::new(host, seed, ports);
        let mut observations = Observations::default();
        observations.set_opens_sockets(true);
        // The beacons are asked at once, and others use the NAT as well.
        for beacon in 1..=3 {
            let server = SocketAddr::from(([198, 51, 100, beacon], 9001));
            let endpoint = nat.map(0, server);
            observations.note(
                Instant::ZERO,
                beacon.into(),
                Observation { local_port: 4000, server, endpoint },
            );
        }
        for _ in 0..busy {
            nat.waste();
        }
        let entropy = Entropy::new(&[seed ^ host; 32]);
        Self { nat, observations, probing: Probing::new(Instant::ZERO, role), entropy, sockets: 0 }
    }

    /// The endpoint that a beacon sees.
    fn observed(&mut self) -> SocketAddr {
        self.nat.map(0, SocketAddr::from(([198, 51, 100, 1], 9001)))
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

/// What an end says of its NAT, on its way through the relay.
struct Told {
    arrives: Instant,
    to: usize,
    behaviour: NatBehaviour,
}

/// Both ends, and what is on its way.
struct Pair {
    ends: [End; 2],
    pings: Vec<Ping>,
    told: Vec<Told>,
    waste_per_burst: u32,
}

impl Pair {
    fn ping(&mut self, now: Instant, at: usize, socket: u32, target: SocketAddr) {
        let source = self.ends[at].nat.map(socket, target);
        self.pings.push(Ping { arrives: now + LATENCY, to: 1 - at, source, target });
    }

    fn on_told(&mut self, now: Instant, Told { to: at, behaviour, .. }: Told) {
        let end = &mut self.ends[at];
        let ours = end.observations.behaviour(now);
        let Some(sockets) = end.probing.on_told(now, &ours, &behaviour, &mut end.entropy) else { return };
        if at == 1 {
            let behaviour = NatBehaviour { begins: true, ..ours };
            self.told.push(Told { arrives: now + RELAY_LATENCY, to: 0, behaviour });
        }
        let known = self.ends[1 - at].observed();
        for _ in 0..sockets {
            self.ends[at].sockets += 1;
            self.ping(now, at, self.ends[at].sockets, known);
        }
    }

    fn handle_timeout(&mut self, now: Instant, at: usize) {
        let end = &mut self.ends[at];
        if end.probing.ask(now) {
            let behaviour = NatBehaviour { begins: true, ..end.observations.behaviour(now) };
            self.told.push(Told { arrives: now + RELAY_LATENCY, to: 1 - at, behaviour });
        }
        let ports = end.probing.handle_timeout(now);
        end.observations.on_new_destinations(u32::try_from(ports.len()).unwrap());
        let outside = self.ends[1 - at].nat.outside();
        let wasted = if ports.is_empty() { 0 } else { self.waste_per_burst };
        for port in ports {
            self.ping(now, at, 0, SocketAddr::new(outside, port));
        }
        for _ in 0..wasted {
            self.ends[at].nat.waste();
        }
    }
}

/// When the first ping arrives at a node, if one does.
fn meet(seed: u8, ports: [Ports; 2], busy: [u32; 2], waste_per_burst: u32) -> Option<Instant> {
    let ends = [
        End::new(1, seed, ports[0], busy[0], Role::First),
        End::new(2, seed, ports[1], busy[1], Role::Second),
    ];
    let mut pair = Pair { ends, pings: Vec::new(), told: Vec::new(), waste_per_burst };
    loop {
        let due = pair.ends.iter().filter_map(|end| end.probing.poll_timeout());
        let arrivals =
            pair.pings.iter().map(|ping| ping.arrives).chain(pair.told.iter().map(|told| told.arrives));
        let now = due.chain(arrivals).min()?;
        let (arrived, left) =
            core::mem::take(&mut pair.pings).into_iter().partition(|ping| ping.arrives <= now);
        pair.pings = left;
        let arrived: Vec<Ping> = arrived;
        for ping in arrived {
            if pair.ends[ping.to].nat.may_enter(ping.source, ping.target) {
                return Some(now);
            }
        }
        let (arrived, left) =
            core::mem::take(&mut pair.told).into_iter().partition(|told| told.arrives <= now);
        pair.told = left;
        let arrived: Vec<Told> = arrived;
        for told in arrived {
            pair.on_told(now, told);
        }
        pair.handle_timeout(now, 0);
        pair.handle_timeout(now, 1);
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

/// 64 sockets and 256 ports of 64,512 in an attempt, 192 and 768 in three: 22 % and 90 %.
#[test]
fn many_sockets_mostly_meet_random_ports() {
    for ports in [[Ports::Random, Ports::Same], [Ports::Same, Ports::Random]] {
        let share = share(ports, |_| [0, 0], 0);
        assert!((0.75..0.97).contains(&share), "{ports:?}: {share}");
    }
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
