//! Beacons as nodes of the public network, each with an address of both families.

use core::net::{IpAddr, SocketAddr};

use super::{
    World,
    realms::{PUBLIC, Party, Routed},
};
use crate::{
    channel::{Channel, Path},
    flow::HostId,
};
use pilot_proto::{
    beacon::{Beacon, BeaconConfig},
    time::Instant,
};

const BEACON_PORT: u16 = 9001;

/// Identifies a beacon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BeaconId(pub(super) usize);

/// A beacon and its addresses.
#[derive(Debug)]
pub(super) struct BeaconHost {
    beacon: Option<Beacon>,
    v4: SocketAddr,
    v6: SocketAddr,
}

impl BeaconHost {
    /// When it has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.beacon.as_ref().and_then(Beacon::poll_timeout)
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(beacon) = &mut self.beacon {
            beacon.handle_timeout(now);
        }
    }

    /// Takes a datagram, unless it is dead.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(beacon) = self.beacon.as_mut().filter(|_| to == self.v4 || to == self.v6) {
            beacon.handle_datagram(now, from, bytes);
        }
    }
}

impl World {
    /// Adds a beacon. Hosts added from now on use it, and the other beacons learn of it.
    pub fn add_beacon(&mut self) -> BeaconId {
        let id = self.beacons.len();
        let v4 = SocketAddr::new(self.realms.assign_v4(PUBLIC, Party::Beacon(id)), BEACON_PORT);
        let v6 = SocketAddr::new(self.realms.assign_v6(PUBLIC, Party::Beacon(id)), BEACON_PORT);
        self.beacons.push(BeaconHost { beacon: None, v4, v6 });
        self.restart_beacon(BeaconId(id));
        BeaconId(id)
    }

    /// Replaces a beacon with one that knows nobody, as after a crash, or starts a dead one.
    pub fn restart_beacon(&mut self, id: BeaconId) {
        let mut seed = [0; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&self.rng.next_u64().to_be_bytes());
        }
        let config = BeaconConfig {
            id: u32::try_from(id.0 + 1).unwrap_or(u32::MAX),
            seed,
            trusts_loopback: false,
            probe_ports: Vec::new(),
            public_ips: Vec::<IpAddr>::new(),
        };
        self.beacons[id.0].beacon = Some(Beacon::new(config));
        self.list_beacons();
    }

    /// A beacon dies. The registry no longer lists it.
    pub fn kill_beacon(&mut self, id: BeaconId) {
        self.beacons[id.0].beacon = None;
        self.list_beacons();
    }

    /// Tells every beacon of the others that live, as the registry does.
    fn list_beacons(&mut self) {
        let alive = self.beacons.iter().filter(|host| host.beacon.is_some());
        let alive: Vec<_> = alive.map(|host| host.v4).collect();
        for host in &mut self.beacons {
            let own = host.v4;
            if let Some(beacon) = &mut host.beacon {
                beacon.set_beacons(self.now, alive.iter().copied().filter(|other| *other != own));
            }
        }
    }

    /// A beacon, unless it is dead.
    pub fn beacon(&self, id: BeaconId) -> Option<&Beacon> {
        self.beacons[id.0].beacon.as_ref()
    }

    /// The addresses of a beacon.
    pub fn beacon_addresses(&self, id: BeaconId) -> [SocketAddr; 2] {
        let host = &self.beacons[id.0];
        [host.v4, host.v6]
    }

    /// Sets the beacons of a host, the preferred one first.
    pub fn set_beacons(&mut self, host: HostId, beacons: &[BeaconId]) {
        self.hosts[host].beacons = beacons.iter().map(|id| id.0).collect();
        self.introduce(host);
    }

    /// Gives a host's node the addresses of its beacons, of the family that it has, and its own.
    pub(super) fn introduce(&mut self, host: HostId) {
        let at = &self.hosts[host];
        let has_v4 = at.addresses().any(|address| address.is_ipv4());
        let beacons = at.beacons.iter().map(|id| &self.beacons[*id]);
        let addresses: Vec<_> = beacons.map(|host| if has_v4 { host.v4 } else { host.v6 }).collect();
        if !addresses.is_empty() {
            self.hosts[host].node.set_beacons(self.now, addresses);
            self.name_candidates(host);
        }
    }

    /// Sets both directions between a host and a beacon.
    pub fn set_beacon_path(&mut self, host: HostId, beacon: BeaconId, path: Path) {
        let (host, beacon) = (Party::Host(host), Party::Beacon(beacon.0));
        self.channels.insert((host, beacon), Channel::new(path));
        self.channels.insert((beacon, host), Channel::new(path));
    }

    /// Sends what a beacon has to send.
    pub(super) fn drain_beacon(&mut self, id: usize) {
        let mut buffer = Vec::new();
        loop {
            let host = &mut self.beacons[id];
            let Some(beacon) = &mut host.beacon else { break };
            let Some(transmit) = beacon.poll_transmit(self.now, &mut buffer, super::wire::BATCH) else {
                break;
            };
            let source = if transmit.destination.is_ipv4() { host.v4 } else { host.v6 };
            let from = Routed { realm: PUBLIC, source, destination: transmit.destination };
            let size = transmit.segment_size.unwrap_or(transmit.len).max(1);
            for datagram in buffer[..transmit.len].chunks(size) {
                self.carry(Party::Beacon(id), from, datagram);
            }
        }
    }
}
