//! Port prediction for NATs whose mapping depends on the destination (RFC 4787 section 4.1, RFC 5128
//! section 3.4.1).
//!
//! [`Observations`] classify our own NAT by what several beacons report. The result, a [`NatBehaviour`], is
//! told to the peer, and the behaviours of both ends choose a [`Plan`]: where either end sends sealed
//! pings, so that two of them meet. [`Probing`] carries it out within a budget. What arrives is for
//! `tunnel::path` to validate; nothing here decides that an address is the peer's.

mod behaviour;
mod observations;
mod plan;
mod probing;
#[cfg(test)]
mod tests;

pub use behaviour::{Allocation, Mapping, NatBehaviour};
pub use observations::{Observation, Observations};
pub use plan::{Plan, Role};
pub use probing::Probing;

/// Ports that NATs map to: those below are left to the router itself (RFC 4787 section 4.2.1).
const FIRST_PORT: u16 = 1024;
/// How many ports that are.
const PORTS: i32 = u16::MAX as i32 - FIRST_PORT as i32 + 1;

/// The port `steps` after `port`, where the last one is followed by the first one.
fn port_after(port: u16, steps: i32) -> u16 {
    let index = (i32::from(port) - i32::from(FIRST_PORT) + steps % PORTS).rem_euclid(PORTS);
    u16::try_from(index + i32::from(FIRST_PORT)).unwrap_or(u16::MAX)
}

/// The shorter way from one port to another, which may lead past the last one.
fn distance(from: u16, to: u16) -> i32 {
    let ahead = (i32::from(to) - i32::from(from)).rem_euclid(PORTS);
    if ahead > PORTS / 2 { ahead - PORTS } else { ahead }
}
