//! Candidate addresses (RFC 8445 section 5.1) and their announcement to the peer inside the tunnel: entries
//! in the payload of a capability ping, one for each address.
//!
//! ```text
//!  0      1            2      3
//! +------+------------+------+---------+------+
//! | 3    | len 7 / 19 | kind | address | port |    kind: 0 host, 1 reflexive, 2 mapped
//! +------+------------+------+---------+------+
//! ```
//!
//! A list of addresses that a peer names is a list of addresses that it chose: what is sent there is bounded
//! by [`super::path`], and addresses that no peer can have are dropped here.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::capabilities::entries;

/// Addresses announced or taken from one announcement.
const MAX_CANDIDATES: usize = 8;
const CANDIDATE: u8 = 3;

/// Where an address of a node comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CandidateKind {
    /// An address of an interface of the node.
    Host,
    /// The address that a beacon sees.
    Reflexive,
    /// An address that a router maps to the node on request.
    Mapped,
}

impl CandidateKind {
    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Reflexive => "reflexive",
            Self::Mapped => "mapped",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Host => 0,
            Self::Reflexive => 1,
            Self::Mapped => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Host, Self::Reflexive, Self::Mapped].into_iter().find(|kind| kind.number() == number)
    }
}

/// One address of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// Classes of direct paths, the preferred ones last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PathClass {
    /// Over the public IPv4 network, or through carriers' translators.
    Direct,
    /// Over the public IPv6 network, which nothing translates.
    Ipv6,
    /// Within a site or a host.
    Lan,
}

impl PathClass {
    /// The class of paths to an address.
    pub fn of(address: SocketAddr) -> Self {
        match Scope::of(address.ip()) {
            Scope::Loopback | Scope::Link | Scope::Private => Self::Lan,
            Scope::Global if address.ip().to_canonical().is_ipv6() => Self::Ipv6,
            Scope::Global | Scope::Nowhere => Self::Direct,
        }
    }

    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ipv6 => "ipv6",
            Self::Lan => "lan",
        }
    }
}

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    /// No unicast destination.
    Nowhere,
    Loopback,
    Link,
    Private,
    Global,
}

impl Scope {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let [first, ..] = ip.octets();
        if first == 0 || first >= 224 {
            Self::Nowhere
        } else if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_link_local() {
            Self::Link
        } else if ip.is_private() {
            Self::Private
        } else {
            Self::Global
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        if ip.is_unspecified() || ip.is_multicast() {
            Self::Nowhere
        } else if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unicast_link_local() {
            Self::Link
        } else if ip.is_unique_local() {
            Self::Private
        } else {
            Self::Global
        }
    }
}

/// Whether an endpoint is a valid unicast destination.
pub fn is_usable(endpoint: SocketAddr) -> bool {
    endpoint.port() != 0 && Scope::of(endpoint.ip()) != Scope::Nowhere
}

