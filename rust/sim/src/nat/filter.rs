//! Filters: which remote endpoints may send to an inside endpoint, and the firewall made of them.

use core::{net::SocketAddr, time::Duration};
use std::collections::BTreeMap;

use pilot_proto::time::Instant;

use super::{Behaviour, Scope};

/// Upper bound of remote scopes per inside endpoint; the one idle for longest gives way.
const MAX_SCOPES: usize = 1024;

/// The remote scopes that an inside endpoint sent to, with their expiry.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter(BTreeMap<Scope, Instant>);

impl Filter {
    /// Admits `scope` until `expiry`.
    pub(super) fn admit(&mut self, now: Instant, scope: Scope, expiry: Instant) {
        if self.0.len() >= MAX_SCOPES && !self.0.contains_key(&scope) {
            self.0.retain(|_, expiry| now < *expiry);
            if self.0.len() >= MAX_SCOPES
                && let Some(oldest) =
                    self.0.iter().min_by_key(|(_, expiry)| **expiry).map(|(scope, _)| *scope)
            {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(scope, expiry);
    }

    /// Whether `scope` may send now.
    pub(super) fn is_admitted(&self, now: Instant, scope: Scope) -> bool {
        self.0.get(&scope).is_some_and(|expiry| now < *expiry)
    }

    /// Whether every scope has expired.
    fn is_over(&self, now: Instant) -> bool {
        self.0.values().all(|expiry| *expiry <= now)
    }
}

/// How a firewall treats UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirewallConfig {
    /// Who may answer.
    pub filtering: Behaviour,
    /// Idle time after which states expire (RFC 6092 REC-14 asks for at least two minutes).
    pub lifetime: Duration,
    /// Whether inbound datagrams refresh a state too.
    pub is_refreshed_inbound: bool,
    /// Upper bound of inside endpoints. A full table refuses new ones.
    pub capacity: usize,
}

impl Default for FirewallConfig {
    fn default() -> Self {
        Self {
            filtering: Behaviour::AddressAndPortDependent,
            lifetime: Duration::from_secs(120),
            is_refreshed_inbound: true,
            capacity: 4096,
        }
    }
}

/// A stateful firewall without translation: inside endpoints may send to everyone, and receive only from those
/// that they sent to.
#[derive(Clone, Debug)]
pub struct Firewall {
    config: FirewallConfig,
    states: BTreeMap<SocketAddr, Filter>,
}

impl Firewall {
    /// A firewall without states.
    pub fn new(config: FirewallConfig) -> Self {
        Self { config, states: BTreeMap::new() }
    }

    /// How it treats UDP.
    pub fn config(&self) -> &FirewallConfig {
        &self.config
    }

    /// An inside endpoint sends to `remote`. Returns whether the datagram passes.
    pub fn outbound(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr) -> bool {
        if self.states.len() >= self.config.capacity && !self.states.contains_key(&inside) {
            self.states.retain(|_, filter| !filter.is_over(now));
            if self.states.len() >= self.config.capacity {
                return false;
            }
        }
        let scope = self.config.filtering.scope(remote);
        self.states.entry(inside).or_default().admit(now, scope, now + self.config.lifetime);
        true
    }

    /// `remote` sends to an inside endpoint. Returns whether the datagram passes.
    pub fn inbound(&mut self, now: Instant, remote: SocketAddr, inside: SocketAddr) -> bool {
        let scope = self.config.filtering.scope(remote);
        let Some(filter) = self.states.get_mut(&inside).filter(|filter| filter.is_admitted(now, scope))
        else {
            return false;
        };
        if self.config.is_refreshed_inbound {
            filter.admit(now, scope, now + self.config.lifetime);
        }
        true
    }

    /// Loses every state, as at a restart of the router.
    pub fn reboot(&mut self) {
        self.states.clear();
    }
}
