//! Rate limits for unauthenticated senders: in total, per host and per endpoint, in constant memory. A frame
//! is charged to all three limiters or to none, so that a refusal by one does not use up the others.

use core::{hash::Hash, net::IpAddr};

use crate::{
    crypto::entropy::Entropy,
    storage::pace::{Pace, Pacer, PacerTable, keyed_hash, slot},
    time::{Duration, Instant},
    tunnel::Route,
    wire::addr::NodeId,
};

/// Limiters per table, 8 bytes each.
const SLOTS: usize = 4096;

/// Signature checks, about 50 µs each, of frames without a cookie: total, per host, per endpoint.
const UNVERIFIED_CHECKS: [Pace; 3] =
    [Pace::per_second(200, 400), Pace::per_second(20, 50), Pace::per_second(2, 10)];
/// The same for frames with a valid cookie, whose source is return-routable.
const ROUTABLE_CHECKS: [Pace; 3] =
    [Pace::per_second(1000, 1000), Pace::per_second(20, 50), Pace::per_second(4, 10)];
/// The same for known peers at their known endpoint: total and per peer.
const EXPECTED_CHECKS: [Pace; 2] = [Pace::per_second(2000, 4096), Pace::per_second(10, 20)];
/// Answers to bare keys, which are unauthenticated.
const BARE_KEYS: [Pace; 3] = [Pace::per_second(100, 200), Pace::per_second(20, 50), Pace::per_second(2, 4)];
/// Answers to sealed frames that no session can open.
const UNOPENED: [Pace; 3] =
    [Pace::per_second(200, 400), Pace::per_second(50, 100), Pace::every(Duration::from_secs(3), 1)];
/// Cookie replies.
const COOKIES: [Pace; 3] =
    [Pace::per_second(4000, 4000), Pace::per_second(2000, 2000), Pace::per_second(1000, 1000)];
/// Registry lookups for senders that were not dialled; fewer than a registry allows per address (100 per
/// second), so that lookups for our own dials are answered.
const UNVERIFIED_LOOKUPS: [Pace; 3] =
    [Pace::per_second(20, 200), Pace::per_second(20, 50), Pace::per_second(10, 20)];
const ROUTABLE_LOOKUPS: [Pace; 3] =
    [Pace::per_second(40, 200), Pace::per_second(20, 50), Pace::per_second(4, 10)];

/// Anti-amplification limit: bytes sent to an unvalidated address per byte received from it (RFC 9000 section
/// 8.1).
const AMPLIFICATION: usize = 3;
/// Largest credit of an address, bytes.
const MAX_CREDIT: usize = 2048;

/// Limiter of one kind of work.
#[derive(Debug)]
pub(super) struct RateLimiter {
    all: Pacer,
    hosts: PacerTable,
    endpoints: PacerTable,
}

impl RateLimiter {
    fn new([all, host, endpoint]: [Pace; 3], entropy: &mut Entropy) -> Self {
        Self {
            all: Pacer::new(all),
            hosts: PacerTable::new(host, SLOTS, entropy.next_u64()),
            endpoints: PacerTable::new(endpoint, SLOTS, entropy.next_u64()),
        }
    }

    /// Whether the work may be done for this endpoint; if so, it is charged.
    pub(super) fn take(&mut self, now: Instant, from: Route) -> bool {
        self.take_for(now, from, &from)
    }

    /// As [`Self::take`], with another key than the endpoint.
    pub(super) fn take_for(&mut self, now: Instant, from: Route, key: &impl Hash) -> bool {
        let host = host_of(from);
        let is_allowed =
            self.all.allows(now) && self.hosts.allows(now, &host) && self.endpoints.allows(now, key);
        if is_allowed {
            self.all.take(now);
            self.hosts.take(now, &host);
            self.endpoints.take(now, key);
        }
        is_allowed
    }
}

/// Limiter of signature checks for known peers at their known endpoint.
#[derive(Debug)]
pub(super) struct PeerRateLimiter {
    all: Pacer,
    peers: PacerTable,
}

impl PeerRateLimiter {
    pub(super) fn take(&mut self, now: Instant, peer: NodeId) -> bool {
        let is_allowed = self.all.allows(now) && self.peers.allows(now, &peer);
        if is_allowed {
            self.all.take(now);
            self.peers.take(now, &peer);
        }
        is_allowed
    }
}

/// Anti-amplification credit of unvalidated addresses, bytes. Addresses that hash to the same slot evict each
/// other.
#[derive(Debug)]
pub(super) struct Credit {
    /// Hash of the address, and its credit.
    slots: Box<[(u64, u16)]>,
    seed: u64,
}

impl Credit {
    fn new(seed: u64) -> Self {
        Self { slots: vec![(0, 0); SLOTS].into_boxed_slice(), seed }
    }

    fn of(&mut self, endpoint: Route) -> Option<&mut u16> {
        let hash = keyed_hash(self.seed, &endpoint);
        let slot = slot(hash, self.slots.len());
        let (owner, credit) = self.slots.get_mut(slot)?;
        if *owner != hash {
            (*owner, *credit) = (hash, 0);
        }
        Some(credit)
    }

    /// Grants credit for bytes received.
    pub(super) fn on_received(&mut self, from: Route, bytes: usize) {
        if let Some(credit) = self.of(from) {
            let sum = bytes.saturating_mul(AMPLIFICATION).saturating_add(usize::from(*credit));
            *credit = u16::try_from(sum.min(MAX_CREDIT)).unwrap_or(u16::MAX);
        }
    }

