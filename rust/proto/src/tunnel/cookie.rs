//! Return-routability cookies: proof that a sender receives at its address, demanded before costly work (as
//! in WireGuard and RFC 9147 section 5.1).
//!
//! A cookie is a MAC over an address and a time period, so that the issuer keeps no state. It does not
//! authenticate the sender.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use crate::{
    crypto::prf::{Prf, is_equal},
    time::{Duration, Instant},
    wire::tunnel::{COOKIE_LEN, Cookie},
};

/// A cookie is valid for one to two periods.
const PERIOD: Duration = Duration::from_secs(120);
/// Upper bound of cookies received from peers.
const MAX_KEPT: usize = 1024;
/// Shortest interval between two keys sent to an address because of a cookie reply.
const REPEAT: Duration = Duration::from_secs(1);
const LABEL: [u8; 4] = *b"cook";

/// The current cookie of an address.
pub fn cookie_for(prf: &Prf, now: Instant, address: SocketAddr) -> Cookie {
    in_period(prf, period(now), address)
}

/// Whether a cookie of this address is valid.
pub fn is_cookie_of(prf: &Prf, now: Instant, address: SocketAddr, cookie: &Cookie) -> bool {
    let current = period(now);
    [Some(current), current.checked_sub(1)]
        .into_iter()
        .flatten()
        .any(|period| is_equal(&in_period(prf, period, address), cookie))
}

fn period(now: Instant) -> u64 {
    now.as_nanos() / u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX)
}

fn in_period(prf: &Prf, period: u64, address: SocketAddr) -> Cookie {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let value = prf.value(LABEL, &[&period.to_be_bytes(), &ip.octets(), &address.port().to_be_bytes()]);
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(&value[..COOKIE_LEN]);
    cookie
}

/// Cookies received from peers, by their address.
#[derive(Debug, Default)]
pub struct CookieJar {
    kept: BTreeMap<SocketAddr, (Cookie, Instant)>,
}

impl CookieJar {
    /// Stores a cookie. Returns whether the key should be sent again with it.
    pub fn keep(&mut self, now: Instant, from: SocketAddr, cookie: Cookie) -> bool {
        if self.kept.get(&from).is_some_and(|(_, at)| now.saturating_since(*at) < REPEAT) {
            return false;
        }
        self.kept.retain(|_, (_, at)| now.saturating_since(*at) < PERIOD);
        if self.kept.len() >= MAX_KEPT && !self.kept.contains_key(&from) {
            self.kept.pop_first();
        }
        self.kept.insert(from, (cookie, now));
        true
    }

    /// The cookie to be appended to a key for this address, if it demanded one.
    pub fn cookie(&self, now: Instant, to: SocketAddr) -> Option<Cookie> {
        let (cookie, at) = self.kept.get(&to)?;
        (now.saturating_since(*at) < PERIOD).then_some(*cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_valid_for_one_address_and_limited_time() {
        let prf = Prf::new(&[1; 32]);
        let address = SocketAddr::from(([10, 0, 0, 1], 4000));
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let cookie = cookie_for(&prf, at(119), address);
        for (seconds, is_valid) in [(0, true), (119, true), (120, true), (239, true), (240, false)] {
            assert_eq!(is_cookie_of(&prf, at(seconds), address, &cookie), is_valid, "{seconds}");
        }
        for other in [([10, 0, 0, 1], 4001), ([10, 0, 0, 2], 4000)] {
            assert!(!is_cookie_of(&prf, at(119), SocketAddr::from(other), &cookie));
        }
        assert!(!is_cookie_of(&Prf::new(&[2; 32]), at(119), address, &cookie));
    }

    #[test]
    fn the_jar_is_bounded_and_limited_to_one_cookie_a_second() {
        let mut jar = CookieJar::default();
        let address = |n: u32| SocketAddr::from((n.to_be_bytes(), 4000));
        let at = Instant::from_millis;
        assert!(jar.keep(at(0), address(1), [1; 16]));
        assert!(!jar.keep(at(999), address(1), [2; 16]));
        assert!(jar.keep(at(1000), address(1), [2; 16]));
        assert_eq!(jar.cookie(at(1000), address(1)), Some([2; 16]));
        assert_eq!(jar.cookie(at(1000), address(2)), None);
        assert_eq!(jar.cookie(at(121_000), address(1)), None);
        for n in 0..10_000 {
            jar.keep(at(1000), address(n), [3; 16]);
        }
        assert_eq!(jar.kept.len(), MAX_KEPT);
        jar.keep(at(200_000), address(1), [3; 16]);
        assert_eq!(jar.kept.len(), 1);
    }
}
