//! The check list (RFC 8445 section 6.1.2): addresses at which the peer may be reachable, and when they are
//! challenged.
//!
//! The peer names some of them itself, so it chooses where the challenges go. They are paid from what it sent
//! us by proven routes, a byte for a byte.

use core::{net::SocketAddr, time::Duration};

use super::address::IP_UDP_HEADERS;
use crate::{
    time::Instant,
    tunnel::candidates::{Candidate, CandidateKind, Candidates, PathClass, is_usable},
};

/// Addresses that the registry names, and that beacons told us to punch towards.
const MAX_REGISTRY: usize = 8;
const MAX_PUNCHED: usize = 2;
/// Waits between the rounds, in which every address is challenged; the last one repeats.
const WAITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(5)];
/// Rounds for a better path than the direct one in use.
const MAX_BETTER_ROUNDS: u32 = 3;
/// Bytes received that may still be spent.
const MAX_RESERVE: u64 = 4096;

/// Who named an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The peer, inside the tunnel.
    Peer(CandidateKind),
    /// The registry.
    Registry,
    /// A beacon that was asked to punch.
    Beacon,
    /// A frame of the peer came from there.
    Frame,
}

impl Source {
    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer(kind) => kind.name(),
            Self::Registry => "registry",
            Self::Beacon => "punched",
            Self::Frame => "peer_reflexive",
        }
    }
}

/// One address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) address: SocketAddr,
    pub(super) source: Source,
    /// Challenges of it that were not answered.
    pub(super) failures: u32,
}

/// The check list of one peer.
#[derive(Debug, Default)]
pub(super) struct Checks {
    list: Vec<Check>,
    /// When the next round begins.
    next_at: Option<Instant>,
    /// Rounds since the list or the path changed.
    rounds: u32,
    reserve: u64,
    /// The IPv4 address that a beacon named last, whoever else names it.
    punched: Option<SocketAddr>,
}