    /// Whether bytes may be sent; if so, they are charged.
    pub(super) fn spend(&mut self, to: Route, bytes: usize) -> bool {
        let Some(credit) = self.of(to) else { return false };
        let left = u16::try_from(bytes).ok().and_then(|bytes| credit.checked_sub(bytes));
        left.map(|left| *credit = left).is_some()
    }
}

/// All limits on unauthenticated senders.
#[derive(Debug)]
pub(super) struct RateLimits {
    pub(super) expected_checks: PeerRateLimiter,
    pub(super) unverified_checks: RateLimiter,
    pub(super) routable_checks: RateLimiter,
    pub(super) bare_keys: RateLimiter,
    pub(super) unopened: RateLimiter,
    pub(super) cookies: RateLimiter,
    pub(super) unverified_lookups: RateLimiter,
    pub(super) routable_lookups: RateLimiter,
    pub(super) credit: Credit,
}

impl RateLimits {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        let [all, peer] = EXPECTED_CHECKS;
        Self {
            expected_checks: PeerRateLimiter {
                all: Pacer::new(all),
                peers: PacerTable::new(peer, SLOTS, entropy.next_u64()),
            },
            unverified_checks: RateLimiter::new(UNVERIFIED_CHECKS, entropy),
            routable_checks: RateLimiter::new(ROUTABLE_CHECKS, entropy),
            bare_keys: RateLimiter::new(BARE_KEYS, entropy),
            unopened: RateLimiter::new(UNOPENED, entropy),
            cookies: RateLimiter::new(COOKIES, entropy),
            unverified_lookups: RateLimiter::new(UNVERIFIED_LOOKUPS, entropy),
            routable_lookups: RateLimiter::new(ROUTABLE_LOOKUPS, entropy),
            credit: Credit::new(entropy.next_u64()),
        }
    }
}

/// The host at the other end: an IPv4 address, or an IPv6 /64, which one host may own entirely; through a
/// beacon the claimed node, because all nodes behind it share its address.
pub(super) fn host_of(route: Route) -> u64 {
    /// The first byte of multicast addresses, which no datagram comes from.
    const RELAYED: u64 = 0xff << 56;
    let ip = match route {
        Route::Direct(address) => address.ip(),
        Route::Relayed { node, .. } => return RELAYED | u64::from(node.0),
    };
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            [a, b, c, d].into_iter().fold(0, |sum, part| sum << 16 | u64::from(part))
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;

    fn limits() -> RateLimits {
        RateLimits::new(&mut Entropy::new(&[1; 32]))
    }

    fn at(host: u32, port: u16) -> Route {
        Route::Direct(SocketAddr::from(((0x0a00_0000 + host).to_be_bytes(), port)))
    }

    #[test]
    fn limits_apply_per_endpoint_per_host_and_in_total() {
        let now = Instant::from_millis(1);
        let share = &mut limits().unverified_checks;
        let mut passed = |tries: u32, from: &dyn Fn(u32) -> Route| {
            (0..tries).filter(|n| share.take(now, from(*n))).count()
        };
        assert_eq!(passed(10_000, &|_| at(1, 1)), 10);
        assert_eq!(passed(10_000, &|n| at(1, n as u16)), 40);
        assert_eq!(passed(10_000, &|n| at(2 + n, 1)), 350);
    }

    /// A flood from spoofed sources uses up the total limit, not the slots that others hash to.
    #[test]
    fn a_spoofed_flood_has_no_effect_once_it_ends() {
        let share = &mut limits().unverified_checks;
        let begin = Instant::from_millis(1);
        let passed = (0..100_000).filter(|n| share.take(begin, at(*n, 1))).count();
        assert_eq!(passed, 400);
        let later = begin + Duration::from_secs(1);
        assert!((0..150).all(|n| share.take(later, at(1 << 23 | n, 2))));
    }

    #[test]
    fn unvalidated_addresses_are_sent_at_most_three_times_what_they_sent() {
        let credit = &mut limits().credit;
        credit.on_received(at(1, 1), 40);
        assert!(!credit.spend(at(1, 1), 136));
        credit.on_received(at(1, 1), 40);
        assert!(credit.spend(at(1, 1), 136));
        assert!(!credit.spend(at(1, 1), 136));
        assert!(!credit.spend(at(2, 1), 1));
        credit.on_received(at(1, 1), usize::MAX);
        assert!(credit.spend(at(1, 1), MAX_CREDIT) && !credit.spend(at(1, 1), 1));
    }

    #[test]
    fn a_host_is_an_ipv4_address_or_an_ipv6_prefix() {
        let host = |text: &str| host_of(Route::Direct(SocketAddr::new(text.parse().unwrap(), 1)));
        assert_eq!(host("10.0.0.1"), host("::ffff:10.0.0.1"));
        assert_ne!(host("10.0.0.1"), host("10.0.0.2"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1:2:3"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        let beacon = SocketAddr::from(([10, 0, 0, 1], 1));
        let relayed = |node| host_of(Route::Relayed { beacon, node: NodeId(node) });
        assert_ne!(relayed(1), relayed(2));
        assert_ne!(relayed(0x0a00_0001), host("10.0.0.1"));
    }
}
