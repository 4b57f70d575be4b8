//! Allocation of outside ports.

use super::Allocation;
use crate::rng::Rng;

/// Ports given to mappings; RFC 4787 REQ-3 keeps them off the well-known ones.
const FIRST: u16 = 1024;
const COUNT: u32 = 65_536 - FIRST as u32;

/// Chooses ports.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    allocation: Allocation,
    /// The next sequential port, as a distance from the first.
    next: u32,
}

impl Ports {
    pub(super) fn new(allocation: Allocation, rng: &mut Rng) -> Self {
        let mut ports = Self { allocation, next: 0 };
        ports.reboot(rng);
        ports
    }

    /// Sequential allocation starts anywhere.
    pub(super) fn reboot(&mut self, rng: &mut Rng) {
        self.next = number(rng, COUNT);
    }

    /// A free port for an endpoint with port `inside`; `None` if all are taken.
    pub(super) fn allocate(
        &mut self,
        inside: u16,
        rng: &mut Rng,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let (first, step) = match self.allocation {
            Allocation::Preserving => (u32::from(inside.max(FIRST) - FIRST), 1),
            Allocation::Sequential { step, noise } => {
                let skipped = number(rng, u32::from(noise) + 1) * u32::from(step);
                (self.next + skipped, u32::from(step).max(1))
            }
            Allocation::Random => (number(rng, COUNT), 1),
        };
        for n in 0..COUNT {
            let distance = (first + n * step) % COUNT;
            let port = FIRST + u16::try_from(distance).unwrap_or(0);
            if is_free(port) {
                self.next = (distance + step) % COUNT;
                return Some(port);
            }
        }
        None
    }
}

fn number(rng: &mut Rng, below: u32) -> u32 {
    u32::try_from(rng.below(u64::from(below))).unwrap_or(0)
}
