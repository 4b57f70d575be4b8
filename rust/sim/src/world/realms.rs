//! Address realms (RFC 2663) and the boxes between them: who owns which address where, and how a datagram gets
//! from one realm to another.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::BTreeMap;

use super::World;
use crate::{
    flow::HostId,
    nat::{Firewall, FirewallConfig, Nat, NatConfig},
    rng::Rng,
};
use pilot_proto::time::Instant;

/// Most boxes that a datagram passes on its way out, and on its way in.
const MAX_HOPS: usize = 8;

/// Identifies a NAT box or firewall.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BoxId(pub(super) usize);

/// Where hosts and boxes are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// The public network.
    #[default]
    Public,
    /// The network inside a box.
    Behind(BoxId),
}

/// What a box does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BoxConfig {
    /// Translation of IPv4. Without it the inside has public IPv4 addresses.
    pub nat: Option<NatConfig>,
    /// The filter for what is not translated.
    pub firewall: Option<FirewallConfig>,
    /// IPv4 addresses outside; at least one.
    pub outside: u8,
}

/// Something that owns an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Party {
    Host(HostId),
    Beacon(usize),
    Box(BoxId),
}

/// A realm by its index; [`PUBLIC`] is the first.
pub(super) type RealmId = usize;
pub(super) const PUBLIC: RealmId = 0;

#[derive(Debug, Default)]
struct Realm {
    /// The box towards the public network.
    gateway: Option<BoxId>,
    owners: BTreeMap<IpAddr, Party>,
    assigned: u16,
}

#[derive(Debug)]
struct Gateway {
    outside: RealmId,
    inside: RealmId,
    nat: Option<Nat>,
    firewall: Option<Firewall>,
}

/// All realms and boxes.
#[derive(Debug)]
pub(super) struct Realms {
    realms: Vec<Realm>,
    boxes: Vec<Gateway>,
    /// Public addresses assigned so far; none is assigned twice.
    assigned: u32,
}

/// A datagram in its outermost realm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed {
    pub(super) realm: RealmId,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

impl Default for Realms {
    fn default() -> Self {
        Self { realms: vec![Realm::default()], boxes: Vec::new(), assigned: 0 }
    }
}

impl Realms {
    pub(super) fn realm_of(&self, place: Place) -> RealmId {
        match place {
            Place::Public => PUBLIC,
            Place::Behind(id) => self.boxes[id.0].inside,
        }
    }

    /// Assigns an IPv4 address in a realm: a private one if a box translates on the way out.
    pub(super) fn assign_v4(&mut self, realm: RealmId, owner: Party) -> IpAddr {
        let is_translated = self.way_out(realm).any(|gateway| gateway.nat.is_some());
        if !is_translated {
            self.assigned += 1;
            let [_, a, b, c] = self.assigned.to_be_bytes();
            let address = IpAddr::V4(Ipv4Addr::new(5, a, b, c));
            self.own(realm, address, owner);
            return address;
        }
        let inside = &mut self.realms[realm];
        inside.assigned += 1;
        let [high, low] = inside.assigned.to_be_bytes();
        // Homes share one private range, customers of a carrier another (RFC 6598).
        let address = match owner {
            Party::Box(_) => Ipv4Addr::new(100, 64, high, low),
            Party::Host(_) | Party::Beacon(_) => Ipv4Addr::new(192, 168, high + 1, low + 1),
        };
        inside.owners.insert(IpAddr::V4(address), owner);
        IpAddr::V4(address)
    }

    /// Assigns an IPv6 address, which is public everywhere.
    pub(super) fn assign_v6(&mut self, realm: RealmId, owner: Party) -> IpAddr {
        self.assigned += 1;
        let [a, b, c, d] = self.assigned.to_be_bytes();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let subnet = u16::try_from(realm).unwrap_or(u16::MAX);
        let address = IpAddr::V6(Ipv6Addr::new(0x2a00, 0, 0, subnet, 0, 0, high, low));
        self.own(realm, address, owner);
        address
    }

    /// Makes a public address known in a realm and in those between it and the public network.
    fn own(&mut self, realm: RealmId, address: IpAddr, owner: Party) {
        let (mut realm, mut owner) = (realm, owner);
        loop {
            self.realms[realm].owners.insert(address, owner);
            let Some(gateway) = self.realms[realm].gateway else { return };
            owner = Party::Box(gateway);
            realm = self.boxes[gateway.0].outside;
        }
    }

    /// Takes an address from its owner.
    pub(super) fn release(&mut self, realm: RealmId, address: IpAddr) {
        let mut next = Some(realm);
        let Some(owner) = self.realms[realm].owners.get(&address).copied() else { return };
        let mut owner = owner;
        while let Some(realm) = next {
            if self.realms[realm].owners.get(&address) != Some(&owner) {
                return;
            }
            self.realms[realm].owners.remove(&address);
            next = self.realms[realm].gateway.map(|gateway| {
                owner = Party::Box(gateway);
                self.boxes[gateway.0].outside
            });
        }
    }

