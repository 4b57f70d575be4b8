//! Unauthenticated senders: what they can make this node do, and the state kept for them.
//!
//! A peer takes a place in the table when we call it, or when the registry confirmed the key that signed
//! its frame. Until then it costs:
//!
//! - a bare key, or a sealed frame that no session opens: an answer, made from a secret and the sender's
//!   id, so that nothing is kept;
//! - a signed key: a check of the signature, if the budget allows, and then a question to the registry.
//!   Meanwhile the frame is kept among a few others.
//!
//! When the budget of checks is spent, the sender is given a cookie instead ([`cookie`]).

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use super::{Event, Node, limits::host_of, trace::count_drop};
use crate::{
    crypto::{exchange::ExchangeKey, identity::verify_signed_key, prf::Prf},
    time::{Duration, Instant},
    tunnel::{
        KeyVerdict, Peer,
        cookie::{self, CookieJar},
    },
    wire::{
        addr::NodeId,
        packet::HEADER_LEN,
        tunnel::{BARE_KEY_LEN, BareKey, CookieReply, SEALED_OVERHEAD, SIGNED_KEY_LEN, SignedKey, cookie_of},
    },
};

/// Signed keys that wait for the registry: in all, of one host, in the name of one node, and of one host in
/// the name of one node.
const MAX_HELD: usize = 256;
const MAX_HELD_PER_HOST: usize = 32;
const MAX_HELD_PER_NODE: usize = 8;
const MAX_HELD_PER_CLAIM: usize = 2;
/// Open questions about strangers, and about those of them who showed no cookie.
const MAX_QUESTIONS: usize = 64;
const MAX_UNPROVEN_QUESTIONS: usize = 32;
/// A question is forgotten after this, and so is what waited for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
const KEY_LABEL: [u8; 4] = *b"x255";

/// A signed key whose identity the registry must confirm.
#[derive(Debug)]
struct Held {
    frame: SignedKey,
    from: SocketAddr,
    until: Instant,
}

/// State kept for unauthenticated senders.
#[derive(Debug)]
pub(super) struct Strangers {
    prf: Prf,
    /// Grows whenever a peer is forgotten, so that a key that made a session never makes another.
    generation: u64,
    held: VecDeque<Held>,
    questions: BTreeMap<NodeId, Instant>,
    /// Cookies that peers gave us.
    pub(super) jar: CookieJar,
}

impl Strangers {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self {
            prf: Prf::new(secret),
            generation: 0,
            held: VecDeque::new(),
            questions: BTreeMap::new(),
            jar: CookieJar::default(),
        }
    }

    /// Our key for a node that is not in the table: the same until a peer is forgotten.
    pub(super) fn exchange_key(&self, node: NodeId) -> Option<ExchangeKey> {
        let secret = self.prf.value(KEY_LABEL, &[&self.generation.to_be_bytes(), &node.0.to_be_bytes()]);
        ExchangeKey::from_secret(&secret).ok()
    }

    /// Peers were forgotten.
    pub(super) fn renew_keys(&mut self) {
        self.generation += 1;
    }

    /// Keeps a frame in place of an older one of the same claim; or the oldest of its host, of its node or
    /// of all makes room.
    fn hold(&mut self, now: Instant, frame: SignedKey, from: SocketAddr) {
        let (node, host) = (frame.sender, host_of(from.ip()));
        let is_older = |held: &Held| {
            held.frame.sender == node && held.from == from && held.frame.identity_key == frame.identity_key
        };
        self.held.retain(|held| now < held.until && !is_older(held));
        self.make_room(MAX_HELD_PER_CLAIM, |held| {
            held.frame.sender == node && host_of(held.from.ip()) == host
        });
        self.make_room(MAX_HELD_PER_NODE, |held| held.frame.sender == node);
        self.make_room(MAX_HELD_PER_HOST, |held| host_of(held.from.ip()) == host);
        self.make_room(MAX_HELD, |_| true);
        self.held.push_back(Held { frame, from, until: now + PATIENCE });
    }

    fn make_room(&mut self, most: usize, is_counted: impl Fn(&Held) -> bool) {
        if self.held.iter().filter(|held| is_counted(held)).count() >= most
            && let Some(oldest) = self.held.iter().position(is_counted)
        {
            self.held.remove(oldest);
        }
    }

    /// What waited for the registry's word about a node, in the order of arrival.
    fn take_held(&mut self, node: NodeId) -> Vec<Held> {
        let (taken, rest) = self.held.drain(..).partition(|held| held.frame.sender == node);
        self.held = rest;
        Vec::from(taken)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.held.retain(|held| now < held.until);
        self.questions.retain(|_, until| now < *until);
    }
}