impl Checks {
    /// The addresses, the preferred ones first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Check> {
        self.list.iter().copied()
    }

    /// The addresses that the registry names.
    pub(super) fn of_registry(&self) -> impl Iterator<Item = SocketAddr> {
        self.iter().filter(|check| check.source == Source::Registry).map(|check| check.address)
    }

    /// When the next round begins.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_at
    }

    /// Replaces the addresses that the peer named. Returns whether there are new ones.
    pub(super) fn set_told(&mut self, told: &Candidates) -> bool {
        let told = told.iter().map(|Candidate { kind, address }| (address, Source::Peer(kind)));
        self.replace(told.collect(), |source| matches!(source, Source::Peer(_)))
    }

    /// Replaces the addresses that the registry names. Returns whether there are new ones.
    pub(super) fn set_registry(&mut self, named: impl IntoIterator<Item = SocketAddr>) -> bool {
        let named = named.into_iter().filter(|address| is_usable(*address)).take(MAX_REGISTRY);
        self.replace(named.map(|address| (address, Source::Registry)).collect(), |source| {
            source == Source::Registry
        })
    }

    /// A beacon told us to punch towards an address. Returns whether it is new.
    pub(super) fn add_punched(&mut self, address: SocketAddr) -> bool {
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.punched = Some(canonical).filter(SocketAddr::is_ipv4).or(self.punched);
        let before = self.list.iter().filter(|check| check.source == Source::Beacon);
        let mut named: Vec<_> = before.map(|check| (check.address, Source::Beacon)).collect();
        if named.len() >= MAX_PUNCHED {
            named.remove(0);
        }
        named.push((address, Source::Beacon));
        self.replace(named, |source| source == Source::Beacon)
    }

    /// The IPv4 address that a beacon named last.
    pub(super) fn punched(&self) -> Option<SocketAddr> {
        self.punched
    }

    fn replace(&mut self, named: Vec<(SocketAddr, Source)>, is_replaced: impl Fn(Source) -> bool) -> bool {
        let is_named = |check: &Check| named.iter().any(|(address, _)| *address == check.address);
        self.list.retain(|check| !is_replaced(check.source) || is_named(check));
        let mut is_new = false;
        for (address, source) in named {
            if self.list.iter().all(|check| check.address != address) {
                self.list.push(Check { address, source, failures: 0 });
                is_new = true;
            }
        }
        self.list.sort_by_key(|check| core::cmp::Reverse(PathClass::of(check.address)));
        is_new
    }

    /// Whether the peer or the registry names this address.
    pub(super) fn names(&self, address: SocketAddr) -> bool {
        self.list.iter().any(|check| check.address == address)
    }

    /// A challenge of this address was not answered.
    pub(super) fn on_failed(&mut self, address: SocketAddr) {
        if let Some(check) = self.list.iter_mut().find(|check| check.address == address) {
            check.failures = check.failures.saturating_add(1);
        }
    }

    /// The peer answered from this address.
    pub(super) fn on_answered(&mut self, address: SocketAddr) {
        if let Some(check) = self.list.iter_mut().find(|check| check.address == address) {
            check.failures = 0;
        }
    }

    /// Begins a series of rounds at `at`.
    pub(super) fn start(&mut self, at: Instant) {
        self.rounds = 0;
        self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
    }

    /// Ends the series.
    pub(super) fn stop(&mut self) {
        self.next_at = None;
    }

    /// Whether a series is under way.
    pub(super) fn is_running(&self) -> bool {
        self.next_at.is_some()
    }

    /// A round is due: schedules the next one. Without `is_lasting` the series ends after a few rounds.
    pub(super) fn next_round(&mut self, now: Instant, is_lasting: bool) {
        let at = usize::try_from(self.rounds).unwrap_or(usize::MAX).min(WAITS.len() - 1);
        self.rounds = self.rounds.saturating_add(1);
        let goes_on = is_lasting || self.rounds < MAX_BETTER_ROUNDS;
        self.next_at = goes_on.then(|| now + WAITS[at]);
    }

    /// Begins the next round at `at` if it is later.
    pub(super) fn hasten(&mut self, at: Instant) {
        self.next_at = self.next_at.map(|next| next.min(at));
    }

    /// The peer sent `len` bytes by a proven route.
    pub(super) fn earn(&mut self, len: usize) {
        self.reserve = self.reserve.saturating_add(len as u64 + IP_UDP_HEADERS).min(MAX_RESERVE);
    }

    /// Whether `len` bytes may be sent to an address that only the list names.
    pub(super) fn can_spend(&self, len: usize) -> bool {
        self.reserve >= len as u64 + IP_UDP_HEADERS
    }

    /// Charges them.
    pub(super) fn spend(&mut self, len: usize) {
        self.reserve = self.reserve.saturating_sub(len as u64 + IP_UDP_HEADERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_ordered_by_class_bounded_and_replaced_by_who_named_them() {
        let mut checks = Checks::default();
        assert!(checks.set_registry([at("203.0.113.7:1"), at("[2001:db8::1]:1"), at("203.0.113.7:1")]));
        let told = [at("203.0.113.7:2"), at("192.168.0.1:1")]
            .map(|address| Candidate { kind: CandidateKind::Host, address });
        assert!(checks.set_told(&Candidates::new(told)));
        assert!(!checks.set_told(&Candidates::new(told)), "nothing new");
        let order: Vec<_> = checks.iter().map(|check| check.address.to_string()).collect();
        assert_eq!(order, ["192.168.0.1:1", "[2001:db8::1]:1", "203.0.113.7:1", "203.0.113.7:2"]);
        checks.set_told(&Candidates::default());
        assert_eq!(checks.iter().count(), 2);
        for port in 10..100 {
            checks.add_punched(at(&format!("203.0.113.9:{port}")));
        }
        assert_eq!(checks.iter().count(), 2 + MAX_PUNCHED);
        checks.set_registry((1..100).map(|port| at(&format!("203.0.113.10:{port}"))));
        assert_eq!(checks.iter().count(), MAX_REGISTRY + MAX_PUNCHED);
        checks.add_punched(at("[2001:db8::9]:1"));
        checks.add_punched(at("203.0.113.10:1"));
        assert_eq!(checks.punched(), Some(at("203.0.113.10:1")), "the registry names it as well");
    }

    #[test]
    fn rounds_follow_at_growing_intervals() {
        let mut checks = Checks::default();
        let mut now = Instant::from_millis(1000);
        checks.start(now);
        let mut waits = Vec::new();
        for _ in 0..6 {
            checks.next_round(now, true);
            let next = checks.poll_timeout().unwrap();
            waits.push(next.saturating_since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 5, 5, 5]);
        checks.start(now);
        checks.next_round(now, false);
        checks.next_round(now, false);
        assert!(checks.is_running());
        checks.next_round(now, false);
        assert!(!checks.is_running());
    }

    #[test]
    fn no_more_is_spent_than_was_earned() {
        let mut checks = Checks::default();
        assert!(!checks.can_spend(0));
        checks.earn(100);
        assert!(checks.can_spend(100) && !checks.can_spend(101));
        checks.spend(100);
        assert!(!checks.can_spend(0));
        checks.earn(usize::MAX >> 1);
        assert!(!checks.can_spend(4096), "the reserve is bounded");
    }
}
