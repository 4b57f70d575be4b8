//! Path validation and migration: the addresses of a peer (RFC 9000 sections 8 and 9).
//!
//! A sealed frame authenticates its sender, not its source address: an on-path attacker can forward it from
//! elsewhere, and a sender can spoof its address. So an address is validated by a challenge: a sealed ping
//! with unpredictable port and sequence number, both of which every generation of peers echoes. Until the
//! answer arrives from that address, at most three times the bytes received from it are sent to it, and
//! traffic stays on the previously validated address. That one is challenged as well: if it answers, the peer
//! has not moved (section 9.3.3).

mod address;
mod challenge;
mod relay;

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use self::{
    address::{AMPLIFICATION, CANDIDATE_LIFETIME, IP_UDP_HEADERS, Path},
    challenge::CHALLENGE_TIMER,
    relay::Relay,
};
use super::{path_mtu::PathMtu, route::Route};
use crate::{crypto::entropy::Entropy, time::Instant, wire::addr::NodeId};

pub(super) use challenge::Token;

/// Candidate addresses under validation at the same time.
const MAX_CANDIDATES: usize = 4;
/// How long an address is ignored after the peer was found to be still at its previous one.
const IGNORE_FOR: Duration = Duration::from_secs(2);
/// Interval and burst of tries of addresses known only from the registry while there is a session. A peer
/// that crashes repeatedly may return at another address each time.
const REGISTRY_MOVE_INTERVAL: Duration = Duration::from_secs(4);
const REGISTRY_MOVE_BURST: u32 = 4;
/// Credit granted to such an address, as bytes received: three times as many may be sent, enough for both of
/// our keys and all challenges.
const HELLO_CREDIT: u64 = 240;

/// What the answer to a challenge changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathChange {
    /// Nothing.
    None,
    /// The address in use is validated now.
    Validated,
    /// The peer migrated; frames go to the new address now.
    Moved,
}

/// The addresses of one peer, and the way through a beacon.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The address in use, or to be used once it is validated.
    active: Option<Path>,
    /// Addresses under validation, oldest first.
    candidates: Vec<Path>,
    /// The address used before, while its challenge is outstanding.
    previous: Option<Path>,
    /// Addresses ignored for a while.
    ignored: VecDeque<(SocketAddr, Instant)>,
    /// When the budget for tries of registry addresses is full again.
    registry_budget_full_at: Instant,
    /// The way through our home beacon.
    relay: Option<Relay>,
}

impl Paths {
    /// Where frames go: to a validated address; else through the relay if the peer was heard there; else to
    /// an address that is not validated, within its credit.
    pub(super) fn route(&self) -> Option<Route> {
        let relay = self.relay.as_ref().map(Relay::route);
        let direct = self.endpoint().map(Route::Direct);
        if self.is_relayed() { relay } else { direct.or(relay) }
    }

    /// Whether frames go through the relay although an address may be known.
    fn is_relayed(&self) -> bool {
        !self.is_direct() && self.relay.as_ref().is_some_and(|relay| relay.has_received)
    }

    /// Whether there is a validated address.
    pub(super) fn is_direct(&self) -> bool {
        self.active.as_ref().is_some_and(Path::is_usable)
    }