    /// The boxes between a realm and the public network.
    fn way_out(&self, realm: RealmId) -> impl Iterator<Item = &Gateway> {
        let gateway = |realm: RealmId| self.realms[realm].gateway.map(|id| &self.boxes[id.0]);
        core::iter::successors(gateway(realm), move |outer| gateway(outer.outside))
    }

    fn add_box(&mut self, place: Place, config: BoxConfig, rng: &mut Rng) -> BoxId {
        let id = BoxId(self.boxes.len());
        let (outside, inside) = (self.realm_of(place), self.realms.len());
        self.realms.push(Realm { gateway: Some(id), ..Realm::default() });
        let nat = config.nat.map(|nat| {
            let addresses = (0..config.outside.max(1)).map(|_| self.assign_v4(outside, Party::Box(id)));
            Nat::new(nat, addresses.collect(), rng)
        });
        self.boxes.push(Gateway { outside, inside, nat, firewall: config.firewall.map(Firewall::new) });
        id
    }

    fn reboot(&mut self, id: BoxId, is_renumbered: bool, rng: &mut Rng) {
        let outside = self.boxes[id.0].outside;
        let before = self.boxes[id.0].nat.as_ref().filter(|_| is_renumbered);
        let fresh = before.map(|nat| nat.outside().to_vec()).map(|addresses| {
            addresses.iter().for_each(|address| self.release(outside, *address));
            addresses.iter().map(|_| self.assign_v4(outside, Party::Box(id))).collect()
        });
        let gateway = &mut self.boxes[id.0];
        gateway.nat.iter_mut().for_each(|nat| nat.reboot(fresh.clone(), rng));
        gateway.firewall.iter_mut().for_each(Firewall::reboot);
    }

    /// Takes a datagram outwards to the realm that knows its destination; `None` if it is lost on the way.
    pub(super) fn send(&mut self, now: Instant, from: Routed, rng: &mut Rng) -> Option<Routed> {
        let mut at = from;
        for _ in 0..MAX_HOPS {
            if self.realms[at.realm].owners.contains_key(&at.destination.ip()) {
                return Some(at);
            }
            let gateway = &mut self.boxes[self.realms[at.realm].gateway?.0];
            match &mut gateway.nat {
                Some(nat) if at.source.is_ipv4() => {
                    at.source = nat.outbound(now, at.source, at.destination, rng)?;
                    let is_hairpin = nat.outside().contains(&at.destination.ip());
                    if is_hairpin && !nat.config().has_hairpinning {
                        return None;
                    }
                }
                _ => {
                    let may_pass =
                        |firewall: &mut Firewall| firewall.outbound(now, at.source, at.destination);
                    if !gateway.firewall.as_mut().is_none_or(may_pass) {
                        return None;
                    }
                }
            }
            at.realm = gateway.outside;
        }
        None
    }

    /// Takes a datagram inwards to the one that receives it, and returns the address that it then has.
    pub(super) fn receive(&mut self, now: Instant, datagram: Routed) -> Option<(Party, SocketAddr)> {
        let mut at = datagram;
        for _ in 0..MAX_HOPS {
            let owner = self.realms[at.realm].owners.get(&at.destination.ip()).copied()?;
            let Party::Box(id) = owner else { return Some((owner, at.destination)) };
            let gateway = &mut self.boxes[id.0];
            match &mut gateway.nat {
                Some(nat) if nat.outside().contains(&at.destination.ip()) => {
                    at.destination = nat.inbound(now, at.source, at.destination)?;
                }
                _ => {
                    let may_pass = |firewall: &mut Firewall| firewall.inbound(now, at.source, at.destination);
                    if !gateway.firewall.as_mut().is_none_or(may_pass) {
                        return None;
                    }
                }
            }
            at.realm = gateway.inside;
        }
        None
    }

    /// Whom a destination stands for at present, whatever filters say.
    pub(super) fn party_at(
        &self,
        now: Instant,
        realm: RealmId,
        destination: SocketAddr,
    ) -> Option<(RealmId, Party)> {
        let (mut realm, mut destination) = (realm, destination);
        for _ in 0..MAX_HOPS {
            let owner = self.realms[realm].owners.get(&destination.ip()).copied()?;
            let Party::Box(id) = owner else { return Some((realm, owner)) };
            let gateway = &self.boxes[id.0];
            match &gateway.nat {
                Some(nat) if nat.outside().contains(&destination.ip()) => {
                    let Some(inside) = nat.inside_of(now, destination) else { return Some((realm, owner)) };
                    destination = inside;
                }
                _ => {}
            }
            realm = gateway.inside;
        }
        None
    }
}

impl World {
    /// Adds a NAT box or firewall.
    pub fn add_box(&mut self, place: Place, config: BoxConfig) -> BoxId {
        self.realms.add_box(place, config, &mut self.rng)
    }

    /// A box loses its states; with `is_renumbered` it comes back with other addresses outside.
    pub fn reboot_box(&mut self, id: BoxId, is_renumbered: bool) {
        self.realms.reboot(id, is_renumbered, &mut self.rng);
    }

    /// The translator of a box.
    pub fn nat(&self, id: BoxId) -> Option<&Nat> {
        self.realms.boxes[id.0].nat.as_ref()
    }
}
