//! Hosts: their nodes, identities, interfaces and restarts.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::{
    World,
    realms::{Party, Place, RealmId, Routed},
    transfers::FLOW_PORT,
};
use crate::flow::HostId;
use pilot_proto::{
    crypto::identity::Identity,
    node::{Event, Node},
    tunnel::{Candidate, CandidateKind},
    wire::addr::{Address, NodeId},
};

/// The UDP port of every node.
const NODE_PORT: u16 = 4000;

/// How a host is attached to a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Which network.
    pub place: Place,
    /// Whether it has an IPv4 address.
    pub has_v4: bool,
    /// Whether it has an IPv6 address.
    pub has_v6: bool,
}

impl Attachment {
    /// With an IPv4 address only.
    pub fn v4(place: Place) -> Self {
        Self { place, has_v4: true, has_v6: false }
    }

    /// With an IPv6 address only.
    pub fn v6(place: Place) -> Self {
        Self { place, has_v4: false, has_v6: true }
    }

    /// With both.
    pub fn dual(place: Place) -> Self {
        Self { place, has_v4: true, has_v6: true }
    }
}

impl Default for Attachment {
    fn default() -> Self {
        Self::v4(Place::Public)
    }
}

/// Whether a host's operating system reports a change of its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It does, as netlink.
    Reported,
    /// The node has to find out by itself.
    Silent,
}

#[derive(Debug)]
struct Interface {
    realm: RealmId,
    addresses: Vec<IpAddr>,
    is_up: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: Node,
    boots: u8,
    /// Events that belong to no transfer.
    pub(super) events: VecDeque<Event>,
    /// In order of preference.
    interfaces: Vec<Interface>,
    /// Whether it runs. A suspended host neither sends nor receives.
    pub(super) is_awake: bool,
    /// The endpoint that discovery learned, as registered.
    pub(super) discovered: Option<SocketAddr>,
    /// Its addresses, as registered.
    pub(super) named: Vec<SocketAddr>,
    /// Beacons in order of preference.
    pub(super) beacons: Vec<usize>,
}

impl Host {
    /// Addresses of interfaces that are up.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let up = self.interfaces.iter().filter(|interface| interface.is_up);
        up.flat_map(|interface| &interface.addresses).map(|ip| SocketAddr::new(*ip, NODE_PORT))
    }

    /// A datagram as it leaves the host; `None` without an address of its family.
    pub(super) fn send(&self, destination: SocketAddr) -> Option<Routed> {
        let up = self.interfaces.iter().filter(|interface| interface.is_up);
        let mut sources =
            up.flat_map(|interface| interface.addresses.iter().map(move |ip| (interface.realm, *ip)));
        let (realm, ip) = sources.find(|(_, ip)| ip.is_ipv4() == destination.is_ipv4())?;
        Some(Routed { realm, source: SocketAddr::new(ip, NODE_PORT), destination })
    }

    /// Whether a datagram to this address reaches the node.
    pub(super) fn receives_at(&self, address: SocketAddr) -> bool {
        self.is_awake && self.addresses().any(|own| own == address)
    }
}

pub(super) fn node_id(host: HostId) -> NodeId {
    NodeId(u32::try_from(host + 1).unwrap_or(u32::MAX))
}

pub(super) fn identity_seed(host: HostId) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(host as u64 + 1).to_be_bytes());
    seed
}

impl World {
    /// Adds a host with a public IPv4 address that accepts transfers.
    pub fn add_host(&mut self) -> HostId {
        self.add_host_at(Attachment::default())
    }

    /// Adds a host that accepts transfers. Its node uses the beacons added so far.
    pub fn add_host_at(&mut self, attachment: Attachment) -> HostId {
        let host = self.hosts.len();
        let node = self.boot(host, 0);
        let interfaces = vec![self.interface(host, attachment)];
        self.hosts.push(Host {
            node,
            boots: 0,
            events: VecDeque::new(),
            interfaces,
            is_awake: true,
            discovered: None,
            named: Vec::new(),
            beacons: (0..self.beacons.len()).collect(),
        });
        self.introduce(host);
        host
    }

