//! Admission of peers to a private node, and network membership (`docs/explanation/trust.md`).
//!
//! Tunnels authenticate a peer; whether it is admitted is decided by the control plane, which is asked once
//! per peer and network. Packets that arrive meanwhile are held, so that an admitted peer sees no loss. A
//! refused peer gets no answer at all.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Node, trace::count_drop};
use crate::{
    time::Instant,
    tunnel::Peer,
    wire::{
        addr::{NetworkId, NodeId, Port},
        packet::{Flags, Header, Protocol},
    },
};

/// How long a peer that we dialled may call back.
const CALLBACK_LIFETIME: Duration = Duration::from_secs(300);
/// The ports that it may call: data exchange and handshakes.
const CALLBACK_PORTS: [Port; 2] = [Port(1001), Port(444)];
/// Upper bound of peers that may call back.
const MAX_CALLBACKS: usize = 4096;
/// Upper bound of cached verdicts.
const MAX_VERDICTS: usize = 16_384;
/// Packets held until a verdict: per peer, in total, and their bytes.
const MAX_HELD_PER_PEER: usize = 4;
const MAX_HELD: usize = 1024;
const MAX_HELD_BYTES: usize = 4 << 20;
/// An unanswered query expires after this, and the packets held for it are dropped.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Peers that may ask about networks that we are not known to be in, at once.
const MAX_FOREIGN: usize = 64;
/// Shortest lifetime of a verdict.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// A peer and the network of our address that it calls. On a network of ours every peer must be a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller {
    /// The peer.
    pub node: NodeId,
    /// The network of the address that it calls.
    pub network: NetworkId,
}

/// A packet held until the verdict.
#[derive(Debug)]
struct Held {
    header: Header,
    payload: Vec<u8>,
}

/// A query to the control plane that is not answered yet.
#[derive(Debug)]
struct Query {
    until: Instant,
    held: Vec<Held>,
}

/// Decision about one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Admitted,
    Refused,
    Unknown,
}

/// Cached verdicts, open queries and held packets. All are bounded.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_private: bool,
    /// Networks besides the backbone.
    networks: BTreeSet<NetworkId>,
    verdicts: BTreeMap<Caller, (bool, Instant)>,
    queries: BTreeMap<Caller, Query>,
    held: usize,
    held_bytes: usize,
    /// Ports that a peer may use at our address on the backbone, where only networks in common admit it.
    ports: BTreeMap<NodeId, BTreeSet<Port>>,
    callbacks: BTreeMap<NodeId, Instant>,
    callbacks_by_age: BTreeSet<(Instant, NodeId)>,
    /// The queries about networks that we are not known to be in, one for each peer.
    foreign: BTreeMap<NodeId, NetworkId>,
}

impl Gate {
    /// Lets a peer call back for [`CALLBACK_LIFETIME`].
    pub(super) fn allow_callback(&mut self, now: Instant, node: NodeId) {
        let until = now + CALLBACK_LIFETIME;
        if let Some(before) = self.callbacks.insert(node, until) {
            self.callbacks_by_age.remove(&(before, node));
        } else if self.callbacks.len() > MAX_CALLBACKS
            && let Some((_, oldest)) = self.callbacks_by_age.pop_first()
        {
            self.callbacks.remove(&oldest);
        }
        self.callbacks_by_age.insert((until, node));
    }

    fn verdict(&self, now: Instant, caller: Caller, header: &Header) -> Verdict {
        if let Some((is_admitted, until)) = self.verdicts.get(&caller)
            && now < *until
            && (*is_admitted || !self.may_call_back(now, caller, header))
        {
            return if *is_admitted { Verdict::Admitted } else { Verdict::Refused };
        }
        if self.may_call_back(now, caller, header) { Verdict::Admitted } else { Verdict::Unknown }
    }

    fn may_call_back(&self, now: Instant, caller: Caller, header: &Header) -> bool {
        caller.network == NetworkId::BACKBONE
            && header.protocol == Protocol::Stream
            && header.flags == Flags::SYN
            && CALLBACK_PORTS.contains(&header.dst_port)
            && self.callbacks.get(&caller.node).is_some_and(|until| now < *until)
    }

