//! What arrives: records of the registry, keys and sealed frames, each with what it says of where the peer is
//! (RFC 9000 section 9).

use core::{net::SocketAddr, time::Duration};

use super::{CANDIDATE_LIFETIME, MAX_CANDIDATES, Path, Paths, relay::Relay};
use crate::{crypto::entropy::Entropy, time::Instant, tunnel::route::Route};

/// Interval and burst of tries of addresses known only from the registry while there is a session. A peer
/// that crashes repeatedly may return at another address each time.
const REGISTRY_MOVE_INTERVAL: Duration = Duration::from_secs(4);
const REGISTRY_MOVE_BURST: u32 = 4;
/// The same for addresses that frames of the peer come from: behind some boxes every frame comes from another one,
/// also those that answer a challenge and challenge in turn.
const NEW_ADDRESS_INTERVAL: Duration = Duration::from_millis(250);
const NEW_ADDRESS_BURST: u32 = 32;
/// Credit granted to such an address, as bytes received: three times as many may be sent, enough for both of
/// our keys and all challenges.
const HELLO_CREDIT: u64 = 240;
/// Addresses of a registry's list that a dial sends its key to.
const MAX_HELLOS: usize = 4;

/// What the sender of a frame says by the path that it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tunnel) enum Purpose {
    /// It uses the path.
    Use,
    /// It only tries the path (RFC 9000 section 9.1).
    Try,
    /// It has moved there.
    Move,
}

/// A frame that opened, as far as paths are concerned.
#[derive(Clone, Copy, Debug)]
pub(in crate::tunnel) struct Arrival {
    /// Bytes.
    pub(in crate::tunnel) len: usize,
    /// No frame sent later arrived before it.
    pub(in crate::tunnel) is_newest: bool,
    /// Why it took its path.
    pub(in crate::tunnel) purpose: Purpose,
    /// If it came through a beacon, that is because its sender found the direct path silent. Some legacy
    /// peers send everything there.
    pub(in crate::tunnel) may_advise: bool,
    /// Its sender announced capabilities.
    pub(in crate::tunnel) is_native: bool,
}

impl Paths {
    /// Drops all validation state: the identity of the peer changed.
    pub(in crate::tunnel) fn invalidate(&mut self, now: Instant) {
        let active = self.active.take();
        let active = active
            .map(|path| Path { is_from_registry: path.is_from_registry, ..Path::new(now, path.address) });
        let relay = self.relay.take();
        let relay = relay.map(|relay| Relay { has_received: false, ..relay });
        *self = Self { active, relay, ..Self::default() };
    }

    /// Uses the address named by the registry; called while no other address is known to work. Returns
    /// whether the address in use changed.
    pub(in crate::tunnel) fn on_registry_endpoint(&mut self, now: Instant, address: SocketAddr) -> bool {
        if let Some(path) = self.active.as_mut().filter(|path| path.address == address) {
            path.is_from_registry = true;
            return false;
        }
        let known = self.candidates.iter().position(|path| path.address == address);
        let path = known.map_or_else(|| Path::new(now, address), |at| self.candidates.remove(at));
        let before = self.active.replace(Path { is_from_registry: true, ..path });
        self.keep_aside(now, before.filter(|path| !path.is_validated));
        if self.is_relayed() {
            self.checks.start(now);
        }
        true
    }

    /// Keeps an address as a candidate for a while.
    pub(super) fn keep_aside(&mut self, now: Instant, path: Option<Path>) {
        let Some(path) = path else { return };
        let count = self.candidates.iter().filter(|path| !path.is_told).count();
        if path.is_told || count < MAX_CANDIDATES {
            self.candidates.push(path.until(now + CANDIDATE_LIFETIME));
        }
    }

    /// Where the key of a dial goes: to every address that the registry names, and through the relay.
    pub(in crate::tunnel) fn hello_routes(&mut self, now: Instant) -> Vec<Route> {
        let named: Vec<_> = self.checks.of_registry().take(MAX_HELLOS).collect();
        let mut routes: Vec<_> = self.endpoint().map(Route::Direct).into_iter().collect();
        for address in named {
            if let Some(path) = self.named(now, address) {
                path.is_from_registry = true;
            }
            if !routes.contains(&Route::Direct(address)) {
                routes.push(Route::Direct(address));
            }
        }
        routes.extend(self.relay());
        routes
    }

    /// Finds or adds the path to an address of the check list.
    pub(super) fn named(&mut self, now: Instant, address: SocketAddr) -> Option<&mut Path> {
        if self.find_mut(address).is_none() {
            self.candidates.push(Path { is_told: true, ..Path::new(now, address) });
        }
        let path = self.find_mut(address)?;
        path.until = path.until.max(now + CANDIDATE_LIFETIME);
        Some(path)
    }

    /// The registry names an address other than the one in use: challenges both, within the budget.
    pub(in crate::tunnel) fn on_registry_move(
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
        // The peer was silent, perhaps because it does not know where we are.
        path.announce(now, entropy);
        self.challenge_active(now, entropy);
        self.registry_budget_full_at = registry_budget_full_at;
        true
    }

