//! The nodes whose address is proven: where each is, and which key was pinned to its id.
//!
//! An announcement proves nothing by itself: anybody can send one with any id and any source address. What it
//! may change depends on what came with it, [`Proof`].

use core::net::SocketAddr;
use std::collections::BTreeMap;

use super::limits::host_of;
use crate::{
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// A node that is silent for this long is forgotten, and so is the proof of its address.
pub(super) const NODE_TTL: Duration = Duration::from_secs(600);
/// A node heard within this time is here; nodes announce themselves every 25 to 60 s. Later a route to
/// another beacon is preferred.
pub(super) const FRESH: Duration = Duration::from_secs(75);
/// A proof of this age is asked for again.
const PROOF_AGE: Duration = Duration::from_secs(120);
/// Least time between two changes of the address of a node without a key.
pub(super) const MOVE_INTERVAL: Duration = Duration::from_secs(30);
/// Nodes kept, and among them those of one host.
pub(super) const MAX_NODES: usize = 500_000;
const MAX_NODES_OF_HOST: usize = 65_536;
/// Nodes looked at in one step of a sweep.
const SWEEP_STEP: usize = 4096;

/// What an announcement proves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Proof {
    /// Nothing.
    Nothing,
    /// Its sender receives at the address.
    Address,
    /// Its sender has the key as well.
    Identity,
}

/// An announcement of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announcement {
    pub(super) node: NodeId,
    pub(super) endpoint: SocketAddr,
    pub(super) key: Option<[u8; 32]>,
    pub(super) is_extended: bool,
    pub(super) proof: Proof,
}

/// What became of an announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The node was known at this address.
    Refreshed,
    /// It is new here, or has moved.
    Proven,
    /// It is not known at this address, and the announcement does not prove it.
    Unproven,
    /// Its key is not the one pinned, or is not proven although it was before.
    KeyRefused,
    /// The node is without a key and moved a moment ago.
    TooSoon,
    /// There is no room.
    Full,
}

/// A node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) endpoint: SocketAddr,
    pub(super) is_extended: bool,
    heard: Instant,
    proven: Instant,
    moved: Instant,
    key: Option<[u8; 32]>,
    is_signed: bool,
}

impl Node {
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now < self.heard + FRESH
    }

    fn is_expired(&self, now: Instant) -> bool {
        now >= self.heard + NODE_TTL || now >= self.proven + NODE_TTL
    }

    /// Whether an announcement with this key and proof is this node's, as far as one can tell.
    fn may_be(&self, announcement: &Announcement) -> bool {
        if self.is_signed {
            return announcement.proof == Proof::Identity && announcement.key == self.key;
        }
        // A key is public. One that is proven outweighs one that was only named.
        announcement.proof == Proof::Identity || self.key.is_none() || announcement.key == self.key
    }

    fn refresh(&mut self, now: Instant, announcement: &Announcement) {
        self.heard = now;
        self.is_extended |= announcement.is_extended;
        if announcement.proof >= Proof::Address {
            self.proven = now;
        }
        if announcement.proof == Proof::Identity || !self.is_signed {
            self.key = announcement.key.or(self.key);
            self.is_signed |= announcement.proof == Proof::Identity;
        }
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    /// How many there are of each host.
    hosts: BTreeMap<u64, usize>,
    swept_to: NodeId,
}

