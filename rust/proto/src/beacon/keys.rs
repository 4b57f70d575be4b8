//! What the registry says of the keys of nodes. A key that a node has proven is pinned to its id, whoever comes
//! first; so the registry is asked whose the id is, and what it says outweighs what was pinned.
//!
//! The registry is asked from outside: [`Beacon::take_unconfirmed`] says about whom, and
//! [`Beacon::on_registry_key`] takes the answer. Without answers, what was proven first stays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Beacon,
    nodes::{Announcement, MAX_NODES, NODE_TTL, Proof},
};
use crate::{
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// Time for which the registry's answer counts, and that it does not know the node.
const NAMED_TTL: Duration = NODE_TTL;
const UNKNOWN_TTL: Duration = Duration::from_secs(60);
/// An answer of this age is asked for again when another key is proven, which the node may have got meanwhile.
const DOUBTED_AFTER: Duration = Duration::from_secs(10);
/// Nodes that wait to be asked about.
const MAX_QUESTIONS: usize = 4096;

/// One answer.
#[derive(Clone, Copy, Debug)]
struct Named {
    key: Option<[u8; 32]>,
    at: Instant,
}

impl Named {
    fn is_expired(&self, now: Instant) -> bool {
        now >= self.at + if self.key.is_some() { NAMED_TTL } else { UNKNOWN_TTL }
    }
}

/// Answers of the registry, and what it is to be asked.
#[derive(Debug, Default)]
pub(super) struct Keys {
    named: BTreeMap<NodeId, Named>,
    /// When each answer came, oldest first; void if a later one came.
    order: VecDeque<(Instant, NodeId)>,
    questions: BTreeSet<NodeId>,
}

impl Keys {
    /// Whether an announcement names another key than the registry did.
    fn refuses(&self, now: Instant, announcement: &Announcement) -> bool {
        let named = self.named.get(&announcement.node).filter(|named| !named.is_expired(now));
        let key = named.and_then(|named| named.key);
        announcement.key.is_some_and(|own| key.is_some_and(|key| key != own))
    }

    /// Asks about a node, unless the registry has answered lately.
    fn ask(&mut self, now: Instant, node: NodeId, is_in_doubt: bool) {
        let is_recent = self.named.get(&node).is_some_and(|named| {
            if is_in_doubt { now < named.at + DOUBTED_AFTER } else { !named.is_expired(now) }
        });
        if !is_recent && self.questions.len() < MAX_QUESTIONS {
            self.questions.insert(node);
        }
    }

    fn answer(&mut self, now: Instant, node: NodeId, key: Option<[u8; 32]>) {
        while let Some((at, oldest)) = self.order.front().copied()
            && (self.order.len() >= MAX_NODES || now >= at + NAMED_TTL)
        {
            self.order.pop_front();
            if self.named.get(&oldest).is_some_and(|named| named.at == at) {
                self.named.remove(&oldest);
            }
        }
        self.named.insert(node, Named { key, at: now });
        self.order.push_back((now, node));
    }
}

impl Beacon {
    /// Nodes whose keys the registry shall be asked for, at most so many.
    pub fn take_unconfirmed(&mut self, most: usize) -> Vec<NodeId> {
        core::iter::from_fn(|| self.keys.questions.pop_first()).take(most).collect()
    }

    /// The registry says which key a node has; `None` if it does not know the node. Whoever is here with
    /// another key is forgotten.
    pub fn on_registry_key(&mut self, now: Instant, node: NodeId, key: Option<[u8; 32]>) {
        self.flow = None;
        self.keys.answer(now, node, key);
        if let Some(key) = key
            && self.nodes.forget_other(node, &key)
        {
            self.counters.dropped_key += 1;
        }
    }

    /// Whether the registry named another key than an announcement does.
    pub(super) fn is_refuted(&self, now: Instant, announcement: &Announcement) -> bool {
        self.keys.refuses(now, announcement)
    }

    /// Asks whose a key is that was proven: once, and again if there is another one for the same id.
    pub(super) fn confirm(&mut self, now: Instant, announcement: &Announcement, is_refused: bool) {
        let is_proven = announcement.proof == Proof::Identity;
        if (is_refused && is_proven) || (!is_refused && self.nodes.has_proven_key(now, announcement.node)) {
            self.keys.ask(now, announcement.node, is_refused);
        }
    }
}