    /// The address in use, or to be used once it is validated.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.active.as_ref().map(|path| path.address)
    }

    /// The way through our home beacon.
    pub(super) fn relay(&self) -> Option<Route> {
        self.relay.as_ref().map(Relay::route)
    }

    /// Whether a route is one that leads to the peer as far as is known.
    pub(super) fn is_known(&self, route: Route) -> bool {
        route.direct().is_some() && route.direct() == self.endpoint() || self.relay() == Some(route)
    }

    /// Sets or clears the home beacon.
    pub(super) fn set_relay(&mut self, beacon: Option<SocketAddr>, node: NodeId) {
        let has_received = self.relay.as_ref().is_some_and(|relay| relay.has_received);
        self.relay = beacon.map(|beacon| Relay { has_received, ..Relay::new(beacon, node) });
    }

    /// Whether a frame sealed by the peer came by the route in use, or its challenge was answered.
    pub(super) fn is_proven(&self) -> bool {
        self.is_direct() || self.is_relayed()
    }

    /// Whether a route to the peer is known from more than a key frame, which anyone may have forwarded.
    pub(super) fn is_corroborated(&self) -> bool {
        self.is_relayed()
            || self
                .active
                .as_ref()
                .is_some_and(|path| path.is_from_registry || path.has_received || path.is_validated)
    }

    /// Whether the peer is known to use `route`, so that a frame from there changes nothing.
    pub(super) fn is_stable_at(&self, route: Route) -> bool {
        match route {
            Route::Direct(address) => self.is_direct() && self.endpoint() == Some(address),
            Route::Relayed { .. } => self.relay.as_ref().is_none_or(|relay| relay.has_received),
        }
    }

    /// Path MTU discovery of the path in use.
    pub(super) fn mtu(&self) -> Option<&PathMtu> {
        match (self.route()?, &self.active, &self.relay) {
            (Route::Direct(_), Some(path), _) => Some(&path.mtu),
            (Route::Relayed { .. }, _, Some(relay)) => Some(&relay.mtu),
            _ => None,
        }
    }

    /// Path MTU discovery of the path in use.
    pub(super) fn mtu_mut(&mut self) -> Option<&mut PathMtu> {
        match (self.route()?, &mut self.active, &mut self.relay) {
            (Route::Direct(_), Some(path), _) => Some(&mut path.mtu),
            (Route::Relayed { .. }, _, Some(relay)) => Some(&mut relay.mtu),
            _ => None,
        }
    }

    /// Whether the address in use is validated, or a sealed frame arrived from it.
    pub(super) fn is_heard_directly(&self) -> bool {
        self.active.as_ref().is_some_and(|path| path.has_received || path.is_validated)
    }

    /// The peer may have left the address in use: it is not used again before it answers.
    pub(super) fn suspect_active(&mut self, now: Instant, entropy: &mut Entropy) {
        if let Some(path) = &mut self.active {
            path.is_suspect = true;
            path.challenge(now, entropy);
        }
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        self.active.iter_mut().chain(&mut self.candidates).chain(&mut self.previous)
    }

    fn find_mut(&mut self, address: SocketAddr) -> Option<&mut Path> {
        self.all_mut().find(|path| path.address == address)
    }

    /// Drops all validation state: the identity of the peer changed.
    pub(super) fn invalidate(&mut self, now: Instant) {
        let active = self.active.take();
        let active = active
            .map(|path| Path { is_from_registry: path.is_from_registry, ..Path::new(now, path.address) });
        let relay = self.relay.take();
        let relay = relay.map(|relay| Relay { has_received: false, ..relay });
        *self = Self { active, relay, ..Self::default() };
    }

    /// Uses the address named by the registry; called while no other address is known to work. Returns
    /// whether the address in use changed.
    pub(super) fn on_registry_endpoint(&mut self, now: Instant, address: SocketAddr) -> bool {
        if let Some(path) = self.active.as_mut().filter(|path| path.address == address) {
            path.is_from_registry = true;
            return false;
        }
        let known = self.candidates.iter().position(|path| path.address == address);
        let path = known.map_or_else(|| Path::new(now, address), |at| self.candidates.remove(at));
        let before = self.active.replace(Path { is_from_registry: true, ..path });
        self.candidates.extend(
            before.filter(|path| !path.is_validated).map(|path| path.until(now + CANDIDATE_LIFETIME)),
        );
        self.candidates.truncate(MAX_CANDIDATES);
        true
    }

    /// The registry names an address other than the one in use: challenges both, within the budget.
    pub(super) fn on_registry_move(
        &mut self,
        now: Instant,
        address: SocketAddr,
        entropy: &mut Entropy,
    ) -> bool {
        let registry_budget_full_at = self.registry_budget_full_at.max(now) + REGISTRY_MOVE_INTERVAL;
        if registry_budget_full_at > now + REGISTRY_MOVE_BURST * REGISTRY_MOVE_INTERVAL {
            return false;
        }
        self.ignored.retain(|(ignored, _)| *ignored != address);
        let Some(path) = self.candidate(now, address, true) else { return false };
        path.is_from_registry = true;
        path.received += HELLO_CREDIT;
        path.challenge(now, entropy);
        self.challenge_active(now, entropy);
        self.registry_budget_full_at = registry_budget_full_at;
        true
    }

    /// A key signed by the peer arrived by this route. It may have been forwarded by anyone.
    pub(super) fn on_key(&mut self, now: Instant, from: Route, len: usize) {
        let Some(from) = from.direct() else { return };
        if self.active.is_none() {
            self.active = Some(Path::new(now, from));
        }
        let path = match self.find_mut(from) {
            Some(path) => Some(path),
            None => self.candidate(now, from, false),
        };
        if let Some(path) = path {
            path.on_received(len);
        }
    }

    /// An unauthenticated frame arrived by this route; it adds to the credit.
    pub(super) fn on_unauthenticated(&mut self, from: Route, len: usize) {
        if let Some(path) = from.direct().and_then(|from| self.find_mut(from)) {
            path.on_received(len);
        }
    }

    /// A sealed frame of the peer arrived by this route. Reordered frames do not start a migration (RFC 9000
    /// section 9.3), and relayed frames never do.
    pub(super) fn on_sealed(
        &mut self,
        now: Instant,
        from: Route,
        len: usize,
        is_newest: bool,
        entropy: &mut Entropy,
    ) {
        let Some(from) = from.direct() else {
            if let Some(relay) = &mut self.relay {
                relay.has_received = true;
            }
            return;
        };
        if let Some(path) = self.active.as_mut().filter(|path| path.address == from) {
            if !path.is_usable() {
                path.has_received = true;
                path.on_received(len);
                path.challenge(now, entropy);
            }
            return;
        }
        if !is_newest {
            self.on_unauthenticated(from.into(), len);
            return;
        }
        self.ignored.retain(|(_, until)| now < *until);
        if self.ignored.iter().any(|(ignored, _)| *ignored == from) {
            return;
        }
        if let Some(path) = self.candidate(now, from, true) {
            path.has_received = true;
            path.on_received(len);
            path.challenge(now, entropy);
        }
        if self.active.as_ref().is_none_or(|path| !path.is_validated && !path.has_received) {
            // The unconfirmed address in use was wrong; keep it as a candidate.
            let at = self.candidates.iter().position(|path| path.address == from);
            let heard = at.map(|at| self.candidates.remove(at));
            let told = core::mem::replace(&mut self.active, heard);
            self.candidates.extend(told.map(|path| path.until(now + CANDIDATE_LIFETIME)));
            self.candidates.truncate(MAX_CANDIDATES);
        } else {
            self.challenge_active(now, entropy);
        }
    }

    /// Challenges the address in use.
    fn challenge_active(&mut self, now: Instant, entropy: &mut Entropy) {
        if let Some(path) = &mut self.active {
            path.challenge(now, entropy);
        }
    }

    /// Finds or adds the candidate for an address. At the bound the oldest is evicted; an unauthenticated
    /// address evicts only another unauthenticated one.
    fn candidate(&mut self, now: Instant, address: SocketAddr, is_authenticated: bool) -> Option<&mut Path> {
        if self.previous.as_ref().is_some_and(|path| path.address == address) {
            return self.previous.as_mut();
        }
        if let Some(at) = self.candidates.iter().position(|path| path.address == address) {
            return self.candidates.get_mut(at);
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let is_unauthenticated = |path: &Path| !path.has_received && !path.is_from_registry;
            let victim =
                self.candidates.iter().position(is_unauthenticated).or(is_authenticated.then_some(0))?;
            self.candidates.remove(victim);
        }
        self.candidates.push(Path::new(now, address));
        self.candidates.last_mut()
    }

    /// Whether `len` bytes may be sent by a route; if so, they are charged. A beacon is configured, so that
    /// nothing is sent to an address that somebody made up.
    pub(super) fn spend(&mut self, to: Route, len: usize) -> bool {
        let Some(to) = to.direct() else { return true };
        let Some(path) = self.find_mut(to) else { return false };
        let has_credit = path.has_credit(len);
        if has_credit {
            path.on_sent(len);
        }
        path.is_credit_blocked |= !has_credit;
        has_credit
    }

    /// The same for the key frames of a dial, which may be sent to an address named by the registry without
    /// credit.
    pub(super) fn spend_hello(&mut self, to: Route, len: usize) -> bool {
        let path = to.direct().and_then(|to| self.find_mut(to));
        path.is_some_and(|path| path.is_from_registry) || self.spend(to, len)
    }

    /// The credit granted by an unauthenticated frame of `len` bytes; 0 for one that was counted already.
    pub(super) fn grant_credit(&mut self, from: Route, len: usize) -> u64 {
        if len == 0 {
            return 0;
        }
        self.on_unauthenticated(from, len);
        AMPLIFICATION * (len as u64 + IP_UDP_HEADERS)
    }

    /// As [`Self::spend`]; for an address that is not the peer's, `credit` is charged.
    pub(super) fn spend_credit(&mut self, credit: &mut u64, to: Route, len: usize) -> bool {
        if to.direct().is_none_or(|to| self.find_mut(to).is_some()) {
            return self.spend(to, len);
        }
        let left = credit.checked_sub(len as u64 + IP_UDP_HEADERS);
        *credit = left.unwrap_or(*credit);
        left.is_some()
    }

    /// The path in use, if it is an address.
    fn direct_in_use(&mut self) -> Option<&mut Path> {
        if self.is_relayed() { None } else { self.active.as_mut() }
    }

    /// Whether `len` bytes may be sent by the route in use.
    pub(super) fn has_credit(&mut self, len: usize) -> bool {
        let has_relay = self.relay.is_some();
        self.direct_in_use().map_or(has_relay, |path| {
            let has_credit = path.has_credit(len);
            path.is_credit_blocked |= !has_credit;
            has_credit
        })
    }

    /// Charges bytes sent by the route in use.
    pub(super) fn on_sent(&mut self, len: usize) {
        if let Some(path) = self.direct_in_use() {
            path.on_sent(len);
        }
    }

    /// Whether something was not sent for lack of credit since the last call.
    pub(super) fn take_credit_blocked(&mut self) -> bool {
        self.active.as_mut().is_some_and(|path| core::mem::take(&mut path.is_credit_blocked))
    }

    /// The challenge data of a ping to an address, so that its answer validates the address; `None` if it is
    /// validated, and through the relay. The ping counts as the first challenge.
    pub(super) fn token_for(&mut self, now: Instant, to: Route, entropy: &mut Entropy) -> Option<Token> {
        let path = self.find_mut(to.direct()?).filter(|path| !path.is_usable())?;
        path.challenge(now, entropy);
        let challenge = path.challenge.as_mut()?;
        challenge.due = challenge.due.max(now + CHALLENGE_TIMER);
        Some(challenge.token)
    }

    /// The next deadline.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due =
            |path: &Path| path.challenge.as_ref().filter(|last| !last.is_exhausted()).map(|last| last.due);
        let all = self.active.iter().chain(&self.candidates).chain(&self.previous).filter_map(due);
        all.chain(self.candidates.iter().map(|path| path.until)).min()
    }

    /// Returns the challenges that are due and drops candidates that failed. `asked` is pinged anyway.
    pub(super) fn handle_timeout(&mut self, now: Instant, asked: Option<Route>) -> Vec<(SocketAddr, Token)> {
        let is_over = |path: &Path| path.challenge.is_some_and(|last| last.is_failed(now));
        self.candidates.retain(|path| path.until > now && !is_over(path));
        self.previous.take_if(|path| is_over(path));
        let mut due = Vec::new();
        for path in self.all_mut() {
            let Some(challenge) = path.challenge.as_mut().filter(|last| last.due <= now) else { continue };
            if challenge.is_exhausted() {
                if path.is_usable() {
                    path.challenge = None;
                }
                continue;
            }
            challenge.wait(now);
            if asked == Some(Route::Direct(path.address)) {
                continue;
            }
            challenge.on_sent();
            path.until = path.until.max(challenge.due + CHALLENGE_TIMER);
            due.push((path.address, challenge.token));
        }
        due
    }

    /// The peer answered a challenge from this address.
    pub(super) fn on_answer(&mut self, now: Instant, from: SocketAddr, token: Token) -> PathChange {
        if let Some(path) = self.active.as_mut().filter(|path| path.is_answered_by(from, token)) {
            path.challenge = None;
            let was_usable = path.is_usable();
            (path.is_validated, path.is_suspect) = (true, false);
            if !was_usable {
                return PathChange::Validated;
            }
            self.ignore_candidates(now);
            return PathChange::None;
        }
        if self.previous.as_ref().is_some_and(|path| path.is_answered_by(from, token)) {
            // The first answer was forwarded by an on-path attacker; the peer has not moved (section 9.3.3).
            let previous = self.previous.take();
            let elsewhere = core::mem::replace(&mut self.active, previous);
            self.ignore(now, elsewhere.map(|path| path.address));
            return self.switch_path(now);
        }
        let Some(at) = self.candidates.iter().position(|path| path.is_answered_by(from, token)) else {
            return PathChange::None;
        };
        let moved = self.candidates.remove(at);
        self.previous =
            self.active.replace(moved).filter(|path| path.is_validated && path.challenge.is_some());
        self.switch_path(now)
    }

    /// Switches to another path.
    fn switch_path(&mut self, now: Instant) -> PathChange {
        if let Some(path) = &mut self.active {
            (path.is_validated, path.is_suspect) = (true, false);
            path.challenge = None;
            path.mtu.fail(now);
        }
        PathChange::Moved
    }

    /// The peer has not moved: other addresses belong to someone who forwards its frames.
    fn ignore_candidates(&mut self, now: Instant) {
        let is_asked = |path: &mut Path| path.has_received || path.is_from_registry;
        let asked: Vec<_> = self.candidates.extract_if(.., is_asked).collect();
        self.ignore(now, asked.iter().filter(|path| path.has_received).map(|path| path.address));
    }

    fn ignore(&mut self, now: Instant, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            if self.ignored.len() >= MAX_CANDIDATES {
                self.ignored.pop_front();
            }
            self.ignored.push_back((address, now + IGNORE_FOR));
        }
    }
}
