//! Return-routability cookies: proof that a sender receives at its address, demanded before costly work (as
//! in WireGuard and RFC 9147 section 5.1).
//!
//! A cookie is a MAC over a route and a time period, so that the issuer keeps no state. It does not
//! authenticate the sender. Through a beacon it proves that the sender receives what is relayed to its node.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::route::Route;
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

/// The current cookie of a route.
pub fn cookie_for(prf: &Prf, now: Instant, route: Route) -> Cookie {
    in_period(prf, period(now), route)
}

/// Whether a cookie of this route is valid.
pub fn is_cookie_of(prf: &Prf, now: Instant, route: Route, cookie: &Cookie) -> bool {
    let current = period(now);
    [Some(current), current.checked_sub(1)]
        .into_iter()
        .flatten()
        .any(|period| is_equal(&in_period(prf, period, route), cookie))
}

fn period(now: Instant) -> u64 {
    now.as_nanos() / u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX)
}

fn in_period(prf: &Prf, period: u64, route: Route) -> Cookie {
    let address = route.next_hop();
    let node = match route {
        Route::Direct(_) => [0; 4],
        Route::Relayed { node, .. } => node.0.to_be_bytes(),
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let value =
        prf.value(LABEL, &[&period.to_be_bytes(), &ip.octets(), &address.port().to_be_bytes(), &node]);
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(&value[..COOKIE_LEN]);
    cookie
}

/// Cookies received from peers, by their route.
#[derive(Debug, Default)]
pub struct CookieJar {
    kept: BTreeMap<Route, (Cookie, Instant)>,
}

impl CookieJar {
    /// Stores a cookie. Returns whether the key should be sent again with it.
    pub fn keep(&mut self, now: Instant, from: Route, cookie: Cookie) -> bool {
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

    /// The cookie to be appended to a key for this route, if one was demanded there.
    pub fn cookie(&self, now: Instant, to: Route) -> Option<Cookie> {
        let (cookie, at) = self.kept.get(&to)?;
        (now.saturating_since(*at) < PERIOD).then_some(*cookie)
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::*;
    use crate::wire::addr::NodeId;

    #[test]
    fn a_cookie_is_valid_for_one_route_and_limited_time() {
        let prf = Prf::new(&[1; 32]);
        let beacon = SocketAddr::from(([10, 0, 0, 1], 4000));
        let address = Route::Direct(beacon);
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let cookie = cookie_for(&prf, at(119), address);
        for (seconds, is_valid) in [(0, true), (119, true), (120, true), (239, true), (240, false)] {
            assert_eq!(is_cookie_of(&prf, at(seconds), address, &cookie), is_valid, "{seconds}");
        }
        let others = [([10, 0, 0, 1], 4001), ([10, 0, 0, 2], 4000)].map(SocketAddr::from).map(Route::Direct);
        let relayed = [1, 2].map(|node| Route::Relayed { beacon, node: NodeId(node) });
        for other in [others, relayed].concat() {
            assert!(!is_cookie_of(&prf, at(119), other, &cookie), "{other}");
        }
        let cookie = cookie_for(&prf, at(119), relayed[0]);
        assert_eq!(relayed.map(|route| is_cookie_of(&prf, at(119), route, &cookie)), [true, false]);
        assert!(!is_cookie_of(&Prf::new(&[2; 32]), at(119), address, &cookie));
    }

    #[test]
    fn the_jar_is_bounded_and_limited_to_one_cookie_a_second() {
        let mut jar = CookieJar::default();
        let address = |n: u32| Route::Direct(SocketAddr::from((n.to_be_bytes(), 4000)));
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
