//! A NAT with a mapping for each destination, or one for all, and filtering by address and port.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::super::port_after;
use crate::crypto::entropy::Entropy;

/// How it chooses ports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports {
    Sequential(i32),
    Random,
    /// One mapping of each socket for all destinations.
    Same,
}

pub(super) struct Nat {
    outside: IpAddr,
    ports: Ports,
    last: u16,
    entropy: Entropy,
    /// Ports by socket and destination.
    mappings: BTreeMap<(u32, SocketAddr), u16>,
    /// Ports by socket.
    same: BTreeMap<u32, u16>,
}

impl Nat {
    pub(super) fn new(host: u8, seed: u8, ports: Ports) -> Self {
        let mut entropy = Entropy::new(&[seed.wrapping_add(host.wrapping_mul(100)); 32]);
        let last = port_after(1024, i32::from((entropy.next_u32() >> 16) as u16));
        Self {
            outside: IpAddr::from([203, 0, 113, host]),
            ports,
            last,
            entropy,
            mappings: BTreeMap::new(),
            same: BTreeMap::new(),
        }
    }

    pub(super) fn outside(&self) -> IpAddr {
        self.outside
    }

    fn next_port(&mut self) -> u16 {
        self.last = match self.ports {
            Ports::Sequential(step) => port_after(self.last, step),
            Ports::Random | Ports::Same => {
                port_after(1024, i32::from((self.entropy.next_u32() >> 16) as u16))
            }
        };
        self.last
    }

    /// Somebody else uses a port.
    pub(super) fn waste(&mut self) {
        self.next_port();
    }

    /// The endpoint that a destination sees.
    pub(super) fn map(&mut self, socket: u32, destination: SocketAddr) -> SocketAddr {
        let port = match self.mappings.get(&(socket, destination)) {
            Some(port) => *port,
            None => {
                let known = self.same.get(&socket).copied().filter(|_| matches!(self.ports, Ports::Same));
                let port = known.unwrap_or_else(|| self.next_port());
                self.same.insert(socket, port);
                self.mappings.insert((socket, destination), port);
                port
            }
        };
        SocketAddr::new(self.outside, port)
    }

    /// Whether a datagram from outside reaches the host.
    pub(super) fn may_enter(&self, source: SocketAddr, target: SocketAddr) -> bool {
        let is_same = |((_, destination), port): (&(u32, SocketAddr), &u16)| {
            *destination == source && SocketAddr::new(self.outside, *port) == target
        };
        self.mappings.iter().any(is_same)
    }
}