    fn interface(&mut self, host: HostId, attachment: Attachment) -> Interface {
        let realm = self.realms.realm_of(attachment.place);
        let v4 = attachment.has_v4.then(|| self.realms.assign_v4(realm, Party::Host(host)));
        let v6 = attachment.has_v6.then(|| self.realms.assign_v6(realm, Party::Host(host)));
        Interface { realm, addresses: v4.into_iter().chain(v6).collect(), is_up: true }
    }

    #[allow(clippy::expect_used, reason = "a derived seed is never refused")]
    fn boot(&mut self, host: HostId, boots: u8) -> Node {
        let mut seed = identity_seed(host);
        seed[31] = boots;
        seed[16..24].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        let mut node = Node::new(self.now, &identity_seed(host), &seed, self.config.clone())
            .expect("the identity's seed is taken");
        node.set_address(Address::backbone(node_id(host)));
        let _ = node.listen(FLOW_PORT);
        node
    }

    /// Replaces a host's node with a new one, as after a crash.
    pub fn restart(&mut self, host: HostId) {
        let boots = self.hosts[host].boots.wrapping_add(1);
        let node = self.boot(host, boots);
        let at = &mut self.hosts[host];
        (at.node, at.boots) = (node, boots);
        at.events.clear();
        self.senders.retain(|(owner, _), _| *owner != host);
        self.receivers.retain(|(owner, _), _| *owner != host);
        for flow in self.flows.iter_mut().filter(|flow| flow.from == host || flow.to == host) {
            flow.is_orphan = true;
        }
        self.introduce(host);
    }

    /// Adds an interface, which is used where the earlier ones have no address.
    pub fn add_interface(&mut self, host: HostId, attachment: Attachment, notice: Notice) {
        let interface = self.interface(host, attachment);
        self.hosts[host].interfaces.push(interface);
        self.on_addresses_changed(host, notice);
    }

    /// Moves a host's first interface to another network.
    pub fn roam(&mut self, host: HostId, attachment: Attachment, notice: Notice) {
        let interface = self.interface(host, attachment);
        let before = core::mem::replace(&mut self.hosts[host].interfaces[0], interface);
        for address in before.addresses {
            self.realms.release(before.realm, address);
        }
        self.on_addresses_changed(host, notice);
    }

    /// Takes a host's `n`th interface up or down.
    pub fn set_interface(&mut self, host: HostId, n: usize, is_up: bool, notice: Notice) {
        self.hosts[host].interfaces[n].is_up = is_up;
        self.on_addresses_changed(host, notice);
    }

    /// Suspends or resumes a host.
    pub fn set_awake(&mut self, host: HostId, is_awake: bool) {
        self.hosts[host].is_awake = is_awake;
    }

    fn on_addresses_changed(&mut self, host: HostId, notice: Notice) {
        if notice == Notice::Reported {
            self.hosts[host].node.on_own_address(self.now);
            self.name_candidates(host);
        }
    }

    /// Tells a node and the registry the addresses of its host, as the daemon does. In a network without beacons
    /// everyone has one address, which the registry knows.
    pub(super) fn name_candidates(&mut self, host: HostId) {
        if self.hosts[host].beacons.is_empty() {
            return;
        }
        let named: Vec<_> = self.hosts[host].addresses().collect();
        let of = |address: &SocketAddr| Candidate { kind: CandidateKind::Host, address: *address };
        self.hosts[host].node.set_candidates(self.now, named.iter().map(of).collect());
        self.hosts[host].named = named;
    }

    /// The addresses of a host.
    pub fn addresses(&self, host: HostId) -> Vec<SocketAddr> {
        self.hosts[host].addresses().collect()
    }

    /// A host's node.
    pub fn node(&mut self, host: HostId) -> &mut Node {
        &mut self.hosts[host].node
    }

    /// A host's address in the overlay network.
    pub fn address(&self, host: HostId) -> Address {
        Address::backbone(node_id(host))
    }

    /// The next event of a host that belongs to no transfer.
    pub fn poll_event(&mut self, host: HostId) -> Option<Event> {
        self.hosts[host].events.pop_front()
    }

    /// A host's identity key.
    pub(super) fn identity_key(host: HostId) -> Option<[u8; 32]> {
        Identity::from_seed(&identity_seed(host)).ok().map(|identity| identity.public_key())
    }
}
