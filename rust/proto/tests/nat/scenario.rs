//! Networks of two nodes drawn from a seed: what is between each of them and the public network.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions, time::Instant, tunnel::PeerStatus};
use pilot_sim::{
    Attachment, BeaconId, BoxConfig, BoxId, FlowId, HostId, Loss, Path, Place, Rng, World,
    nat::{Allocation, Behaviour, FirewallConfig, NatConfig},
};

/// What is between a host and the public network.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Access {
    /// Nothing.
    Public,
    /// A firewall without translation.
    Firewall(FirewallConfig),
    /// A home router.
    Home(NatConfig),
    /// A home router behind a carrier's translator.
    Carrier {
        /// At home.
        home: NatConfig,
        /// At the carrier.
        carrier: NatConfig,
    },
}

/// Which protocols a host has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

/// One of the two hosts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Side {
    /// How it reaches the public network.
    pub(crate) access: Access,
    /// Its protocols.
    pub(crate) family: Family,
}

/// What the two hosts have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shared {
    /// Nothing but the public network.
    Nothing,
    /// The carrier, which is that of the first.
    Carrier,
    /// The home network, which is that of the first.
    Home,
}

/// A network of two hosts and their beacons.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Scenario {
    /// The one that dials, and the other.
    pub(crate) sides: [Side; 2],
    /// What they share.
    pub(crate) shared: Shared,
    /// One-way delay between them, and between each and the beacons.
    pub(crate) direct: Duration,
    /// See [`Self::direct`].
    pub(crate) to_beacon: [Duration; 2],
    /// Random loss on every path.
    pub(crate) loss: f64,
    /// Beacons; both hosts prefer the first.
    pub(crate) beacons: usize,
}

/// A network that was built.
pub(crate) struct Built {
    pub(crate) world: World,
    pub(crate) hosts: [HostId; 2],
    pub(crate) beacons: Vec<BeaconId>,
    /// The outermost box of each host, and the innermost.
    pub(crate) boxes: [Vec<BoxId>; 2],
}

fn behaviour(rng: &mut Rng) -> Behaviour {
    Behaviour::ALL[rng.below(3) as usize]
}

fn lifetime(rng: &mut Rng) -> Duration {
    Duration::from_secs(30 + rng.below(150))
}

/// Any box that RFC 4787 describes.
pub(crate) fn nat(rng: &mut Rng) -> NatConfig {
    let allocation = match rng.below(3) {
        0 => Allocation::Preserving,
        1 => Allocation::Sequential { step: 1 + rng.below(2) as u16, noise: rng.below(3) as u16 },
        _ => Allocation::Random,
    };
    NatConfig {
        mapping: behaviour(rng),
        filtering: behaviour(rng),
        allocation,
        is_paired: true,
        has_hairpinning: rng.below(2) == 0,
        lifetime: lifetime(rng),
        is_refreshed_inbound: rng.below(2) == 0,
        capacity: 4096,
    }
}

fn firewall(rng: &mut Rng) -> FirewallConfig {
    FirewallConfig {
        filtering: behaviour(rng),
        lifetime: lifetime(rng),
        is_refreshed_inbound: rng.below(2) == 0,
        capacity: 4096,
    }
}

/// What a host may be behind.
pub(crate) fn access(rng: &mut Rng) -> Access {
    match rng.below(8) {
        0 => Access::Public,
        1 => Access::Firewall(firewall(rng)),
        2 => Access::Carrier { home: nat(rng), carrier: nat(rng) },
        _ => Access::Home(nat(rng)),
    }
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_micros(1000 * from + rng.below(1000 * (to - from)))
}

/// Any network.
pub(crate) fn draw(rng: &mut Rng) -> Scenario {
    let mut side = || Side {
        access: access(rng),
        family: match rng.below(8) {
            0 => Family::V6,
            1 => Family::Dual,
            _ => Family::V4,
        },
    };
    let sides = [side(), side()];
    let shared = match (sides[0].access, rng.below(6)) {
        (Access::Carrier { .. }, 0 | 1) => Shared::Carrier,
        (Access::Carrier { .. } | Access::Home(_) | Access::Firewall(_), 2) => Shared::Home,
        _ => Shared::Nothing,
    };
    Scenario {
        sides,
        shared,
        direct: millis(rng, 1, 120),
        to_beacon: [millis(rng, 1, 120), millis(rng, 1, 120)],
        loss: if rng.below(2) == 0 { 0.0 } else { rng.below(30) as f64 / 1000.0 },
        beacons: 1 + rng.below(2) as usize,
    }
}

impl Scenario {
    fn path(&self, latency: Duration) -> Path {
        let loss = if self.loss > 0.0 { Loss::Random(self.loss) } else { Loss::None };
        Path { latency, loss, ..Path::default() }
    }

