//! Port policies of networks: the ports on which members use each other there
//! (`docs/how-to/networks.md#ports`).
//!
//! The registry keeps them, so what is known here may be old. Nothing is refused by an old policy: the control
//! plane is asked, and dials and packets wait for its answer. What an old policy allows goes on meanwhile.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{ConnectionId, Event, Node, NodeError, ports::EPHEMERAL_FIRST};
use crate::{
    time::Instant,
    transport::CloseReason,
    wire::{
        addr::{Address, NetworkId, Port},
        packet::{Flags, Header, Protocol},
    },
};

/// What is allowed is not asked for again before this, and what is refused before that.
const FRESH: Duration = Duration::from_secs(5);
const REFUSED: Duration = Duration::from_millis(500);

/// What the registry said about one network.
#[derive(Debug)]
struct Policy {
    /// Empty if every port is allowed.
    ports: BTreeSet<Port>,
    checked: Instant,
}

/// The policies of our networks, and the dials that wait for one.
#[derive(Debug, Default)]
pub(super) struct Policies {
    known: BTreeMap<NetworkId, Policy>,
    asked: BTreeSet<NetworkId>,
    waiting: BTreeSet<ConnectionId>,
}

impl Policies {
    fn allows(&self, network: NetworkId, port: Port) -> bool {
        self.known.get(&network).is_none_or(|policy| policy.ports.is_empty() || policy.ports.contains(&port))
    }

    /// A datagram to an allowed port, or the answer to one: those come to the port that asked.
    fn allows_datagram(&self, network: NetworkId, src_port: Port, dst_port: Port) -> bool {
        self.allows(network, dst_port)
            || is_answer(Protocol::Datagram, src_port, dst_port) && self.allows(network, src_port)
    }

    /// Whether the policy was checked within this time.
    fn is_known(&self, now: Instant, network: NetworkId, within: Duration) -> bool {
        self.known.get(&network).is_some_and(|policy| now.saturating_since(policy.checked) < within)
    }

    /// Forgets the policies of networks that we left.
    pub(super) fn retain(&mut self, networks: &BTreeSet<NetworkId>) {
        self.known.retain(|network, _| networks.contains(network));
        self.asked.retain(|network| networks.contains(network));
    }

    /// An admission was decided, for which the control plane has asked for the policy if it could.
    pub(super) fn touch(&mut self, now: Instant, network: NetworkId) {
        if let Some(policy) = self.known.get_mut(&network) {
            policy.checked = now;
        }
    }
}

impl Node {
    /// Answers [`Event::PolicyNeeded`], or says in advance what the registry allows on a network of ours: these
    /// ports, or every port if there are none. Connections to other ports are reset.
    pub fn set_network_policy(
        &mut self,
        now: Instant,
        network: NetworkId,
        ports: impl IntoIterator<Item = Port>,
    ) {
        self.recorder.now = now;
        self.policies.asked.remove(&network);
        if network == NetworkId::BACKBONE {
            return;
        }
        let policy = Policy { ports: ports.into_iter().collect(), checked: now };
        self.policies.known.insert(network, policy);
        let (mut start, mut refuse, mut reset) = (Vec::new(), Vec::new(), Vec::new());
        for id in self.by_peer.values().flatten() {
            let Some(slot) = self.slots.get(id) else { continue };
            let tuple = slot.connection.tuple();
            if tuple.local.network != network || tuple.remote.node == self.address.node {
                continue;
            }
            let port = if slot.is_inbound { tuple.local_port } else { tuple.remote_port };
            match (self.policies.allows(network, port), self.policies.waiting.contains(id)) {
                (true, true) => start.push((*id, tuple.remote.node)),
                (false, true) => refuse.push(*id),
                (false, false) => reset.push(*id),
                (true, false) => {}
            }
        }
        for (id, peer) in start {
            self.policies.waiting.remove(&id);
            self.start_connection(now, peer, id);
        }
        for id in refuse {
            self.policies.waiting.remove(&id);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.connection.terminate(CloseReason::Prohibited);
            }
            self.queue(id);
            self.drain_connection(id);
        }
        for id in reset {
            self.reset(now, id);
        }
        let slots = &self.slots;
        self.policies.waiting.retain(|id| slots.contains_key(id));
    }

    fn ask_policy(&mut self, now: Instant, network: NetworkId, is_allowed: bool) {
        let within = if is_allowed { FRESH } else { REFUSED };
        if !self.policies.is_known(now, network, within) && self.policies.asked.insert(network) {
            self.events.push_back(Event::PolicyNeeded(network));
        }
    }

    /// Whether the policy lets us dial, as far as it is known: `None` if it must be asked for first.
    pub(super) fn may_dial(
        &mut self,
        now: Instant,
        remote: Address,
        port: Port,
    ) -> Result<Option<()>, NodeError> {
        let network = remote.network;
        if network == NetworkId::BACKBONE || remote.node == self.address.node || !self.is_on_network(network)
        {
            return Ok(Some(()));
        }
        let is_allowed = self.policies.allows(network, port);
        if !is_allowed && self.policies.is_known(now, network, REFUSED) {
            return Err(NodeError::Prohibited);
        }
        self.ask_policy(now, network, is_allowed);
        Ok(is_allowed.then_some(()))
    }

    /// Has a dial wait for the policy.
    pub(super) fn await_policy(&mut self, id: ConnectionId) {
        self.policies.waiting.insert(id);
    }

    /// Whether the policy lets us send a datagram. An old one is asked for anew.
    pub(super) fn may_send(
        &mut self,
        now: Instant,
        remote: Address,
        src_port: Port,
        dst_port: Port,
    ) -> Result<(), NodeError> {
        let network = remote.network;
        if network == NetworkId::BACKBONE || remote.node == self.address.node || !self.is_on_network(network)
        {
            return Ok(());
        }
        let is_allowed = self.policies.allows_datagram(network, src_port, dst_port);
        self.ask_policy(now, network, is_allowed);
        is_allowed.then_some(()).ok_or(NodeError::Prohibited)
    }

    /// What the policy says about a packet that opens a connection or flow: `None` if it must be asked for
    /// first.
    pub(super) fn policy_of_arrival(&mut self, now: Instant, header: &Header) -> Option<bool> {
        let network = header.dst.network;
        let is_policed = match header.protocol {
            Protocol::Stream => header.flags == Flags::SYN,
            Protocol::Datagram => true,
            Protocol::Control => false,
        };
        if header.src.node == self.address.node || !is_policed {
            return Some(true);
        }
        if network == NetworkId::BACKBONE {
            let may_use = |port| self.gate.may_use(header.src.node, port);
            let is_answer = is_answer(header.protocol, header.src_port, header.dst_port);
            return Some(may_use(header.dst_port) || is_answer && may_use(header.src_port));
        }
        let is_allowed = match header.protocol {
            Protocol::Datagram => self.policies.allows_datagram(network, header.src_port, header.dst_port),
            Protocol::Stream | Protocol::Control => self.policies.allows(network, header.dst_port),
        };
        if is_allowed {
            self.ask_policy(now, network, true);
        }
        (is_allowed || self.policies.is_known(now, network, REFUSED)).then_some(is_allowed)
    }
}

/// Whether a packet looks like the answer of a service to who asked it.
fn is_answer(protocol: Protocol, src_port: Port, dst_port: Port) -> bool {
    protocol == Protocol::Datagram && dst_port.0 >= EPHEMERAL_FIRST && src_port.0 < EPHEMERAL_FIRST
}
