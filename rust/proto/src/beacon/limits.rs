//! What one source may ask of a beacon, in constant memory. A host is an IPv4 address or an IPv6 /64.

use core::net::IpAddr;

use crate::{
    crypto::entropy::Entropy,
    storage::pace::{Pace, Pacer, PacerTable},
    time::Instant,
    wire::addr::NodeId,
};

/// Limiters per table, 8 bytes each.
const SLOTS: usize = 1 << 14;

/// Announcements of one host, and of all.
const DISCOVERS: [Pace; 2] = [Pace::per_second(200, 2000), Pace::per_second(50_000, 50_000)];
/// Punch requests of one host, and of all.
const PUNCHES: [Pace; 2] = [Pace::per_second(10, 20), Pace::per_second(5000, 5000)];
/// Punch commands to one target, whoever asks.
const TARGETS: Pace = Pace::per_second(10, 20);
/// Signatures checked for one host, and for all; each takes about 50 µs.
const SIGNATURES: [Pace; 2] = [Pace::per_second(20, 100), Pace::per_second(1000, 2000)];

/// A limiter of one kind of work: per host and in all.
#[derive(Debug)]
pub(super) struct HostLimiter {
    hosts: PacerTable,
    all: Pacer,
}

impl HostLimiter {
    fn new([host, all]: [Pace; 2], entropy: &mut Entropy) -> Self {
        Self { hosts: PacerTable::new(host, SLOTS, entropy.next_u64()), all: Pacer::new(all) }
    }

    /// Whether the work may be done for a host; if so, it is charged.
    pub(super) fn take(&mut self, now: Instant, host: u64) -> bool {
        let is_allowed = self.hosts.allows(now, &host) && self.all.allows(now);
        if is_allowed {
            self.hosts.take(now, &host);
            self.all.take(now);
        }
        is_allowed
    }
}

/// All limits.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) discovers: HostLimiter,
    pub(super) punches: HostLimiter,
    pub(super) signatures: HostLimiter,
    targets: PacerTable,
}

impl Limits {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        Self {
            discovers: HostLimiter::new(DISCOVERS, entropy),
            punches: HostLimiter::new(PUNCHES, entropy),
            signatures: HostLimiter::new(SIGNATURES, entropy),
            targets: PacerTable::new(TARGETS, SLOTS, entropy.next_u64()),
        }
    }

    /// Whether a node may be told to punch; if so, it is charged.
    pub(super) fn take_target(&mut self, now: Instant, target: NodeId) -> bool {
        let is_allowed = self.targets.allows(now, &target);
        if is_allowed {
            self.targets.take(now, &target);
        }
        is_allowed
    }
}

/// The host of an address: an IPv4 address, or an IPv6 /64, which one host may own entirely.
pub(super) fn host_of(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        // The upper half of the address.
        IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn host(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_host_has_its_rate_and_others_theirs() {
        let mut limits = Limits::new(&mut Entropy::new(&[1; 32]));
        let now = Instant::from_millis(1);
        let mut passed = |tries: u32, now, ip: IpAddr| {
            (0..tries).filter(|_| limits.punches.take(now, host_of(ip))).count()
        };
        assert_eq!(passed(1000, now, host(1)), 20);
        assert_eq!(passed(1000, now, host(2)), 20);
        let prefix = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, n, 0, 0, 1]);
        let sum: usize = (0..50).map(|n| passed(9, now, prefix(n))).sum();
        assert_eq!(sum, 20);
        assert_eq!(passed(1000, now + Duration::from_secs(1), host(1)), 10);
    }

    #[test]
    fn a_target_is_not_commanded_more_often_by_many() {
        let mut limits = Limits::new(&mut Entropy::new(&[1; 32]));
        let now = Instant::from_millis(1);
        assert_eq!((0..1000).filter(|_| limits.take_target(now, NodeId(7))).count(), 20);
    }
}