    /// Builds the network; the nodes know their endpoints and each other's when it is returned.
    pub(crate) fn build(&self, seed: u64) -> Built {
        let mut world = World::new(seed, NodeConfig::default(), self.path(self.direct));
        let beacons: Vec<_> = (0..self.beacons).map(|_| world.add_beacon()).collect();
        let mut boxes = [Vec::new(), Vec::new()];
        boxes[0] = add_boxes(&mut world, Place::Public, self.sides[0].access);
        boxes[1] = match (self.shared, self.sides[1].access) {
            (Shared::Home, _) => boxes[0].clone(),
            (Shared::Carrier, Access::Carrier { home, .. } | Access::Home(home)) => {
                let mut both = vec![boxes[0][0]];
                both.extend(add_boxes(&mut world, Place::Behind(boxes[0][0]), Access::Home(home)));
                both
            }
            (Shared::Carrier, _) => vec![boxes[0][0]],
            (Shared::Nothing, access) => add_boxes(&mut world, Place::Public, access),
        };
        let hosts = [0, 1].map(|n| world.add_host_at(attachment(&boxes[n], self.sides[n].family)));
        for (n, host) in hosts.into_iter().enumerate() {
            for beacon in &beacons {
                world.set_beacon_path(host, *beacon, self.path(self.to_beacon[n]));
            }
        }
        // Discovery, and what proves our address to the beacons.
        world.run_for(Duration::from_secs(3));
        Built { world, hosts, beacons, boxes }
    }

    /// The round trip between the hosts through a beacon.
    pub(crate) fn relay_rtt(&self) -> Duration {
        2 * (self.to_beacon[0] + self.to_beacon[1])
    }
}

/// A place behind the last of these boxes.
pub(crate) fn attachment(boxes: &[BoxId], family: Family) -> Attachment {
    let place = boxes.last().map_or(Place::Public, |inner| Place::Behind(*inner));
    match family {
        Family::V4 => Attachment::v4(place),
        Family::V6 => Attachment::v6(place),
        Family::Dual => Attachment::dual(place),
    }
}

/// Adds what an access consists of, the outermost box first.
pub(crate) fn add_boxes(world: &mut World, place: Place, access: Access) -> Vec<BoxId> {
    let firewall = |filtering| Some(FirewallConfig { filtering, ..FirewallConfig::default() });
    let router = |nat: NatConfig| BoxConfig { nat: Some(nat), firewall: firewall(nat.filtering), outside: 1 };
    match access {
        Access::Public => Vec::new(),
        Access::Firewall(firewall) => {
            vec![world.add_box(place, BoxConfig { nat: None, firewall: Some(firewall), outside: 1 })]
        }
        Access::Home(nat) => vec![world.add_box(place, router(nat))],
        Access::Carrier { home, carrier } => {
            let outer = world.add_box(place, BoxConfig { nat: Some(carrier), firewall: None, outside: 1 });
            vec![outer, world.add_box(Place::Behind(outer), router(home))]
        }
    }
}

/// The longest time without a delivery.
pub(crate) fn longest_gap(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1].saturating_since(pair[0])).max().unwrap_or_default()
}

impl Built {
    /// Dials from the first host to the second, which echoes.
    pub(crate) fn dial(&mut self, bytes: u64) -> FlowId {
        let [from, to] = self.hosts;
        self.world.start_flow(from, to, bytes, DialOptions::default(), true).unwrap()
    }

    /// What each host knows of the other.
    pub(crate) fn peers(&mut self) -> [Option<PeerStatus>; 2] {
        let [a, b] = self.hosts;
        [(a, b), (b, a)].map(|(own, other)| {
            let id = self.world.address(other).node;
            self.world.node(own).peers().find(|(peer, _)| *peer == id).map(|(_, status)| status)
        })
    }

    /// Whether both hosts send to each other without a beacon.
    pub(crate) fn is_direct(&mut self) -> bool {
        self.peers().into_iter().flatten().filter(|status| status.class.is_some()).count() == 2
    }

    /// Writes a little at intervals for `time`, or until `is_done`.
    pub(crate) fn drip(
        &mut self,
        flow: FlowId,
        time: Duration,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        const INTERVAL: Duration = Duration::from_millis(50);
        let end = self.world.now + time;
        while self.world.now < end {
            if is_done(self) {
                return true;
            }
            self.world.append(flow, 200);
            self.world.run_for(INTERVAL);
        }
        is_done(self)
    }

    /// Writes this much every 10 ms for `time`. Returns when bytes were delivered.
    pub(crate) fn stream(&mut self, flow: FlowId, bytes: u64, time: Duration) -> Vec<Instant> {
        const INTERVAL: Duration = Duration::from_millis(10);
        let (end, mut times, mut received) = (self.world.now + time, Vec::new(), 0);
        while self.world.now < end {
            self.world.append(flow, bytes);
            let until = self.world.now + INTERVAL;
            let _ = self.world.run_until(INTERVAL, |world| {
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

    /// Waits until everything that was written has come back.
    ///
    /// # Panics
    /// When it has not within `limit`, or the connection was closed.
    pub(crate) fn settle(&mut self, flow: FlowId, limit: Duration) {
        let result = self.world.run_until(limit, |world| world.flow(flow).finished.is_some());
        let state = self.world.flow(flow);
        assert!(result.is_ok() && state.closed.is_none(), "{result:?}: {state:?}");
    }
}
