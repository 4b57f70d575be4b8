//! Unauthenticated senders: the work and memory that they can cost this node.
//!
//! A peer gets an entry in the peer table when we dial it, or when the registry confirmed the key that signed
//! its frame. Until then it costs:
//!
//! - a bare key, or a sealed frame that no session opens: an answer derived from a secret and the sender's
//!   id, so that no state is kept;
//! - a signed key: a signature check, if the rate limit allows, then a registry lookup. Meanwhile the frame
//!   is held in a small bounded queue.
//!
//! Above the rate limit of signature checks the sender gets a cookie instead ([`cookie`]).

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use super::{Event, Node, rate_limits::host_of, trace::count_drop};
use crate::{
    crypto::{exchange::ExchangeKey, identity::verify_signed_key, prf::Prf},
    time::{Duration, Instant},
    tunnel::{
        KeyVerdict, Peer, Route,
        cookie::{self, CookieJar},
    },
    wire::{
        addr::NodeId,
        packet::HEADER_LEN,
        tunnel::{BARE_KEY_LEN, BareKey, CookieReply, SEALED_OVERHEAD, SIGNED_KEY_LEN, SignedKey, cookie_of},
    },
};

/// Signed keys held for a registry lookup: in total, per host, per claimed node, and per host and claimed
/// node.
const MAX_HELD: usize = 256;
const MAX_HELD_PER_HOST: usize = 32;
const MAX_HELD_PER_NODE: usize = 8;
const MAX_HELD_PER_CLAIM: usize = 2;
/// Open registry lookups: in total, and for senders without a cookie.
const MAX_LOOKUPS: usize = 64;
const MAX_UNVERIFIED_LOOKUPS: usize = 32;
/// An unanswered lookup expires after this, and the frames held for it are dropped.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
const KEY_LABEL: [u8; 4] = *b"x255";

/// A signed key whose identity the registry must confirm.
#[derive(Debug)]
struct Held {
    frame: SignedKey,
    from: Route,
    until: Instant,
}

/// State kept for unauthenticated senders.
#[derive(Debug)]
pub(super) struct Unauthenticated {
    prf: Prf,
    /// Incremented whenever a peer is removed, so that an exchange key is never used for two sessions.
    generation: u64,
    held: VecDeque<Held>,
    lookups: BTreeMap<NodeId, Instant>,
    /// Cookies received from peers.
    pub(super) jar: CookieJar,
}

impl Unauthenticated {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self {
            prf: Prf::new(secret),
            generation: 0,
            held: VecDeque::new(),
            lookups: BTreeMap::new(),
            jar: CookieJar::default(),
        }
    }

    /// Our exchange key for a node that is not in the peer table: stable until a peer is removed.
    pub(super) fn exchange_key(&self, node: NodeId) -> Option<ExchangeKey> {
        let secret = self.prf.value(KEY_LABEL, &[&self.generation.to_be_bytes(), &node.0.to_be_bytes()]);
        ExchangeKey::from_secret(&secret).ok()
    }

    /// Peers were removed.
    pub(super) fn renew_keys(&mut self) {
        self.generation += 1;
    }

    /// Holds a frame. It replaces an older one of the same claim; at a bound, the oldest of its host, of its
    /// node or of all is dropped.
    fn hold(&mut self, now: Instant, frame: SignedKey, from: Route) {
        let (node, host) = (frame.sender, host_of(from));
        let is_older = |held: &Held| {
            held.frame.sender == node && held.from == from && held.frame.identity_key == frame.identity_key
        };
        self.held.retain(|held| now < held.until && !is_older(held));
        self.make_room(MAX_HELD_PER_CLAIM, |held| held.frame.sender == node && host_of(held.from) == host);
        self.make_room(MAX_HELD_PER_NODE, |held| held.frame.sender == node);
        self.make_room(MAX_HELD_PER_HOST, |held| host_of(held.from) == host);
        self.make_room(MAX_HELD, |_| true);
        self.held.push_back(Held { frame, from, until: now + LOOKUP_TIMEOUT });
    }

    fn make_room(&mut self, most: usize, is_counted: impl Fn(&Held) -> bool) {
        if self.held.iter().filter(|held| is_counted(held)).count() >= most
            && let Some(oldest) = self.held.iter().position(is_counted)
        {
            self.held.remove(oldest);
        }
    }

    /// Removes and returns the frames held for a node, in order of arrival.
    fn take_held(&mut self, node: NodeId) -> Vec<Held> {
        let (taken, rest) = self.held.drain(..).partition(|held| held.frame.sender == node);
        self.held = rest;
        Vec::from(taken)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.held.retain(|held| now < held.until);
        self.lookups.retain(|_, until| now < *until);
    }
}

