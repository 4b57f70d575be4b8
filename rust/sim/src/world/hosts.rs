//! Hosts: their nodes, identities and restarts.

use core::net::SocketAddr;
use std::collections::VecDeque;

use super::{World, transfers::FLOW_PORT, wire::Parcel};
use crate::flow::HostId;
use pilot_proto::{
    node::{Event, Node, TooBig},
    time::Instant,
    wire::addr::{Address, NodeId},
};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) node: Node,
    boots: u8,
    /// Events that belong to no transfer.
    pub(super) events: VecDeque<Event>,
}

impl Host {
    pub(super) fn receive(&mut self, now: Instant, parcel: Parcel) {
        match parcel {
            Parcel::Datagram { from, mut bytes } => {
                self.node.handle_datagram(now, endpoint(from), &mut bytes);
            }
            Parcel::TooBig { destination, mtu, quote } => {
                let destination = endpoint(destination);
                let report = TooBig { destination, max_datagram: mtu, quote: Some(&quote) };
                self.node.handle_too_big(now, &report);
            }
        }
    }
}

pub(super) fn endpoint(host: HostId) -> SocketAddr {
    let [.., high, low] = host.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 4000))
}

pub(super) fn host_of(at: SocketAddr) -> HostId {
    match at.ip() {
        core::net::IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            usize::from(high) * 256 + usize::from(low)
        }
        core::net::IpAddr::V6(_) => HostId::MAX,
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
    /// Adds a host that accepts transfers.
    pub fn add_host(&mut self) -> HostId {
        let host = self.hosts.len();
        let node = self.boot(host, 0);
        self.hosts.push(Host { node, boots: 0, events: VecDeque::new() });
        host
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
        self.hosts[host] = Host { node, boots, events: VecDeque::new() };
        self.senders.retain(|(owner, _), _| *owner != host);
        self.receivers.retain(|(owner, _), _| *owner != host);
        for flow in self.flows.iter_mut().filter(|flow| flow.from == host || flow.to == host) {
            flow.is_orphan = true;
        }
    }

    /// A host's node.
    pub fn node(&mut self, host: HostId) -> &mut Node {
        &mut self.hosts[host].node
    }

    /// A host's address.
    pub fn address(&self, host: HostId) -> Address {
        Address::backbone(node_id(host))
    }

    /// The next event of a host that belongs to no transfer.
    pub fn poll_event(&mut self, host: HostId) -> Option<Event> {
        self.hosts[host].events.pop_front()
    }
}
