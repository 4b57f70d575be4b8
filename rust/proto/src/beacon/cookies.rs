//! Cookies that prove an address (RFC 9147 section 5.1): a MAC over it and a period, so that nothing is kept
//! for those who never answer.

use core::net::SocketAddr;

use crate::{
    crypto::prf::{Prf, is_equal},
    time::{Duration, Instant},
    wire::beacon::AddressCookie,
};

/// A cookie is valid for one to two periods, in which a node asks several times.
const PERIOD: Duration = Duration::from_secs(120);
const LABEL: [u8; 4] = *b"addr";

/// The current cookie of an address.
pub(super) fn cookie_for(prf: &Prf, now: Instant, address: SocketAddr) -> AddressCookie {
    in_period(prf, period(now), address)
}

/// Whether a cookie of this address is valid.
pub(super) fn is_valid(prf: &Prf, now: Instant, address: SocketAddr, cookie: AddressCookie) -> bool {
    let current = period(now);
    [Some(current), current.checked_sub(1)]
        .into_iter()
        .flatten()
        .any(|period| is_equal(&in_period(prf, period, address).0, &cookie.0))
}

fn period(now: Instant) -> u64 {
    now.as_nanos() / u64::try_from(PERIOD.as_nanos()).unwrap_or(u64::MAX)
}

fn in_period(prf: &Prf, period: u64, address: SocketAddr) -> AddressCookie {
    let mut text = Vec::new();
    match address.ip().to_canonical() {
        core::net::IpAddr::V4(ip) => text.extend(ip.octets()),
        core::net::IpAddr::V6(ip) => text.extend(ip.octets()),
    }
    text.extend(address.port().to_be_bytes());
    let [a, b, c, d, e, f, g, h, ..] = prf.value(LABEL, &[&period.to_be_bytes(), &text]);
    AddressCookie([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_valid_for_one_address_and_a_limited_time() {
        let prf = Prf::new(&[1; 32]);
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let address = SocketAddr::from(([192, 0, 2, 1], 4000));
        let cookie = cookie_for(&prf, at(119), address);
        for (seconds, expected) in [(0, true), (119, true), (239, true), (240, false)] {
            assert_eq!(is_valid(&prf, at(seconds), address, cookie), expected, "{seconds}");
        }
        for other in [([192, 0, 2, 1], 4001), ([192, 0, 2, 2], 4000)] {
            assert!(!is_valid(&prf, at(119), SocketAddr::from(other), cookie));
        }
        assert!(!is_valid(&Prf::new(&[2; 32]), at(119), address, cookie));
    }
}
