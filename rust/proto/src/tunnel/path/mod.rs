//! The ways to a peer: its addresses, their validation and migration (RFC 9000 sections 8 and 9), and the
//! relay.
//!
//! A sealed frame authenticates its sender, not its source address: an on-path attacker can forward it from
//! elsewhere, and a sender can spoof its address. So an address is validated by a challenge: a sealed ping
//! with unpredictable port and sequence number, both of which every generation of peers echoes. Until the
//! answer arrives from that address, at most three times the bytes received from it are sent to it, and
//! traffic stays on the previously validated address. That one is challenged as well: if it answers, the peer
//! has not moved (section 9.3.3).
//!
//! Frames go to a validated address, the nearest first ([`PathClass`]); while there is none, through the
//! relay. Meanwhile every address at which the peer may be is challenged ([`checks`]). An address that falls
//! silent is left for the relay, and used again when it answers ([`upgrade`]).

mod address;
mod answers;
mod arrivals;
mod challenge;
mod checks;
mod credit;
mod moves;
mod relay;
mod status;
mod steady;
mod upgrade;
mod watch;

use core::net::SocketAddr;
use std::collections::VecDeque;

use self::{
    address::{CANDIDATE_LIFETIME, Path},
    challenge::CHALLENGE_TIMER,
    checks::Checks,
    moves::Moves,
    relay::Relay,
    upgrade::Failovers,
    watch::Watch,
};
use super::{candidates::PathClass, path_mtu::PathMtu, route::Route};
use crate::{time::Instant, wire::addr::NodeId};

pub(super) use self::{
    arrivals::{Arrival, Purpose},
    challenge::Token,
    upgrade::Silence,
};
pub use self::{
    checks::Source,
    status::{CandidateState, CandidateStatus},
};

/// Candidate addresses under validation at the same time that only the peer's frames named.
const MAX_CANDIDATES: usize = 4;

/// What the answer to a challenge changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathChange {
    /// Nothing.
    None,
    /// The address in use is validated now.
    Validated,
    /// A better address is used now; the one before works, too.
    Upgraded,
    /// The peer migrated; frames go to the new address now.
    Moved,
}

/// The addresses of one peer, and the way through a beacon.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The address in use, or to be used once it is validated.
    active: Option<Path>,
    /// Addresses under validation, oldest first, and validated ones that are not in use.
    candidates: Vec<Path>,
    /// The address used before, while its challenge is outstanding.
    previous: Option<Path>,
    /// Addresses ignored for a while.
    ignored: VecDeque<(SocketAddr, Instant)>,
    /// When the budget for tries of registry addresses is full again.
    registry_budget_full_at: Instant,
    /// The same for addresses that frames of the peer came from.
    arrival_budget_full_at: Instant,
    /// The way through our home beacon.
    relay: Option<Relay>,
    checks: Checks,
    watch: Watch,
    failovers: Failovers,
    moves: Moves,
}

impl Paths {
    /// Where frames go: to a validated address; else through the relay if the peer was heard there; else to
    /// an address that is not validated, within its credit.
    pub(super) fn route(&self) -> Option<Route> {
        let relay = self.relay();
        let direct = self.endpoint().map(Route::Direct);
        if self.is_relayed() { relay } else { direct.or(relay) }
    }

    /// Whether frames go through the relay although an address may be known.
    pub(super) fn is_relayed(&self) -> bool {
        let has_failed = self.active.as_ref().is_some_and(|path| path.is_suspect);
        let is_direct = self.is_direct() || self.is_on_trial();
        !is_direct && self.relay.as_ref().is_some_and(|relay| relay.has_received || has_failed)
    }

    /// Whether there is a validated address.
    pub(super) fn is_direct(&self) -> bool {
        self.active.as_ref().is_some_and(Path::is_usable)
    }

    /// The class of the validated address in use.
    fn class(&self) -> Option<PathClass> {
        self.active.as_ref().filter(|path| path.is_usable()).map(|path| PathClass::of(path.address))
    }

    /// Whether an address would be better than the one in use.
    fn is_better(&self, address: SocketAddr) -> bool {
        self.class().is_none_or(|class| PathClass::of(address) > class)
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
        let is_known = |path: &Path| path.is_from_registry || path.has_received || path.is_validated;
        self.is_relayed() || self.active.as_ref().is_some_and(is_known)
    }

    /// Whether the peer is known to use `route`, so that a frame from there changes nothing.
    pub(super) fn is_stable_at(&self, route: Route) -> bool {
        match route {
            Route::Direct(address) => self.is_direct() && self.endpoint() == Some(address),
            Route::Relayed { .. } => {
                self.is_relayed() && self.relay.as_ref().is_some_and(|relay| relay.has_received)
            }
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

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        self.active.iter_mut().chain(&mut self.candidates).chain(&mut self.previous)
    }

    fn find_mut(&mut self, address: SocketAddr) -> Option<&mut Path> {
        self.all_mut().find(|path| path.address == address)
    }
}
