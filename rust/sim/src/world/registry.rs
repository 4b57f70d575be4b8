//! The registry's part: it knows every host.

use super::{
    World,
    hosts::{endpoint, identity_seed, node_id},
};
use crate::flow::HostId;
use pilot_proto::{crypto::identity::Identity, wire::addr::NodeId};

impl World {
    /// Answers a record request.
    pub(super) fn answer_record(&mut self, host: HostId, id: NodeId) {
        let other = (0..self.hosts.len()).find(|other| node_id(*other) == id);
        let node = &mut self.hosts[host].node;
        match other.map(|other| (other, Identity::from_seed(&identity_seed(other)))) {
            Some((other, Ok(identity))) => {
                node.on_record(self.now, id, identity.public_key(), Some(endpoint(other)));
            }
            Some((_, Err(_))) | None => node.on_no_record(id),
        }
    }

    pub(super) fn answer_key(&mut self, host: HostId, id: NodeId) {
        let other = (0..self.hosts.len()).find(|other| node_id(*other) == id);
        let identity = other.and_then(|other| Identity::from_seed(&identity_seed(other)).ok());
        let key = identity.map(|identity| identity.public_key());
        self.hosts[host].node.on_key(self.now, id, key);
    }
}