impl Node {
    /// Whether a key frame of this sender can be valid.
    fn is_valid_sender(&mut self, sender: NodeId) -> bool {
        let is_fine = sender != self.address.node && self.address.node != NodeId::default();
        if !is_fine {
            count_drop!(self, dropped_keys);
        }
        is_fine
    }

    fn is_at(&self, node: NodeId, from: Route) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.is_known_at(from))
    }

    pub(super) fn on_bare_key(&mut self, now: Instant, from: Route, sender: NodeId) {
        if !self.is_valid_sender(sender) {
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

    /// A sealed frame of `len` bytes that no session opens: the sender may have a session that we lost.
    pub(super) fn on_unopened(&mut self, now: Instant, from: Route, sender: NodeId, len: usize) {
        count_drop!(self, dropped_unauthentic);
        if self.is_at(sender, from) {
            self.with_peer(sender, |peer, local, out| peer.on_unopened(now, from, len, local, out));
            return;
        }
        let has_session = self.peers.get(&sender).is_some_and(|peer| peer.suite().is_some());
        // No sealed frame is shorter.
        if has_session || len < SEALED_OVERHEAD + HEADER_LEN || !self.is_valid_sender(sender) {
            return;
        }
        self.limits.credit.on_received(from, len);
        if self.limits.unopened.take_for(now, from, &(sender, from))
            && self.limits.credit.spend(from, SIGNED_KEY_LEN + BARE_KEY_LEN)
        {
            self.push_keys(sender, from, true);
        }
    }

    /// Sends our keys for a node to an address, and asks for the node's key if `asks_back`.
    fn push_keys(&mut self, node: NodeId, to: Route, asks_back: bool) {
        let known = self.peers.get(&node).map(Peer::exchange_key);
        let derived = || self.unauthenticated.exchange_key(node).map(|key| key.public_key());
        let Some(exchange_key) = known.or_else(derived) else { return };
        let sender = self.address.node;
        if let Ok(frame) = self.identity.sign_exchange_key(sender, exchange_key) {
            self.outbox.push_back((to, frame.emit().to_vec()));
        }
        if asks_back {
            self.outbox.push_back((to, BareKey { sender, exchange_key }.emit().to_vec()));
        }
    }

    /// Processes a signed key; `bytes` is the whole datagram.
    pub(super) fn on_signed_key(&mut self, now: Instant, from: Route, frame: &SignedKey, bytes: &[u8]) {
        let sender = frame.sender;
        if !self.is_valid_sender(sender) {
            return;
        }
        // The cheap check first.
        match self.peers.get(&sender).and_then(|peer| peer.cached_verdict(frame)) {
            Some(KeyVerdict::Refused) => {
                count_drop!(self, dropped_keys);
                return;
            }
            Some(KeyVerdict::Accepted | KeyVerdict::NeedsIdentity) => {
                let len = bytes.len();
                self.with_peer(sender, |peer, local, out| peer.on_repeated_key(now, from, len, local, out));
                return;
            }
            None => {}
        }
        let is_return_routable = cookie_of(bytes)
            .is_some_and(|cookie| cookie::is_cookie_of(&self.unauthenticated.prf, now, from, &cookie));
        if !self.may_check(now, from, sender, is_return_routable) {
            count_drop!(self, dropped_key_checks);
            if !is_return_routable {
                self.send_cookie(now, from, frame);
            }
            return;
        }
        if self.peers.get(&sender).and_then(Peer::identity_key) == Some(frame.identity_key) {
            self.take_signed_key(now, from, frame);
        } else if verify_signed_key(frame).is_err() {
            count_drop!(self, dropped_keys);
        } else if self.look_up_identity(now, from, sender, is_return_routable) {
            self.unauthenticated.hold(now, frame.clone(), from);
        } else {
            count_drop!(self, dropped_questions);
            if !is_return_routable {
                self.send_cookie(now, from, frame);
            }
        }
    }

    /// Whether the rate limits allow a signature check.
    fn may_check(&mut self, now: Instant, from: Route, sender: NodeId, is_return_routable: bool) -> bool {
        let is_at_home = self.is_at(sender, from);
        let limits = &mut self.limits;
        is_at_home && limits.expected_checks.take(now, sender)
            || is_return_routable && limits.routable_checks.take(now, from)
            || limits.unverified_checks.take(now, from)
    }

    fn send_cookie(&mut self, now: Instant, from: Route, frame: &SignedKey) {
        if self.limits.cookies.take(now, from) {
            let cookie = cookie::cookie_for(&self.unauthenticated.prf, now, from);
            let reply = CookieReply::new(self.address.node, &frame.exchange_key, cookie);
            self.counters.cookies_sent += 1;
            self.outbox.push_back((from, reply.emit().to_vec()));
        }
    }

    /// A peer demands a cookie with our key.
    pub(super) fn on_cookie_reply(&mut self, now: Instant, from: Route, reply: CookieReply) {
        let is_expected = |peer: &&Peer| peer.is_known_at(from) && reply.is_about(&peer.exchange_key());
        let is_new = self.peers.get(&reply.sender).filter(is_expected).is_some()
            && self.unauthenticated.jar.keep(now, from, reply.cookie);
        if is_new {
            self.push_keys(reply.sender, from, false);
        } else {
            count_drop!(self, dropped_cookies);
        }
    }

    /// Starts a registry lookup of a sender's identity key, unless one is open for that node. `false` above
    /// the limits.
    fn look_up_identity(
        &mut self,
        now: Instant,
        from: Route,
        node: NodeId,
        is_return_routable: bool,
    ) -> bool {
        if self.record_requests.contains(&node)
            || self.unauthenticated.lookups.get(&node).is_some_and(|until| now < *until)
        {
            return true;
        }
        let most = if is_return_routable { MAX_LOOKUPS } else { MAX_UNVERIFIED_LOOKUPS };
        if self.unauthenticated.lookups.len() >= most {
            self.unauthenticated.lookups.retain(|_, until| now < *until);
        }
        let limits = &mut self.limits;
        let is_allowed = self.unauthenticated.lookups.len() < most
            && (is_return_routable && limits.routable_lookups.take(now, from)
                || limits.unverified_lookups.take(now, from));
        if is_allowed {
            self.unauthenticated.lookups.insert(node, now + LOOKUP_TIMEOUT);
            self.events.push_back(Event::KeyNeeded(node));
        }
        is_allowed
    }

    /// Answers [`Event::KeyNeeded`]: the identity key that the registry names, or `None` if it has none or
    /// cannot be reached.
    pub fn on_key(&mut self, now: Instant, node: NodeId, identity_key: Option<[u8; 32]>) {
        self.recorder.now = now;
        self.unauthenticated.lookups.remove(&node);
        match identity_key {
            Some(identity_key) => self.learn_identity(now, node, identity_key, None),
            // The record request for our own dial may still be answered.
            None if self.record_requests.contains(&node) => {}
            None => self.counters.dropped_keys += self.unauthenticated.take_held(node).len() as u64,
        }
    }

    /// The registry named a node's identity key: held frames signed with it are accepted, others are dropped.
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
            .unauthenticated
            .take_held(node)
            .into_iter()
            .partition(|held| held.frame.identity_key == identity_key);
        self.counters.dropped_keys += other.len() as u64;
        if !proved.is_empty() && !self.admit_peer(now, node) {
            return;
        }
        let mut proved = proved.into_iter();
        // The peer keeps the first one until it knows the identity, and processes it before it sends
        // anything.
        if let Some(first) = proved.next() {
            self.take_signed_key(now, first.from, &first.frame);
        }
        self.with_peer(node, |peer, local, out| peer.on_record(now, identity_key, endpoint, local, out));
        for held in proved {
            self.take_signed_key(now, held.from, &held.frame);
        }
    }

    fn take_signed_key(&mut self, now: Instant, from: Route, frame: &SignedKey) {
        let mut verdict = KeyVerdict::Refused;
        let sender = frame.sender;
        self.with_peer(sender, |peer, local, out| verdict = peer.on_signed_key(now, frame, from, local, out));
        if verdict == KeyVerdict::Refused {
            count_drop!(self, dropped_keys);
        }
    }

    /// Adds a peer that we dial. It may exceed `max_peers`, by at most `max_connections`. `false` at that
    /// limit.
    pub(super) fn ensure_peer(&mut self, now: Instant, node: NodeId) -> bool {
        self.peers.contains_key(&node)
            || (self.has_room_for_peer()
                || self.peers.len() < self.config.max_peers + self.config.max_connections)
                && self.add_peer(now, node)
    }

    /// Adds an authenticated peer. `false` when the table is full of peers in use.
    fn admit_peer(&mut self, now: Instant, node: NodeId) -> bool {
        if self.peers.contains_key(&node) {
            return true;
        }
        let is_added = self.has_room_for_peer() && self.add_peer(now, node);
        if !is_added {
            count_drop!(self, dropped_limited);
        }
        is_added
    }

    fn add_peer(&mut self, now: Instant, node: NodeId) -> bool {
        let Some(own) = self.unauthenticated.exchange_key(node) else { return false };
        let mut peer = Peer::new(now, node, own);
        peer.set_trace(self.recorder.trace.detail());
        self.peers.insert(node, peer);
        let home = self.home;
        self.with_peer(node, |peer, local, out| peer.set_relay(now, home, local, out));
        true
    }

    /// Whether the peer table has room; otherwise the unused peer that was silent longest is removed.
    fn has_room_for_peer(&mut self) -> bool {
        if self.peers.len() < self.config.max_peers {
            return true;
        }
        let idle = |(id, peer): &(&NodeId, &Peer)| !self.by_peer.contains_key(id) && !peer.is_active();
        let oldest = self.peers.iter().filter(idle).min_by_key(|(id, peer)| (peer.last_rx(), **id));
        let Some(id) = oldest.map(|(id, _)| *id) else { return false };
        self.forget_peer(id);
        true
    }

    /// Removes a peer, its sessions and its queued packets.
    pub(super) fn forget_peer(&mut self, node: NodeId) {
        if self.peers.remove(&node).is_some() {
            self.unauthenticated.renew_keys();
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

    fn at(host: u32, port: u16) -> Route {
        Route::Direct(SocketAddr::from((host.to_be_bytes(), port)))
    }

    #[test]
    fn held_keys_are_bounded_per_node_per_host_and_in_total() {
        let mut unauthenticated = Unauthenticated::new(&[1; 32]);
        let now = Instant::from_millis(1);
        unauthenticated.hold(now, frame(1, 0), at(1, 1));
        for n in 0..1000 {
            unauthenticated.hold(now, frame(2, n), at(n + 100, 1));
        }
        assert_eq!(unauthenticated.held.len(), 1 + MAX_HELD_PER_NODE);
        for n in 0..1000 {
            unauthenticated.hold(now, frame(n + 100, n), at(2, n as u16));
        }
        assert_eq!(unauthenticated.held.len(), 1 + MAX_HELD_PER_NODE + MAX_HELD_PER_HOST);
        assert_eq!(unauthenticated.take_held(NodeId(1)).len(), 1, "it is still held");
        for n in 0..10_000 {
            unauthenticated.hold(now, frame(n + 10_000, n), at(n + 10_000, 1));
        }
        assert_eq!(unauthenticated.held.len(), MAX_HELD);
        unauthenticated.hold(now + LOOKUP_TIMEOUT, frame(1, 0), at(1, 1));
        assert_eq!(unauthenticated.held.len(), 1);
        // A newer key of the same claim replaces the older one.
        unauthenticated.hold(now + LOOKUP_TIMEOUT, frame(1, 1), at(1, 1));
        assert_eq!(unauthenticated.held.len(), 1);
        // Other hosts that claim the same node do not evict it.
        for n in 0..100 {
            unauthenticated.hold(now + LOOKUP_TIMEOUT, frame(1, n), at(2, n as u16));
        }
        let held = unauthenticated.take_held(NodeId(1));
        assert_eq!(held.len(), 1 + MAX_HELD_PER_CLAIM);
        assert_eq!(held[0].frame, frame(1, 1));
    }

    #[test]
    fn the_exchange_key_of_a_node_is_stable_until_a_peer_is_removed() {
        let mut unauthenticated = Unauthenticated::new(&[1; 32]);
        let public = |unauthenticated: &Unauthenticated, n| {
            unauthenticated.exchange_key(NodeId(n)).unwrap().public_key()
        };
        let (one, two) = (public(&unauthenticated, 1), public(&unauthenticated, 2));
        assert_ne!(one, two);
        assert_eq!(public(&unauthenticated, 1), one);
        unauthenticated.renew_keys();
        assert_ne!(public(&unauthenticated, 1), one);
        assert_ne!(public(&Unauthenticated::new(&[2; 32]), 1), one);
    }
}
