//! Maps the tunnel's UDP port on the home router: PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD.
//!
//! The protocols are those of the crates `crab_nat` and `igd-next`. This module chooses between them, bounds
//! how long they may take and how often they ask, and remembers what is to be removed at the end. It does
//! not decide when a mapping is wanted or renewed, and starts no thread: every call blocks.

mod pcp;
mod upnp;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The protocol that a mapping was made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingProtocol {
    /// The Port Control Protocol, RFC 6887.
    Pcp,
    /// The NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// An Internet Gateway Device of UPnP.
    Upnp,
}

impl MappingProtocol {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// What is mapped, and on which router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappingTarget {
    /// The router.
    pub gateway: Ipv4Addr,
    /// The address of this host that the router knows.
    pub local: Ipv4Addr,
    /// The UDP port.
    pub port: NonZeroU16,
}

/// A mapping that the router granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortMapping {
    /// What it was made by.
    pub protocol: MappingProtocol,
    /// Datagrams to this endpoint reach us.
    pub external: SocketAddrV4,
    /// How long; `None` if the router keeps it until it is removed.
    pub lifetime: Option<Duration>,
}

/// Why there is no mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortMappingError {
    /// The router speaks none of the protocols, or has them switched off.
    Unanswered,
    /// The router refuses, or answers with something unusable.
    Refused(MappingProtocol, String),
}

impl fmt::Display for PortMappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered => f.write_str("the router answers neither PCP, NAT-PMP nor UPnP"),
            Self::Refused(protocol, why) => write!(f, "{}: {why}", protocol.name()),
        }
    }
}

impl std::error::Error for PortMappingError {}

/// How one protocol failed.
#[derive(Debug)]
enum Failure {
    /// There was no answer.
    Unanswered,
    /// There was one.
    Refused(String),
}

/// What is needed to renew and to remove a mapping.
enum Held {
    Pcp(crab_nat::PortMapping),
    NatPmp(crab_nat::PortMapping),
    Upnp(upnp::Held),
}

/// Maps one port on one router.
pub struct PortMapper {
    target: MappingTarget,
    held: Mutex<Option<Held>>,
}

impl PortMapper {
    /// Nothing is sent until [`Self::map`] is called.
    pub fn new(target: MappingTarget) -> Self {
        Self { target, held: Mutex::new(None) }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the mapping, or renews it by the protocol that made it. Blocks for some 8 s at most while the
    /// router does not answer.
    ///
    /// # Errors
    /// The most telling failure of the protocols that were tried.
    pub fn map(&self, lifetime: Duration) -> Result<PortMapping, PortMappingError> {
        let mut held = self.held();
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        // What fails is kept: the nonce of PCP stays the one that the router knows.
        let renewed = match &*held {
            Some(Held::Pcp(before)) => pcp::pcp(self.target, seconds, Some(before)).ok(),
            Some(Held::NatPmp(before)) => pcp::nat_pmp(self.target, seconds, Some(before)).ok(),
            Some(Held::Upnp(before)) => before.renew(self.target, seconds).ok(),
            None => None,
        };
        let (mapping, kept) = renewed.map_or_else(|| make(self.target, seconds), Ok)?;
        *held = Some(kept);
        Ok(mapping)
    }

    /// Removes the mapping, if there is one. Without an answer it stays until it expires.
    pub fn remove(&self) {
        let held = self.held().take();
        match held {
            Some(Held::Pcp(mapping) | Held::NatPmp(mapping)) => pcp::remove(mapping),
            Some(Held::Upnp(mapping)) => mapping.remove(),
            None => {}
        }
    }
}

/// Tries the protocols in turn: PCP and NAT-PMP cost one datagram each where they work.
fn make(target: MappingTarget, seconds: u32) -> Result<(PortMapping, Held), PortMappingError> {
    let mut worst = PortMappingError::Unanswered;
    for protocol in [MappingProtocol::Pcp, MappingProtocol::NatPmp, MappingProtocol::Upnp] {
        let made = match protocol {
            MappingProtocol::Pcp => pcp::pcp(target, seconds, None),
            MappingProtocol::NatPmp => pcp::nat_pmp(target, seconds, None),
            MappingProtocol::Upnp => upnp::make(target, seconds),
        };
        match made {
            Ok(made) => return Ok(made),
            Err(Failure::Unanswered) => {}
            Err(Failure::Refused(why)) => worst = PortMappingError::Refused(protocol, why),
        }
    }
    Err(worst)
}

/// A mapping and what is needed to keep it.
type Made = Result<(PortMapping, Held), Failure>;

/// The mapping, if the router names an endpoint that datagrams can be sent to.
fn usable(protocol: MappingProtocol, external: SocketAddrV4, seconds: u32) -> Result<PortMapping, Failure> {
    let ip = external.ip();
    let is_host = !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback());
    if external.port() == 0 || !is_host {
        return Err(Failure::Refused(format!("the router has no usable external endpoint: {external}")));
    }
    let lifetime = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
    Ok(PortMapping { protocol, external, lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_that_can_be_sent_to_are_taken() {
        for (external, is_usable) in [
            ("203.0.113.7:4000", true),
            ("100.64.0.9:4000", true),
            ("203.0.113.7:0", false),
            ("0.0.0.0:4000", false),
            ("224.0.0.1:4000", false),
            ("255.255.255.255:4000", false),
            ("127.0.0.1:4000", false),
        ] {
            let made = usable(MappingProtocol::Pcp, external.parse().unwrap(), 7200);
            assert_eq!(made.is_ok(), is_usable, "{external}");
        }
    }

    #[test]
    fn a_lease_of_zero_lasts_until_it_is_removed() {
        let external = "203.0.113.7:4000".parse().unwrap();
        assert_eq!(usable(MappingProtocol::Upnp, external, 0).unwrap().lifetime, None);
        let lifetime = usable(MappingProtocol::Upnp, external, 60).unwrap().lifetime;
        assert_eq!(lifetime, Some(Duration::from_secs(60)));
    }
}