    /// Holds a packet until the verdict. Returns whether it is held, and whether the query is new.
    fn hold(&mut self, now: Instant, caller: Caller, header: &Header, payload: &[u8]) -> (bool, bool) {
        let is_new = !self.queries.contains_key(&caller);
        if is_new && self.queries.len() >= MAX_HELD {
            self.expire_queries(now);
            if self.queries.len() >= MAX_HELD {
                return (false, false);
            }
        }
        let has_room = self.held < MAX_HELD && self.held_bytes + payload.len() <= MAX_HELD_BYTES;
        let query = self
            .queries
            .entry(caller)
            .or_insert_with(|| Query { until: now + QUERY_TIMEOUT, held: Vec::new() });
        if query.held.len() >= MAX_HELD_PER_PEER || !has_room {
            return (false, is_new);
        }
        self.held += 1;
        self.held_bytes += payload.len();
        query.held.push(Held { header: *header, payload: payload.to_vec() });
        (true, is_new)
    }

    fn decide(&mut self, now: Instant, caller: Caller, is_admitted: bool, lifetime: Duration) -> Vec<Held> {
        if self.verdicts.len() >= MAX_VERDICTS && !self.verdicts.contains_key(&caller) {
            self.verdicts.retain(|_, (_, until)| now < *until);
            // Evict the verdict that expires next: refusals live shorter than admissions.
            let next = self.verdicts.iter().min_by_key(|(_, (_, until))| *until).map(|(caller, _)| *caller);
            if let Some(next) = next.filter(|_| self.verdicts.len() >= MAX_VERDICTS) {
                self.verdicts.remove(&next);
            }
        }
        // The held packets are processed under this verdict, so it must outlive the call.
        self.verdicts.insert(caller, (is_admitted, now + lifetime.max(MIN_LIFETIME)));
        if self.foreign.get(&caller.node) == Some(&caller.network) {
            self.foreign.remove(&caller.node);
        }
        let held = self.queries.remove(&caller).map_or_else(Vec::new, |query| query.held);
        self.held -= held.len();
        self.held_bytes -= bytes_of(&held);
        held
    }

    /// Whether a peer that is admitted to the backbone may use a port there.
    pub(super) fn may_use(&self, node: NodeId, port: Port) -> bool {
        !self.is_private || self.ports.get(&node).is_none_or(|ports| ports.contains(&port))
    }

    /// Drops the verdicts about a peer and its permission to call back.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.verdicts.retain(|caller, _| caller.node != node);
        self.ports.remove(&node);
        if let Some(until) = self.callbacks.remove(&node) {
            self.callbacks_by_age.remove(&(until, node));
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.verdicts.retain(|_, (_, until)| now < *until);
        let verdicts = &self.verdicts;
        self.ports
            .retain(|node, _| verdicts.contains_key(&Caller { node: *node, network: NetworkId::BACKBONE }));
        self.expire_queries(now);
        self.callbacks.retain(|_, until| now < *until);
        self.callbacks_by_age.retain(|(until, _)| now < *until);
    }

    /// Drops unanswered queries and the packets held for them.
    fn expire_queries(&mut self, now: Instant) {
        self.queries.retain(|_, query| now < query.until);
        let queries = &self.queries;
        self.foreign.retain(|node, network| queries.contains_key(&Caller { node: *node, network: *network }));
        self.held = self.queries.values().map(|query| query.held.len()).sum();
        self.held_bytes = self.queries.values().map(|query| bytes_of(&query.held)).sum();
    }
}

fn bytes_of(held: &[Held]) -> usize {
    held.iter().map(|held| held.payload.len()).sum()
}

impl Node {
    /// Whether only admitted peers may reach this node. Existing connections stay.
    pub fn set_private(&mut self, is_private: bool) {
        self.gate.is_private = is_private;
    }