impl Nodes {
    /// Takes an announcement.
    pub(super) fn announce(&mut self, now: Instant, announcement: &Announcement) -> Outcome {
        let id = announcement.node;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_expired(now)) else {
            return match announcement.proof {
                Proof::Nothing => Outcome::Unproven,
                Proof::Address | Proof::Identity => self.insert(now, announcement),
            };
        };
        if node.endpoint == announcement.endpoint {
            let is_same = announcement.key.is_none() || announcement.key == node.key;
            // Whoever receives where the node is, and has a key, is the node with a new key.
            if !(is_same || announcement.proof == Proof::Identity || node.may_be(announcement)) {
                return Outcome::KeyRefused;
            }
            node.refresh(now, announcement);
            return Outcome::Refreshed;
        }
        if announcement.proof == Proof::Nothing {
            return Outcome::Unproven;
        }
        if !node.may_be(announcement) {
            return Outcome::KeyRefused;
        }
        if announcement.key.is_none() && now < node.moved + MOVE_INTERVAL {
            return Outcome::TooSoon;
        }
        self.insert(now, announcement)
    }

    /// Puts a node at a proven address, and keeps the key that was pinned.
    fn insert(&mut self, now: Instant, announcement: &Announcement) -> Outcome {
        let host = host_of(announcement.endpoint.ip());
        let of_host = self.hosts.get(&host).copied().unwrap_or(0);
        let place = self.nodes.get(&announcement.node).map(|node| host_of(node.endpoint.ip()));
        let is_full = place.is_none() && self.nodes.len() >= MAX_NODES;
        if is_full || (place != Some(host) && of_host >= MAX_NODES_OF_HOST) {
            return Outcome::Full;
        }
        let known = self.remove(announcement.node).filter(|node| !node.is_expired(now));
        let is_signed = announcement.proof == Proof::Identity;
        let node = Node {
            endpoint: announcement.endpoint,
            is_extended: announcement.is_extended,
            heard: now,
            proven: now,
            moved: now,
            key: announcement.key.or(known.and_then(|node| node.key)),
            is_signed: is_signed || known.is_some_and(|node| node.is_signed),
        };
        self.nodes.insert(announcement.node, node);
        *self.hosts.entry(host).or_default() += 1;
        Outcome::Proven
    }

    /// Whether a node at this address shall prove the address, or its key.
    pub(super) fn wants_proof(&self, now: Instant, id: NodeId, endpoint: SocketAddr) -> bool {
        self.find(now, id)
            .is_none_or(|node| node.endpoint != endpoint || !node.is_signed || now >= node.proven + PROOF_AGE)
    }

    /// Whether this key of a node has been proven at this address.
    pub(super) fn is_signed(&self, now: Instant, announcement: &Announcement) -> bool {
        self.find(now, announcement.node).is_some_and(|node| {
            node.is_signed && node.key == announcement.key && node.endpoint == announcement.endpoint
        })
    }

    /// Whether a node has proven a key.
    pub(super) fn has_proven_key(&self, now: Instant, id: NodeId) -> bool {
        self.find(now, id).is_some_and(|node| node.is_signed)
    }

    /// Forgets a node if it named another key than this one. Returns whether it did.
    pub(super) fn forget_other(&mut self, id: NodeId, key: &[u8; 32]) -> bool {
        let is_other = self.nodes.get(&id).is_some_and(|node| node.key.is_some_and(|named| named != *key));
        is_other && self.remove(id).is_some()
    }

    pub(super) fn find(&self, now: Instant, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).filter(|node| !node.is_expired(now))
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Appends the ids of some nodes that are here, four bytes each. Returns where to go on.
    pub(super) fn list(&self, now: Instant, from: NodeId, most: usize, out: &mut Vec<u8>) -> Option<NodeId> {
        let mut left = most;
        for (id, _) in self.nodes.range(from..).filter(|(_, node)| node.is_fresh(now)) {
            if left == 0 {
                return Some(*id);
            }
            out.extend(id.0.to_be_bytes());
            left -= 1;
        }
        None
    }

    /// Forgets some of what has expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        let some: Vec<_> = self
            .nodes
            .range(self.swept_to..)
            .take(SWEEP_STEP)
            .map(|(id, node)| (*id, node.is_expired(now)))
            .collect();
        self.swept_to = match some.last() {
            Some((last, _)) if some.len() == SWEEP_STEP => NodeId(last.0.saturating_add(1)),
            Some(_) | None => NodeId(0),
        };
        for (id, _) in some.into_iter().filter(|(_, is_expired)| *is_expired) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: NodeId) -> Option<Node> {
        let node = self.nodes.remove(&id)?;
        let host = host_of(node.endpoint.ip());
        if let Some(count) = self.hosts.get_mut(&host) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1000);

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn of(port: u16, key: Option<u8>, proof: Proof) -> Announcement {
        let key = key.map(|byte| [byte; 32]);
        Announcement { node: NodeId(7), endpoint: at(port), key, is_extended: false, proof }
    }

    fn place(nodes: &Nodes, now: Instant) -> Option<u16> {
        nodes.find(now, NodeId(7)).map(|node| node.endpoint.port())
    }

    /// Steps of (seconds, port, key, proof), each with its outcome and the port where the node is then.
    #[test]
    fn what_an_announcement_may_change() {
        use Outcome::{KeyRefused, Proven, Refreshed, TooSoon, Unproven};
        use Proof::{Address, Identity, Nothing};
        type Step = (u64, u16, Option<u8>, Proof, Outcome, Option<u16>);
        let tables: [&[Step]; 7] = [
            // Without proof nobody gets or moves an entry.
            &[(0, 1, Some(1), Nothing, Unproven, None), (0, 1, None, Nothing, Unproven, None)],
            // A node without a key moves at most every 30 s, if it proves the address.
            &[
                (0, 1, None, Address, Proven, Some(1)),
                (1, 1, None, Nothing, Refreshed, Some(1)),
                (29, 2, None, Address, TooSoon, Some(1)),
                (30, 2, None, Nothing, Unproven, Some(1)),
                (30, 2, None, Address, Proven, Some(2)),
            ],
            // One with a key moves at once. Other keys, and none, are refused.
            &[
                (0, 1, Some(1), Address, Proven, Some(1)),
                (1, 2, Some(1), Nothing, Unproven, Some(1)),
                (1, 2, Some(1), Address, Proven, Some(2)),
                (60, 3, Some(2), Address, KeyRefused, Some(2)),
                (60, 2, Some(2), Address, KeyRefused, Some(2)),
                (60, 3, None, Address, KeyRefused, Some(2)),
                (61, 2, None, Nothing, Refreshed, Some(2)),
            ],
            // A key may be pinned later, from where the node is.
            &[
                (0, 1, None, Address, Proven, Some(1)),
                (1, 1, Some(1), Nothing, Refreshed, Some(1)),
                (60, 2, Some(2), Address, KeyRefused, Some(1)),
            ],
            // A key that was proven once must be proven again; it outweighs one that was named.
            &[
                (0, 1, Some(2), Address, Proven, Some(1)),
                (1, 2, Some(1), Identity, Proven, Some(2)),
                (2, 3, Some(1), Address, KeyRefused, Some(2)),
                (2, 3, Some(2), Identity, KeyRefused, Some(2)),
                (2, 2, Some(1), Nothing, Refreshed, Some(2)),
                (3, 3, Some(1), Identity, Proven, Some(3)),
            ],
            // A node may get another key where it is.
            &[
                (0, 1, Some(1), Identity, Proven, Some(1)),
                (1, 1, Some(2), Address, KeyRefused, Some(1)),
                (2, 1, Some(2), Identity, Refreshed, Some(1)),
                (3, 2, Some(1), Identity, KeyRefused, Some(1)),
                (4, 2, Some(2), Identity, Proven, Some(2)),
            ],
            // What was pinned is kept as long as the node is heard, and no longer.
            &[
                (0, 1, Some(1), Identity, Proven, Some(1)),
                (599, 2, Some(2), Identity, KeyRefused, Some(1)),
                (600, 2, Some(2), Address, Proven, Some(2)),
            ],
        ];
        for (n, steps) in tables.into_iter().enumerate() {
            let mut nodes = Nodes::default();
            for (seconds, port, key, proof, outcome, found) in steps {
                let now = START + Duration::from_secs(*seconds);
                let got = nodes.announce(now, &of(*port, *key, *proof));
                assert_eq!((got, place(&nodes, now)), (*outcome, *found), "table {n}, {seconds} s, {port}");
            }
        }
    }

    /// Spoofed announcements from the address of a node that is gone do not keep it.
    #[test]
    fn a_proof_expires_though_announcements_go_on() {
        let mut nodes = Nodes::default();
        nodes.announce(START, &of(1, Some(1), Proof::Identity));
        for minute in 1..10 {
            let now = START + Duration::from_secs(minute * 60);
            assert_eq!(nodes.announce(now, &of(1, Some(1), Proof::Nothing)), Outcome::Refreshed);
            assert_eq!(nodes.wants_proof(now, NodeId(7), at(1)), minute >= 2);
        }
        assert_eq!(place(&nodes, START + NODE_TTL), None);
    }

    #[test]
    fn nodes_are_bounded_per_host_and_expire() {
        let mut nodes = Nodes::default();
        let most = u32::try_from(MAX_NODES_OF_HOST).unwrap();
        let announce = |nodes: &mut Nodes, now, node: u32, host: u8| {
            let endpoint = SocketAddr::from(([192, 0, 2, host], 1));
            let proof = Proof::Address;
            let announcement =
                Announcement { node: NodeId(node), endpoint, key: None, is_extended: false, proof };
            nodes.announce(now, &announcement)
        };
        for node in 0..most {
            assert_eq!(announce(&mut nodes, START, node, 1), Outcome::Proven);
        }
        assert_eq!(announce(&mut nodes, START, most, 1), Outcome::Full);
        assert_eq!(announce(&mut nodes, START, most, 2), Outcome::Proven);
        let later = START + NODE_TTL;
        for _ in 0..MAX_NODES_OF_HOST / SWEEP_STEP + 2 {
            nodes.sweep(later);
        }
        assert_eq!((nodes.len(), nodes.hosts.len()), (0, 0));
    }

    #[test]
    fn nodes_that_are_here_are_listed_in_parts() {
        let mut nodes = Nodes::default();
        for node in 0..5 {
            let announcement = Announcement { node: NodeId(node), ..of(1, None, Proof::Address) };
            nodes.announce(START + Duration::from_secs(u64::from(node)), &announcement);
        }
        let mut out = Vec::new();
        let now = START + FRESH;
        let next = nodes.list(now, NodeId(0), 3, &mut out);
        assert_eq!((out.len(), next), (12, Some(NodeId(4))));
        assert_eq!(nodes.list(now, NodeId(4), 3, &mut out), None);
        assert_eq!(out, [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]);
    }
}
