//! Rate limits for unauthenticated senders: in total, per host and per endpoint, in constant memory. A frame
//! takes from all three or from none.

use core::{
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use crate::{
    crypto::entropy::Entropy,
    storage::pace::{Pace, Pacer, PacerTable, keyed_hash, slot},
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// Limiters of each table; 8 bytes each.
const SLOTS: usize = 4096;

/// Signature checks, about 50 µs each: of frames that prove nothing,
const UNPROVEN_CHECKS: [Pace; 3] =
    [Pace::per_second(200, 400), Pace::per_second(20, 50), Pace::per_second(2, 10)];
/// of frames with a cookie, so that somebody receives at their address,
const RETURNABLE_CHECKS: [Pace; 3] =
    [Pace::per_second(1000, 1000), Pace::per_second(20, 50), Pace::per_second(4, 10)];
/// and of peers in the table, from where they are: in all and for each.
const EXPECTED_CHECKS: [Pace; 2] = [Pace::per_second(2000, 4096), Pace::per_second(10, 20)];
/// Answers to bare keys, which prove nothing.
const BARE_KEYS: [Pace; 3] = [Pace::per_second(100, 200), Pace::per_second(20, 50), Pace::per_second(2, 4)];
/// Answers to sealed frames that no session opens.
const UNOPENED: [Pace; 3] =
    [Pace::per_second(200, 400), Pace::per_second(50, 100), Pace::every(Duration::from_secs(3), 1)];
/// Cookies handed out.
const COOKIES: [Pace; 3] =
    [Pace::per_second(4000, 4000), Pace::per_second(2000, 2000), Pace::per_second(1000, 1000)];
/// Questions to the registry about senders that nobody here called; less than a registry allows one
/// address (100 per second), so that our own dials are answered.
const UNPROVEN_QUESTIONS: [Pace; 3] =
    [Pace::per_second(20, 200), Pace::per_second(20, 50), Pace::per_second(10, 20)];
const RETURNABLE_QUESTIONS: [Pace; 3] =
    [Pace::per_second(40, 200), Pace::per_second(20, 50), Pace::per_second(4, 10)];

/// What is sent to an address that proved nothing, as a multiple of what came from it (RFC 9000 section
/// 8.1).
const AMPLIFICATION: usize = 3;
/// Bytes that an address may have in store.
const MAX_CREDIT: usize = 2048;

/// Rates of one kind of work.
#[derive(Debug)]
pub(super) struct Share {
    all: Pacer,
    hosts: PacerTable,
    endpoints: PacerTable,
}

impl Share {
    fn new([all, host, endpoint]: [Pace; 3], entropy: &mut Entropy) -> Self {
        Self {
            all: Pacer::new(all),
            hosts: PacerTable::new(host, SLOTS, entropy.next_u64()),
            endpoints: PacerTable::new(endpoint, SLOTS, entropy.next_u64()),
        }
    }

    /// Whether the work is done for this endpoint.
    pub(super) fn take(&mut self, now: Instant, from: SocketAddr) -> bool {
        self.take_for(now, from, &from)
    }

    /// The same with another key than the endpoint.
    pub(super) fn take_for(&mut self, now: Instant, from: SocketAddr, key: &impl Hash) -> bool {
        let host = host_of(from.ip());
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

/// Signature checks of frames from where the peer that they name is.
#[derive(Debug)]
pub(super) struct Expected {
    all: Pacer,
    peers: PacerTable,
}

impl Expected {
    pub(super) fn take(&mut self, now: Instant, peer: NodeId) -> bool {
        let is_allowed = self.all.allows(now) && self.peers.allows(now, &peer);
        if is_allowed {
            self.all.take(now);
            self.peers.take(now, &peer);
        }
        is_allowed
    }
}

/// What addresses that proved nothing may be sent, in bytes. Of addresses that share a slot, the one
/// that sent last has it.
#[derive(Debug)]
pub(super) struct Credit {
    /// The address, by its hash, and its bytes.
    slots: Box<[(u64, u16)]>,
    seed: u64,
}

impl Credit {
    fn new(seed: u64) -> Self {
        Self { slots: vec![(0, 0); SLOTS].into_boxed_slice(), seed }
    }

    fn of(&mut self, endpoint: SocketAddr) -> Option<&mut u16> {
        let hash = keyed_hash(self.seed, &endpoint);
        let slot = slot(hash, self.slots.len());
        let (owner, credit) = self.slots.get_mut(slot)?;
        if *owner != hash {
            (*owner, *credit) = (hash, 0);
        }
        Some(credit)
    }

    /// Bytes came from there.
    pub(super) fn on_received(&mut self, from: SocketAddr, bytes: usize) {
        if let Some(credit) = self.of(from) {
            let sum = bytes.saturating_mul(AMPLIFICATION).saturating_add(usize::from(*credit));
            *credit = u16::try_from(sum.min(MAX_CREDIT)).unwrap_or(u16::MAX);
        }
    }

    /// Whether bytes may go there.
    pub(super) fn spend(&mut self, to: SocketAddr, bytes: usize) -> bool {
        let Some(credit) = self.of(to) else { return false };
        let left = u16::try_from(bytes).ok().and_then(|bytes| credit.checked_sub(bytes));
        left.map(|left| *credit = left).is_some()
    }
}

/// Every limit on senders without proof.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) expected_checks: Expected,
    pub(super) unproven_checks: Share,
    pub(super) returnable_checks: Share,
    pub(super) bare_keys: Share,
    pub(super) unopened: Share,
    pub(super) cookies: Share,
    pub(super) unproven_questions: Share,
    pub(super) returnable_questions: Share,
    pub(super) credit: Credit,
}

impl Limits {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        let [all, peer] = EXPECTED_CHECKS;
        Self {
            expected_checks: Expected {
                all: Pacer::new(all),
                peers: PacerTable::new(peer, SLOTS, entropy.next_u64()),
            },
            unproven_checks: Share::new(UNPROVEN_CHECKS, entropy),
            returnable_checks: Share::new(RETURNABLE_CHECKS, entropy),
            bare_keys: Share::new(BARE_KEYS, entropy),
            unopened: Share::new(UNOPENED, entropy),
            cookies: Share::new(COOKIES, entropy),
            unproven_questions: Share::new(UNPROVEN_QUESTIONS, entropy),
            returnable_questions: Share::new(RETURNABLE_QUESTIONS, entropy),
            credit: Credit::new(entropy.next_u64()),
        }
    }
}

/// The host that an address belongs to: an IPv6 /64 counts as one.
pub(super) fn host_of(ip: IpAddr) -> u64 {
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
    use super::*;

    fn limits() -> Limits {
        Limits::new(&mut Entropy::new(&[1; 32]))
    }

    fn at(host: u32, port: u16) -> SocketAddr {
        SocketAddr::from(((0x0a00_0000 + host).to_be_bytes(), port))
    }

    #[test]
    fn one_endpoint_leaves_its_host_a_share_and_one_host_the_others() {
        let now = Instant::from_millis(1);
        let share = &mut limits().unproven_checks;
        let mut passed = |tries: u32, from: &dyn Fn(u32) -> SocketAddr| {
            (0..tries).filter(|n| share.take(now, from(*n))).count()
        };
        assert_eq!(passed(10_000, &|_| at(1, 1)), 10);
        assert_eq!(passed(10_000, &|n| at(1, n as u16)), 40);
        assert_eq!(passed(10_000, &|n| at(2 + n, 1)), 350);
    }

    /// Spoofed sources use up what is there for all of them, not the slots that others share.
    #[test]
    fn a_flood_from_everywhere_is_forgotten_at_once() {
        let share = &mut limits().unproven_checks;
        let begin = Instant::from_millis(1);
        let passed = (0..100_000).filter(|n| share.take(begin, at(*n, 1))).count();
        assert_eq!(passed, 400);
        let later = begin + Duration::from_secs(1);
        assert!((0..150).all(|n| share.take(later, at(1 << 23 | n, 2))));
    }

    #[test]
    fn addresses_are_sent_three_times_what_they_sent() {
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
        let host = |text: &str| host_of(text.parse().unwrap());
        assert_eq!(host("10.0.0.1"), host("::ffff:10.0.0.1"));
        assert_ne!(host("10.0.0.1"), host("10.0.0.2"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1:2:3"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
    }
}
