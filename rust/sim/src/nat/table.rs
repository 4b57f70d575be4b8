//! The translator: a bounded table of bindings.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use pilot_proto::time::Instant;

use super::{NatConfig, NatCounters, Scope, filter::Filter, ports::Ports};
use crate::rng::Rng;

/// One outside endpoint and whom it stands for.
#[derive(Clone, Debug)]
struct Binding {
    inside: SocketAddr,
    /// The remote endpoints towards which it is used.
    scope: Scope,
    filter: Filter,
    /// `None` for a forwarded port.
    expiry: Option<Instant>,
}

impl Binding {
    fn is_over(&self, now: Instant) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }
}

/// A network address and port translator.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    outside: Vec<IpAddr>,
    ports: Ports,
    /// Outside endpoints by inside endpoint and remote scope.
    mappings: BTreeMap<(SocketAddr, Scope), SocketAddr>,
    bindings: BTreeMap<SocketAddr, Binding>,
    counters: NatCounters,
}

impl Nat {
    /// A box with these outside addresses. Without any it forwards nothing.
    pub fn new(config: NatConfig, outside: Vec<IpAddr>, rng: &mut Rng) -> Self {
        Self {
            config,
            outside,
            ports: Ports::new(config.allocation, rng),
            mappings: BTreeMap::new(),
            bindings: BTreeMap::new(),
            counters: NatCounters::default(),
        }
    }

    /// How it treats UDP.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Its outside addresses.
    pub fn outside(&self) -> &[IpAddr] {
        &self.outside
    }

    /// What it did not forward.
    pub fn counters(&self) -> NatCounters {
        self.counters
    }

    /// Bindings in the table, expired ones included.
    pub fn bindings(&self) -> usize {
        self.bindings.len()
    }

    /// An inside endpoint sends to `remote`: returns the outside endpoint that replaces the source, `None` if
    /// the datagram is dropped.
    pub fn outbound(
        &mut self,
        now: Instant,
        inside: SocketAddr,
        remote: SocketAddr,
        rng: &mut Rng,
    ) -> Option<SocketAddr> {
        let scope = self.config.mapping.scope(remote);
        let outside = match self.mapped(now, inside, scope) {
            Some(outside) => outside,
            None => self.bind(now, inside, scope, rng)?,
        };
        let until = now + self.config.lifetime;
        let binding = self.bindings.get_mut(&outside)?;
        binding.filter.admit(now, self.config.filtering.scope(remote), until);
        binding.expiry = binding.expiry.map(|_| until);
        Some(outside)
    }

    /// `remote` sends to an outside endpoint: returns the inside endpoint that replaces the destination, `None`
    /// if the datagram is dropped.
    pub fn inbound(&mut self, now: Instant, remote: SocketAddr, outside: SocketAddr) -> Option<SocketAddr> {
        let Some(binding) = self.bindings.get_mut(&outside).filter(|binding| !binding.is_over(now)) else {
            self.counters.unmapped += 1;
            return None;
        };
        let scope = self.config.filtering.scope(remote);
        if binding.expiry.is_some() && !binding.filter.is_admitted(now, scope) {
            self.counters.filtered += 1;
            return None;
        }
        if self.config.is_refreshed_inbound {
            let until = now + self.config.lifetime;
            binding.filter.admit(now, scope, until);
            binding.expiry = binding.expiry.map(|_| until);
        }
        Some(binding.inside)
    }

    /// The inside endpoint behind an outside one, whoever may use it.
    pub fn inside_of(&self, now: Instant, outside: SocketAddr) -> Option<SocketAddr> {
        self.bindings.get(&outside).filter(|binding| !binding.is_over(now)).map(|binding| binding.inside)
    }

    /// Forwards a port to an inside endpoint until the next reboot, as PCP's MAP does (RFC 6887): everyone may
    /// send to it. Datagrams of that endpoint leave through it if mappings do not depend on the remote.
    pub fn forward(&mut self, now: Instant, inside: SocketAddr, rng: &mut Rng) -> Option<SocketAddr> {
        if let Some(outside) = self.mapped(now, inside, Scope::Any) {
            self.bindings.get_mut(&outside)?.expiry = None;
            return Some(outside);
        }
        let outside = self.bind(now, inside, Scope::Any, rng)?;
        self.bindings.get_mut(&outside)?.expiry = None;
        Some(outside)
    }

    /// Loses every binding; with `outside` it comes back with other addresses.
    pub fn reboot(&mut self, outside: Option<Vec<IpAddr>>, rng: &mut Rng) {
        self.mappings.clear();
        self.bindings.clear();
        self.ports.reboot(rng);
        self.outside = outside.unwrap_or_else(|| core::mem::take(&mut self.outside));
    }

    fn mapped(&self, now: Instant, inside: SocketAddr, scope: Scope) -> Option<SocketAddr> {
        let outside = self.mappings.get(&(inside, scope)).copied()?;
        self.bindings.get(&outside).is_some_and(|binding| !binding.is_over(now)).then_some(outside)
    }

    fn bind(&mut self, now: Instant, inside: SocketAddr, scope: Scope, rng: &mut Rng) -> Option<SocketAddr> {
        if self.bindings.len() >= self.config.capacity {
            self.expire(now);
        }
        let is_full = self.bindings.len() >= self.config.capacity;
        let address = self.outside_address(now, inside.ip(), rng)?;
        let bindings = &self.bindings;
        let is_free = |port| {
            let taken = bindings.get(&SocketAddr::new(address, port));
            taken.is_none_or(|binding| binding.is_over(now))
        };
        let port = if is_full { None } else { self.ports.allocate(inside.port(), rng, is_free) };
        let Some(port) = port else {
            self.counters.full += 1;
            return None;
        };
        let outside = SocketAddr::new(address, port);
        let expiry = Some(now + self.config.lifetime);
        let binding = Binding { inside, scope, filter: Filter::default(), expiry };
        if let Some(before) = self.bindings.insert(outside, binding) {
            self.forget(&before, outside);
        }
        self.mappings.insert((inside, scope), outside);
        Some(outside)
    }

    /// The outside address for a new mapping (REQ-2).
    fn outside_address(&self, now: Instant, inside: IpAddr, rng: &mut Rng) -> Option<IpAddr> {
        if let [only] = self.outside[..] {
            return Some(only);
        }
        let of_same_host =
            |(_, binding): &(&SocketAddr, &Binding)| binding.inside.ip() == inside && !binding.is_over(now);
        let paired = self.config.is_paired.then(|| self.bindings.iter().find(of_same_host)).flatten();
        if let Some((outside, _)) = paired {
            return Some(outside.ip());
        }
        let n = usize::try_from(rng.below(self.outside.len() as u64)).ok()?;
        self.outside.get(n).copied()
    }

    fn expire(&mut self, now: Instant) {
        self.bindings.retain(|_, binding| !binding.is_over(now));
        let bindings = &self.bindings;
        self.mappings.retain(|_, outside| bindings.contains_key(outside));
    }

    /// Removes the mapping of a binding, unless it was replaced.
    fn forget(&mut self, binding: &Binding, outside: SocketAddr) {
        let key = (binding.inside, binding.scope);
        if self.mappings.get(&key) == Some(&outside) {
            self.mappings.remove(&key);
        }
    }
}