    /// Sets the networks of this node besides the backbone. Packets for our address on any other network are
    /// dropped, and connections there are reset.
    pub fn set_networks(&mut self, now: Instant, networks: impl IntoIterator<Item = NetworkId>) {
        self.recorder.now = now;
        let before = core::mem::replace(&mut self.gate.networks, networks.into_iter().collect());
        let networks = &self.gate.networks;
        self.policies.retain(networks);
        // Those about a network that is new to us are refusals from before.
        self.gate.verdicts.retain(|caller, _| {
            caller.network == NetworkId::BACKBONE
                || networks.contains(&caller.network) && before.contains(&caller.network)
        });
        let is_outside = |network: NetworkId| network != NetworkId::BACKBONE && !networks.contains(&network);
        #[expect(clippy::disallowed_methods, reason = "sorted at once")]
        let mut gone: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| is_outside(slot.connection.tuple().local.network))
            .map(|(id, _)| *id)
            .collect();
        gone.sort_unstable();
        for id in gone {
            self.reset(now, id);
        }
    }

    /// Answers [`Event::AdmissionNeeded`], or sets a verdict in advance; it is valid for `lifetime`. Packets
    /// held for an admitted peer are processed now.
    pub fn on_admission(&mut self, now: Instant, caller: Caller, is_admitted: bool, lifetime: Duration) {
        self.recorder.now = now;
        self.policies.touch(now, caller.network);
        let is_ours = self.is_on_network(caller.network);
        for held in self.gate.decide(now, caller, is_admitted, lifetime) {
            if !is_ours {
                count_drop!(self, dropped_networks);
            } else if is_admitted {
                self.dispatch_packet(now, caller.node, &held.header, &held.payload);
            } else {
                self.count_refused(&held.header);
            }
        }
    }

    /// Limits a peer that networks in common admit to our address on the backbone, and that would evade their
    /// policies there otherwise; without ports it is not limited.
    pub fn limit_peer(&mut self, node: NodeId, ports: impl IntoIterator<Item = Port>) {
        let ports: BTreeSet<Port> = ports.into_iter().collect();
        if ports.is_empty() {
            self.gate.ports.remove(&node);
        } else {
            self.gate.ports.insert(node, ports);
        }
    }

    /// Lets a peer respond to a request that did not reach it through a tunnel: for five minutes it may open
    /// streams to the ports of handshakes and data exchange.
    pub fn expect_call(&mut self, now: Instant, node: NodeId) {
        self.recorder.now = now;
        self.gate.allow_callback(now, node);
    }

    /// Resets every connection with a peer and drops its tunnel and the verdicts about it.
    pub fn dismiss(&mut self, now: Instant, node: NodeId) {
        self.recorder.now = now;
        self.gate.forget(node);
        self.pending.remove(&node);
        self.early.take(node);
        let ids = self.by_peer.get(&node).cloned().unwrap_or_default();
        for id in &ids {
            self.reset(now, *id);
        }
        if ids.is_empty() {
            self.forget_peer(node);
        } else {
            // The resets leave through the tunnel, which is dropped with the last connection.
            self.dismissed.insert(node);
        }
    }

    pub(super) fn reset(&mut self, now: Instant, id: super::ConnectionId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.connection.abort(now);
            self.queue(id);
            self.drain_connection(id);
        }
    }

    /// Whether a packet that opens a connection or flow is admitted. Without a verdict it is held.
    pub(super) fn check_admission(
        &mut self,
        now: Instant,
        sender: NodeId,
        header: &Header,
        payload: &[u8],
    ) -> bool {
        let caller = Caller { node: sender, network: header.dst.network };
        let is_backbone = caller.network == NetworkId::BACKBONE;
        if sender == self.address.node || is_backbone && !self.gate.is_private {
            return true;
        }
        match self.gate.verdict(now, caller, header) {
            Verdict::Admitted if self.policy_of_arrival(now, header).is_some() => return true,
            // Refusing by an old policy would be wrong: it is asked for together with the admission.
            Verdict::Admitted => self.query_admission(now, caller, header, payload),
            Verdict::Refused => self.count_refused(header),
            Verdict::Unknown => self.query_admission(now, caller, header, payload),
        }
        false
    }

    fn query_admission(&mut self, now: Instant, caller: Caller, header: &Header, payload: &[u8]) {
        let Some(key) = self.peers.get(&caller.node).and_then(Peer::identity_key) else {
            self.count_refused(header);
            return;
        };
        let (is_held, is_new) = self.gate.hold(now, caller, header, payload);
        if is_new {
            self.events.push_back(Event::AdmissionNeeded(caller, key));
        }
        if !is_held {
            count_drop!(self, dropped_limited);
        }
    }

    /// A packet for a network that we are not known to be in: the registry may have made us a member. It is
    /// held until the control plane knows; for a few peers, one network of each.
    pub(super) fn ask_membership(&mut self, now: Instant, sender: NodeId, header: &Header, payload: &[u8]) {
        let caller = Caller { node: sender, network: header.dst.network };
        let is_refused = self.gate.verdicts.get(&caller).is_some_and(|(_, until)| now < *until);
        let is_asked = self.gate.foreign.get(&sender) == Some(&caller.network);
        let may_ask = !self.gate.foreign.contains_key(&sender) && self.gate.foreign.len() < MAX_FOREIGN;
        if is_refused || header.protocol == Protocol::Control || !(is_asked || may_ask) {
            count_drop!(self, dropped_networks);
            return;
        }
        self.gate.foreign.insert(sender, caller.network);
        self.query_admission(now, caller, header, payload);
    }

    fn count_refused(&mut self, header: &Header) {
        match header.protocol {
            Protocol::Stream if header.flags == Flags::SYN => count_drop!(self, dropped_stranger_syns),
            Protocol::Stream | Protocol::Control => count_drop!(self, dropped_strangers),
            Protocol::Datagram => count_drop!(self, dropped_stranger_datagrams),
        }
    }

    /// Whether this node has an address on a network.
    pub(super) fn is_on_network(&self, network: NetworkId) -> bool {
        network == NetworkId::BACKBONE || self.gate.networks.contains(&network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{addr::Address, seq::SeqNumber};

    fn caller(node: u32) -> Caller {
        Caller { node: NodeId(node), network: NetworkId::BACKBONE }
    }

    fn hold(gate: &mut Gate, now: Instant, node: u32, len: usize) -> (bool, bool) {
        let address = Address::backbone(NodeId(node));
        let header = Header {
            flags: Flags::NONE,
            protocol: Protocol::Datagram,
            src: address,
            dst: address,
            src_port: Port(1),
            dst_port: Port(2),
            seq: SeqNumber::default(),
            ack: SeqNumber::default(),
            window: 0,
        };
        gate.hold(now, caller(node), &header, &vec![0; len])
    }

    #[test]
    fn held_packets_are_bounded_and_expire() {
        let now = Instant::from_millis(1);
        let mut gate = Gate::default();
        let kept = |gate: &mut Gate, node| (0..9).filter(|_| hold(gate, now, node, 60_000).0).count();
        assert_eq!(kept(&mut gate, 1), MAX_HELD_PER_PEER);
        for node in 2..2000 {
            kept(&mut gate, node);
        }
        assert!(gate.held_bytes <= MAX_HELD_BYTES && gate.held_bytes > MAX_HELD_BYTES - 60_000);
        assert_eq!(gate.queries.len(), MAX_HELD);
        assert_eq!(gate.decide(now, caller(1), true, Duration::ZERO).len(), MAX_HELD_PER_PEER);
        assert_eq!(hold(&mut gate, now, 3000, 60_000), (true, true), "there is room again");
        assert_eq!(hold(&mut gate, now, 3001, 1), (false, false));
        // The other queries expired.
        assert_eq!(hold(&mut gate, now + QUERY_TIMEOUT, 3001, 1), (true, true));
        assert_eq!((gate.queries.len(), gate.held, gate.held_bytes), (1, 1, 1));
    }

    /// Refusals expire within seconds, so many refused peers do not evict an admission.
    #[test]
    fn refusals_are_evicted_before_admissions() {
        let now = Instant::from_millis(1);
        let mut gate = Gate::default();
        gate.decide(now, caller(1), true, Duration::from_secs(3600));
        for node in 2..2 + MAX_VERDICTS as u32 {
            gate.decide(now, caller(node), false, Duration::from_secs(5));
        }
        assert_eq!(gate.verdicts.len(), MAX_VERDICTS);
        assert!(gate.verdicts.contains_key(&caller(1)));
    }
}