/// A bounded list of addresses of one node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// The first usable ones of a list, each once.
    pub fn new(list: impl IntoIterator<Item = Candidate>) -> Self {
        let mut kept = Vec::<Candidate>::new();
        for candidate in list {
            let is_known = kept.iter().any(|known| known.address == candidate.address);
            if kept.len() < MAX_CANDIDATES && is_usable(candidate.address) && !is_known {
                kept.push(candidate);
            }
        }
        Self(kept)
    }

    /// The addresses.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> {
        self.0.iter().copied()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the entries to the payload of a capability ping.
    pub fn emit(&self, payload: &mut Vec<u8>) {
        for candidate in self.iter() {
            let ip = candidate.address.ip().to_canonical();
            payload.extend([CANDIDATE, if ip.is_ipv4() { 7 } else { 19 }, candidate.kind.number()]);
            match ip {
                IpAddr::V4(ip) => payload.extend(ip.octets()),
                IpAddr::V6(ip) => payload.extend(ip.octets()),
            }
            payload.extend(candidate.address.port().to_be_bytes());
        }
    }

    /// The addresses announced in the payload of a capability ping; `None` if it has none. Entries of unknown
    /// kinds or lengths are skipped.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let named = entries(payload).ok()?.filter_map(|entry| match entry {
            Ok((CANDIDATE, [kind, rest @ ..])) => {
                let (ip, port) = rest.split_last_chunk::<2>()?;
                let ip = match ip.len() {
                    4 => IpAddr::from(*ip.first_chunk::<4>()?),
                    16 => IpAddr::from(*ip.first_chunk::<16>()?).to_canonical(),
                    _ => return None,
                };
                let address = SocketAddr::new(ip, u16::from_be_bytes(*port));
                Some(Candidate { kind: CandidateKind::from_number(*kind)?, address })
            }
            _ => None,
        });
        let named: Vec<_> = named.collect();
        (!named.is_empty()).then(|| Self::new(named))
    }

    /// Whether an address that a peer names may be tried by a node with these addresses: what reaches no
    /// further than a host or a link only if this node has such an address, too.
    pub fn may_reach(&self, address: SocketAddr) -> bool {
        let scope = Scope::of(address.ip());
        let is_near = matches!(scope, Scope::Loopback | Scope::Link);
        is_usable(address) && (!is_near || self.iter().any(|own| Scope::of(own.address.ip()) == scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Capabilities;

    fn candidate(kind: CandidateKind, text: &str) -> Candidate {
        Candidate { kind, address: text.parse().unwrap() }
    }

    fn payload(candidates: &Candidates) -> Vec<u8> {
        let mut payload = Capabilities { boot_id: 1, max_segment: 4096 }.emit().to_vec();
        candidates.emit(&mut payload);
        payload
    }

    #[test]
    fn announced_addresses_round_trip_beside_the_capabilities() {
        let candidates = Candidates::new([
            candidate(CandidateKind::Host, "192.168.1.2:4000"),
            candidate(CandidateKind::Reflexive, "[2001:db8::1]:4001"),
            candidate(CandidateKind::Mapped, "203.0.113.7:4002"),
        ]);
        let bytes = payload(&candidates);
        assert_eq!(bytes.len(), Capabilities::LEN + 9 + 21 + 9);
        assert_eq!(Candidates::parse(&bytes), Some(candidates));
        assert!(Capabilities::parse(&bytes).is_ok());
        assert_eq!(Candidates::parse(&bytes[..Capabilities::LEN]), None);
    }

    #[test]
    fn unknown_kinds_and_unusable_addresses_are_skipped_and_the_list_is_bounded() {
        let mut bytes = payload(&Candidates::default());
        bytes.extend([CANDIDATE, 7, 9, 203, 0, 113, 7, 1, 1]);
        bytes.extend([CANDIDATE, 3, 0, 1, 1]);
        bytes.extend([CANDIDATE, 0]);
        assert_eq!(Candidates::parse(&bytes), None);
        for text in
            ["224.0.0.1:1", "0.0.0.0:1", "255.255.255.255:1", "[ff02::1]:1", "[::]:1", "203.0.113.7:0"]
        {
            assert!(!is_usable(text.parse().unwrap()), "{text}");
        }
        let many = (1..100).map(|port| candidate(CandidateKind::Host, &format!("203.0.113.7:{port}")));
        assert_eq!(Candidates::new(many).iter().count(), MAX_CANDIDATES);
    }

    #[test]
    fn what_reaches_no_further_than_a_link_needs_such_an_address_of_ours() {
        let own = Candidates::new([candidate(CandidateKind::Host, "127.0.0.1:4000")]);
        for (text, without, with) in [
            ("127.0.0.1:1", false, true),
            ("[::1]:1", false, true),
            ("169.254.0.1:1", false, false),
            ("[fe80::1]:1", false, false),
            ("10.0.0.1:1", true, true),
            ("203.0.113.7:1", true, true),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(Candidates::default().may_reach(address), without, "{text}");
            assert_eq!(own.may_reach(address), with, "{text}");
        }
    }

    #[test]
    fn nearer_classes_are_preferred() {
        let classes = ["203.0.113.7:1", "100.64.0.1:1", "[2001:db8::1]:1", "[fd00::1]:1", "10.0.0.1:1"];
        let classes = classes.map(|text| PathClass::of(text.parse().unwrap()));
        use PathClass::{Direct, Ipv6, Lan};
        assert_eq!(classes, [Direct, Direct, Ipv6, Lan, Lan]);
        assert!(Lan > Ipv6 && Ipv6 > Direct);
    }
}