    /// A key signed by the peer arrived by this route. It may have been forwarded by anyone.
    pub(in crate::tunnel) fn on_key(&mut self, now: Instant, from: Route, len: usize) {
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
    pub(in crate::tunnel) fn on_unauthenticated(&mut self, from: Route, len: usize) {
        if let Some(path) = from.direct().and_then(|from| self.find_mut(from)) {
            path.on_received(len);
        }
    }

    /// A frame of `len` bytes came by a route that the peer is known to use.
    pub(in crate::tunnel) fn on_heard(&mut self, now: Instant, from: Route, len: usize) {
        self.checks.earn(len);
        match &mut self.relay {
            Some(relay) if from.is_relayed() => relay.has_answered = true,
            _ => {
                if let Some(path) = &self.active {
                    self.watch.on_heard(now, &path.rtt);
                }
            }
        }
    }

    /// A sealed frame of the peer arrived by this route. Reordered frames do not start a migration (RFC 9000
    /// section 9.3), nor do probes of other paths, and relayed frames never do. Returns whether frames go to a new
    /// address from now on.
    pub(in crate::tunnel) fn on_sealed(
        &mut self,
        now: Instant,
        from: Route,
        arrival: Arrival,
        entropy: &mut Entropy,
    ) -> bool {
        let len = arrival.len;
        let Some(address) = from.direct() else {
            if let Some(relay) = &mut self.relay {
                relay.on_heard(now);
            }
            self.checks.earn(len);
            if arrival.is_newest && arrival.purpose != Purpose::Try && arrival.may_advise {
                self.on_advice(now, arrival.is_native, entropy);
            }
            return false;
        };
        if self.endpoint() == Some(address) {
            self.on_sealed_at_active(now, arrival, entropy);
            return false;
        }
        if arrival.purpose == Purpose::Use {
            self.watch.on_heard_elsewhere();
        }
        if self.find_mut(address).is_none() && !self.may_add(now) {
            return false;
        }
        if arrival.purpose == Purpose::Try && self.is_proven() {
            let is_wanted = self.is_better(address);
            if let Some(path) = self.candidate(now, address, true) {
                path.on_received(len);
                if is_wanted {
                    path.challenge(now, entropy);
                }
            }
            return false;
        }
        if !arrival.is_newest {
            self.on_unauthenticated(from, len);
            return false;
        }
        self.ignored.retain(|(_, until)| now < *until);
        if self.ignored.iter().any(|(ignored, _)| *ignored == address) {
            return false;
        }
        if let Some(path) = self.candidate(now, address, true) {
            path.has_received = true;
            path.on_received(len);
            path.challenge(now, entropy);
        }
        if arrival.purpose == Purpose::Move && self.begin_trial(now, address, entropy) {
            return true;
        }
        if self.active.as_ref().is_none_or(|path| !path.is_validated && !path.has_received) {
            // The unconfirmed address in use was wrong; keep it as a candidate.
            let at = self.candidates.iter().position(|path| path.address == address);
            let heard = at.map(|at| self.candidates.remove(at));
            let told = core::mem::replace(&mut self.active, heard);
            self.keep_aside(now, told);
        } else {
            self.challenge_active(now, entropy);
        }
        false
    }

    fn on_sealed_at_active(&mut self, now: Instant, arrival: Arrival, entropy: &mut Entropy) {
        let Some(path) = &mut self.active else { return };
        if path.is_usable() {
            self.watch.on_heard(now, &path.rtt);
            self.checks.earn(arrival.len);
            return;
        }
        path.has_received = true;
        path.on_received(arrival.len);
        path.challenge(now, entropy);
    }

    /// Challenges the address in use.
    pub(super) fn challenge_active(&mut self, now: Instant, entropy: &mut Entropy) {
        if let Some(path) = &mut self.active {
            path.challenge(now, entropy);
        }
    }

    /// Whether another address that a frame came from may be tried; if so, it is charged.
    fn may_add(&mut self, now: Instant) -> bool {
        let full_at = self.arrival_budget_full_at.max(now) + NEW_ADDRESS_INTERVAL;
        let may_add = full_at <= now + NEW_ADDRESS_BURST * NEW_ADDRESS_INTERVAL;
        if may_add {
            self.arrival_budget_full_at = full_at;
        }
        may_add
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
        let is_counted = |path: &Path| !path.is_told;
        if self.candidates.iter().filter(|path| is_counted(path)).count() >= MAX_CANDIDATES {
            let is_unauthenticated =
                |path: &Path| is_counted(path) && !path.has_received && !path.is_from_registry;
            let oldest = self.candidates.iter().position(is_counted).filter(|_| is_authenticated);
            let victim = self.candidates.iter().position(is_unauthenticated).or(oldest)?;
            self.candidates.remove(victim);
        }
        self.candidates.push(Path::new(now, address));
        self.candidates.last_mut()
    }
}
