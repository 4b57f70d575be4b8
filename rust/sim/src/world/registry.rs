//! The registry's part: it knows the key of every host, and the endpoint that the host's daemon registered.

use super::{World, hosts::node_id, wire::Parcel};
use crate::flow::HostId;
use pilot_proto::{time::Duration, wire::addr::NodeId};

impl World {
    /// Sets the time that the registry takes to answer; at first none.
    pub fn set_registry_delay(&mut self, delay: Duration) {
        self.registry_delay = delay;
    }

    fn host_of(&self, id: NodeId) -> Option<HostId> {
        (0..self.hosts.len()).find(|host| node_id(*host) == id)
    }

    /// A host asks for a record.
    pub(super) fn ask_record(&mut self, host: HostId, id: NodeId) {
        if self.registry_delay.is_zero() {
            self.answer_record(host, id);
        } else {
            self.schedule(self.now + self.registry_delay, Parcel::Record { host, id });
        }
    }

    /// Answers a record request. A host whose endpoint no beacon named is registered with its own address, as by
    /// the daemon.
    pub(super) fn answer_record(&mut self, host: HostId, id: NodeId) {
        let other = self.host_of(id);
        let Some((other, key)) = other.and_then(|other| Some((other, Self::identity_key(other)?))) else {
            self.hosts[host].node.on_no_record(id);
            return;
        };
        let registered = &self.hosts[other];
        let endpoint = registered.discovered.or_else(|| registered.addresses().next());
        let named = registered.named.clone();
        let node = &mut self.hosts[host].node;
        if !named.is_empty() {
            node.on_registry_list(self.now, id, &named);
        }
        node.on_record(self.now, id, key, endpoint);
    }

    pub(super) fn answer_key(&mut self, host: HostId, id: NodeId) {
        let key = self.host_of(id).and_then(Self::identity_key);
        self.hosts[host].node.on_key(self.now, id, key);
    }
}
