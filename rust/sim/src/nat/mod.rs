//! Network address translators and stateful firewalls, without IO and in virtual time.
//!
//! [`Nat`] behaves towards UDP as RFC 4787 classifies such boxes: mapping and filtering behaviour, allocation of
//! ports, pooling of addresses, hairpinning, lifetime of bindings. [`Firewall`] filters without translation, as
//! IPv6 routers at home do (RFC 6092). Both know addresses only and never read what datagrams carry. The caller
//! routes: a chain of boxes is one call per box.

mod filter;
mod ports;
mod table;
#[cfg(test)]
mod tests;

use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use filter::{Firewall, FirewallConfig};
pub use table::Nat;

/// What a mapping or a filter depends on besides the inside endpoint (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Behaviour {
    /// Nothing.
    EndpointIndependent,
    /// The remote address.
    AddressDependent,
    /// The remote address and port.
    AddressAndPortDependent,
}

impl Behaviour {
    /// All three, from the most to the least permissive.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// The part of a remote endpoint that this behaviour distinguishes.
    fn scope(self, remote: SocketAddr) -> Scope {
        match self {
            Self::EndpointIndependent => Scope::Any,
            Self::AddressDependent => Scope::Address(remote.ip()),
            Self::AddressAndPortDependent => Scope::Endpoint(remote),
        }
    }
}

/// Remote endpoints that share a mapping or a filter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Scope {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

/// How the outside port of a new mapping is chosen (RFC 4787 section 4.2). No port serves two mappings at once
/// (REQ-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Allocation {
    /// The inside port, or the next free one above it.
    Preserving,
    /// One after the other.
    Sequential {
        /// Distance of two ports.
        step: u16,
        /// Most mappings that other hosts behind the box make between two of the simulated ones.
        noise: u16,
    },
    /// Any free port.
    Random,
}

/// How a box treats UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// What a mapping depends on (section 4.1; REQ-1 asks for endpoint independence).
    pub mapping: Behaviour,
    /// Who may use a mapping from outside (section 5; REQ-8 asks for one of the first two).
    pub filtering: Behaviour,
    /// How ports are chosen.
    pub allocation: Allocation,
    /// Whether all mappings of an inside address share one outside address (REQ-2).
    pub is_paired: bool,
    /// Whether inside hosts reach each other by their outside endpoints (REQ-9).
    pub has_hairpinning: bool,
    /// Idle time after which bindings and filters expire (REQ-5 asks for at least two minutes).
    pub lifetime: Duration,
    /// Whether inbound datagrams refresh a binding too. Outbound ones always do (REQ-6).
    pub is_refreshed_inbound: bool,
    /// Upper bound of bindings. A full table refuses new ones.
    pub capacity: usize,
}

impl Default for NatConfig {
    /// A home router that follows RFC 4787.
    fn default() -> Self {
        Self {
            mapping: Behaviour::EndpointIndependent,
            filtering: Behaviour::AddressAndPortDependent,
            allocation: Allocation::Preserving,
            is_paired: true,
            has_hairpinning: true,
            lifetime: Duration::from_secs(120),
            is_refreshed_inbound: false,
            capacity: 4096,
        }
    }
}

/// Datagrams that a box did not forward, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatCounters {
    /// Outbound, and the table or the port range was full.
    pub full: u64,
    /// Inbound, to a port without a binding.
    pub unmapped: u64,
    /// Inbound, from a remote that the filter does not admit.
    pub filtered: u64,
}