impl Node {
    /// Whether a key frame in this name can be meant for us.
    fn is_addressable(&mut self, sender: NodeId) -> bool {
        let is_fine = sender != self.address.node && self.address.node != NodeId::default();
        if !is_fine {
            count_drop!(self, dropped_keys);
        }
        is_fine
    }

    fn is_at(&self, node: NodeId, from: SocketAddr) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.endpoint() == Some(from))
    }

    pub(super) fn on_bare_key(&mut self, now: Instant, from: SocketAddr, sender: NodeId) {
        if !self.is_addressable(sender) {
            return;
        }
        if self.is_at(sender, from) {
            self.with_peer(sender, |peer, local, out| peer.on_bare_key(now, from, local, out));
            return;
        }
        self.limits.credit.on_received(from, BARE_KEY_LEN);
        if self.limits.bare_keys.take(now, from) && self.limits.credit.spend(from, SIGNED_KEY_LEN) {
            self.push_keys(sender, from, false);
        } else {
            count_drop!(self, dropped_bare_keys);
        }
    }

    /// A sealed frame that no session opens, of `len` bytes: the sender may hold a session that we lost.
    pub(super) fn on_unopened(&mut self, now: Instant, from: SocketAddr, sender: NodeId, len: usize) {
        count_drop!(self, dropped_unauthentic);
        if self.is_at(sender, from) {
            self.with_peer(sender, |peer, local, out| peer.on_unopened(now, from, len, local, out));
            return;
        }
        let has_session = self.peers.get(&sender).is_some_and(|peer| peer.suite().is_some());
        // No sealed frame is shorter.
        if has_session || len < SEALED_OVERHEAD + HEADER_LEN || !self.is_addressable(sender) {
            return;
        }
        self.limits.credit.on_received(from, len);
        if self.limits.unopened.take_for(now, from, &(sender, from))
            && self.limits.credit.spend(from, SIGNED_KEY_LEN + BARE_KEY_LEN)
        {
            self.push_keys(sender, from, true);
        }
    }

    /// Sends our keys for a node to an address, and asks for its own.
    fn push_keys(&mut self, node: NodeId, to: SocketAddr, asks_back: bool) {
        let known = self.peers.get(&node).map(Peer::exchange_key);
        let derived = || self.strangers.exchange_key(node).map(|key| key.public_key());
        let Some(exchange_key) = known.or_else(derived) else { return };
        let sender = self.address.node;
        if let Ok(frame) = self.identity.sign_exchange_key(sender, exchange_key) {
            self.outbox.push_back((to, frame.emit().to_vec()));
        }
        if asks_back {
            self.outbox.push_back((to, BareKey { sender, exchange_key }.emit().to_vec()));
        }
    }

    /// Takes a signed key; `bytes` are the whole datagram.
    pub(super) fn on_signed_key(&mut self, now: Instant, from: SocketAddr, frame: &SignedKey, bytes: &[u8]) {
        let sender = frame.sender;
        if !self.is_addressable(sender) {
            return;
        }
        // Cheap checks first.
        match self.peers.get(&sender).and_then(|peer| peer.recall(frame)) {
            Some(KeyVerdict::Refused) => {
                count_drop!(self, dropped_keys);
                return;
            }
            Some(KeyVerdict::Accepted | KeyVerdict::NeedsIdentity) => {
                self.with_peer(sender, |peer, _, _| peer.on_unproven(from, bytes.len()));
                return;
            }
            None => {}
        }
        let is_returnable = cookie_of(bytes)
            .is_some_and(|cookie| cookie::is_cookie_of(&self.strangers.prf, now, from, &cookie));
        if !self.may_check(now, from, sender, is_returnable) {
            count_drop!(self, dropped_key_checks);
            if !is_returnable {
                self.hand_cookie(now, from, frame);
            }
            return;
        }
        if self.peers.get(&sender).and_then(Peer::identity_key) == Some(frame.identity_key) {
            self.take_signed_key(now, from, frame);
        } else if verify_signed_key(frame).is_err() {
            count_drop!(self, dropped_keys);
        } else if self.ask_identity(now, from, sender, is_returnable) {
            self.strangers.hold(now, frame.clone(), from);
        } else {
            count_drop!(self, dropped_questions);
            if !is_returnable {
                self.hand_cookie(now, from, frame);
            }
        }
    }

    /// Whether the budget allows a signature check.
    fn may_check(&mut self, now: Instant, from: SocketAddr, sender: NodeId, is_returnable: bool) -> bool {
        let limits = &mut self.limits;
        let is_at_home = self.peers.get(&sender).is_some_and(|peer| peer.endpoint() == Some(from));
        is_at_home && limits.expected_checks.take(now, sender)
            || is_returnable && limits.returnable_checks.take(now, from)
            || limits.unproven_checks.take(now, from)
    }

    fn hand_cookie(&mut self, now: Instant, from: SocketAddr, frame: &SignedKey) {
        if self.limits.cookies.take(now, from) {
            let cookie = cookie::cookie_for(&self.strangers.prf, now, from);
            let reply = CookieReply::new(self.address.node, &frame.exchange_key, cookie);
            self.counters.cookies_sent += 1;
            self.outbox.push_back((from, reply.emit().to_vec()));
        }
    }

    /// A peer checks our key only if it comes with a cookie.
    pub(super) fn on_cookie_reply(&mut self, now: Instant, from: SocketAddr, reply: CookieReply) {
        let is_expected =
            |peer: &&Peer| peer.endpoint() == Some(from) && reply.is_about(&peer.exchange_key());
        let is_new = self.peers.get(&reply.sender).filter(is_expected).is_some()
            && self.strangers.jar.keep(now, from, reply.cookie);
        if is_new {
            self.push_keys(reply.sender, from, false);
        } else {
            count_drop!(self, dropped_cookies);
        }
    }

    /// Asks the registry whose key a stranger has, unless it is being asked about that node already.
    /// `false` if there were too many questions.
    fn ask_identity(&mut self, now: Instant, from: SocketAddr, node: NodeId, is_returnable: bool) -> bool {
        if self.asked.contains(&node) || self.strangers.questions.get(&node).is_some_and(|until| now < *until)
        {
            return true;
        }
        let most = if is_returnable { MAX_QUESTIONS } else { MAX_UNPROVEN_QUESTIONS };
        if self.strangers.questions.len() >= most {
            self.strangers.questions.retain(|_, until| now < *until);
        }
        let limits = &mut self.limits;
        let is_allowed = self.strangers.questions.len() < most
            && (is_returnable && limits.returnable_questions.take(now, from)
                || limits.unproven_questions.take(now, from));
        if is_allowed {
            self.strangers.questions.insert(node, now + PATIENCE);
            self.events.push_back(Event::KeyNeeded(node));
        }
        is_allowed
    }

    /// Answers [`Event::KeyNeeded`]: the identity key that the registry names, or `None` if it names none
    /// or cannot be asked.
    pub fn on_key(&mut self, now: Instant, node: NodeId, identity_key: Option<[u8; 32]>) {
        self.recorder.now = now;
        self.strangers.questions.remove(&node);
        match identity_key {
            Some(identity_key) => self.learn_identity(now, node, identity_key, None),
            // Our own question may still be answered.
            None if self.asked.contains(&node) => {}
            None => self.counters.dropped_keys += self.strangers.take_held(node).len() as u64,
        }
    }

    /// The registry names a node's key: whoever proved to have it is let in, and whoever showed another
    /// one is not.
    pub(super) fn learn_identity(
        &mut self,
        now: Instant,
        node: NodeId,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
    ) {
        let known = self.peers.get(&node).and_then(Peer::identity_key);
        if known.is_some_and(|known| known != identity_key) {
            self.on_rekeyed(now, node);
        }
        let (proved, other): (Vec<_>, Vec<_>) = self
            .strangers
            .take_held(node)
            .into_iter()
            .partition(|held| held.frame.identity_key == identity_key);
        self.counters.dropped_keys += other.len() as u64;
        if !proved.is_empty() && !self.admit_peer(now, node) {
            return;
        }
        let mut proved = proved.into_iter();
        // The first is kept by the peer until it knows the identity, and settled before anything is sent.
        if let Some(first) = proved.next() {
            self.take_signed_key(now, first.from, &first.frame);
        }
        self.with_peer(node, |peer, local, out| peer.on_record(now, identity_key, endpoint, local, out));
        for held in proved {
            self.take_signed_key(now, held.from, &held.frame);
        }
    }

    fn take_signed_key(&mut self, now: Instant, from: SocketAddr, frame: &SignedKey) {
        let mut verdict = KeyVerdict::Refused;
        let sender = frame.sender;
        self.with_peer(sender, |peer, local, out| verdict = peer.on_signed_key(now, frame, from, local, out));
        if verdict == KeyVerdict::Refused {
            count_drop!(self, dropped_keys);
        }
    }

    /// Makes a peer known that we call: it always gets a place, as long as the connections do. `false`
    /// when there is none.
    pub(super) fn ensure_peer(&mut self, now: Instant, node: NodeId) -> bool {
        self.peers.contains_key(&node)
            || (self.has_place() || self.peers.len() < self.config.max_peers + self.config.max_connections)
                && self.add_peer(now, node)
    }

    /// Makes a peer known that proved who it is. `false` when all others are in use.
    fn admit_peer(&mut self, now: Instant, node: NodeId) -> bool {
        if self.peers.contains_key(&node) {
            return true;
        }
        let is_added = self.has_place() && self.add_peer(now, node);
        if !is_added {
            count_drop!(self, dropped_limited);
        }
        is_added
    }

    fn add_peer(&mut self, now: Instant, node: NodeId) -> bool {
        let Some(own) = self.strangers.exchange_key(node) else { return false };
        let mut peer = Peer::new(now, node, own);
        peer.set_trace(self.recorder.trace.detail());
        self.peers.insert(node, peer);
        true
    }

    /// Whether the table has a place; the peer that was silent for longest, and has nothing to do with
    /// us, makes one.
    fn has_place(&mut self) -> bool {
        if self.peers.len() < self.config.max_peers {
            return true;
        }
        let idle = |(id, peer): &(&NodeId, &Peer)| !self.by_peer.contains_key(id) && !peer.is_active();
        let oldest = self.peers.iter().filter(idle).min_by_key(|(id, peer)| (peer.last_rx(), **id));
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        self.forget_peer(id);
        true
    }

    /// Forgets a peer, its sessions, and what waited for it.
    pub(super) fn forget_peer(&mut self, node: NodeId) {
        if self.peers.remove(&node).is_some() {
            self.strangers.renew_keys();
        }
        self.peer_armed.remove(&node);
        self.pending.remove(&node);
        self.early.take(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(node: u32, key: u32) -> SignedKey {
        let mut exchange_key = [0; 32];
        exchange_key[..4].copy_from_slice(&key.to_be_bytes());
        SignedKey { sender: NodeId(node), exchange_key, identity_key: [0; 32], signature: [0; 64] }
    }

    fn at(host: u32, port: u16) -> SocketAddr {
        SocketAddr::from((host.to_be_bytes(), port))
    }

    #[test]
    fn what_waits_for_the_registry_is_bounded_for_each_node_and_host_and_in_all() {
        let mut strangers = Strangers::new(&[1; 32]);
        let now = Instant::from_millis(1);
        strangers.hold(now, frame(1, 0), at(1, 1));
        for n in 0..1000 {
            strangers.hold(now, frame(2, n), at(n + 100, 1));
        }
        assert_eq!(strangers.held.len(), 1 + MAX_HELD_PER_NODE);
        for n in 0..1000 {
            strangers.hold(now, frame(n + 100, n), at(2, n as u16));
        }
        assert_eq!(strangers.held.len(), 1 + MAX_HELD_PER_NODE + MAX_HELD_PER_HOST);
        assert_eq!(strangers.take_held(NodeId(1)).len(), 1, "it is still there");
        for n in 0..10_000 {
            strangers.hold(now, frame(n + 10_000, n), at(n + 10_000, 1));
        }
        assert_eq!(strangers.held.len(), MAX_HELD);
        strangers.hold(now + PATIENCE, frame(1, 0), at(1, 1));
        assert_eq!(strangers.held.len(), 1);
        // A newer key of the same claim takes the place of the older one.
        strangers.hold(now + PATIENCE, frame(1, 1), at(1, 1));
        assert_eq!(strangers.held.len(), 1);
        // Nobody pushes out what others hold in the same name.
        for n in 0..100 {
            strangers.hold(now + PATIENCE, frame(1, n), at(2, n as u16));
        }
        let held = strangers.take_held(NodeId(1));
        assert_eq!(held.len(), 1 + MAX_HELD_PER_CLAIM);
        assert_eq!(held[0].frame, frame(1, 1));
    }

    #[test]
    fn a_key_for_a_node_is_the_same_until_a_peer_is_forgotten() {
        let mut strangers = Strangers::new(&[1; 32]);
        let public = |strangers: &Strangers, n| strangers.exchange_key(NodeId(n)).unwrap().public_key();
        let (one, two) = (public(&strangers, 1), public(&strangers, 2));
        assert_ne!(one, two);
        assert_eq!(public(&strangers, 1), one);
        strangers.renew_keys();
        assert_ne!(public(&strangers, 1), one);
        assert_ne!(public(&Strangers::new(&[2; 32]), 1), one);
    }
}
