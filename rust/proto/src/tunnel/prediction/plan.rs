//! Where to send, by what both NATs do.
//!
//! | ours \ theirs | one mapping | predictable | random |
//! |---|---|---|---|
//! | one mapping | ordinary checks | around their next port | scatter, while they open sockets |
//! | predictable | ordinary checks | sweep, both of us | nothing helps |
//! | random | open sockets | nothing helps | nothing helps |

use super::{Mapping, NatBehaviour, PORTS, port_after};
use crate::crypto::entropy::Entropy;

/// Pings of one attempt at most.
pub(super) const SCATTERED: u32 = 256;
/// The same, where ports can be predicted: mappings that others make meanwhile are few.
pub(super) const SWEPT: u32 = 96;
pub(super) const AROUND: u32 = 64;
/// How many ports before the expected one a sweep begins that leaves out ports: the other end may have begun
/// before it told that port.
const EARLY: i32 = 24;
/// Sockets that are opened for a moment.
const SOCKETS: u32 = 64;

/// Which end of a pair a node is, for what the two must do differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The one with the lower node id.
    First,
    /// The other.
    Second,
}

/// What an end does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The endpoints that are known are checked; there is nothing to predict.
    Ordinary,
    /// Pings go to the ports before and after the one that is expected.
    Around {
        /// The expected port.
        port: u16,
        /// Distance to the next one.
        step: i32,
    },
    /// Pings go to the expected ports in turn, each from a new port of ours.
    Sweep {
        /// The first port.
        port: u16,
        /// Distance to the next one.
        step: i32,
    },
    /// Pings go to random ports.
    Scatter {
        /// The first port.
        start: u16,
        /// Distance to the next one; has no divisor in common with the number of ports.
        stride: i32,
    },
    /// Pings go to a known endpoint from many sockets.
    OpenSockets {
        /// How many.
        count: u32,
    },
}

impl Plan {
    /// Chooses what `ours`, the node behind the first NAT, does.
    pub fn choose(ours: &NatBehaviour, theirs: &NatBehaviour, role: Role, entropy: &mut Entropy) -> Self {
        let (our_step, their_step) = (ours.predictable_step(), theirs.predictable_step());
        match (ours.mapping.is_dependent(), theirs.mapping.is_dependent()) {
            (false, true) => match their_step {
                Some(step) => Self::Around { port: theirs.next_port, step },
                None if theirs.opens_sockets => Self::scatter(entropy),
                None => Self::Ordinary,
            },
            (true, false) if our_step.is_none() && ours.opens_sockets => Self::OpenSockets { count: SOCKETS },
            (true, true) if our_step.is_some() => their_step.map_or(Self::Ordinary, |step| {
                let stride = stride(ours.mapping, theirs.mapping, role);
                let early = if stride > 1 { EARLY } else { 0 };
                Self::Sweep { port: port_after(theirs.next_port, -step * early), step: step * stride }
            }),
            (false | true, false) | (true, true) => Self::Ordinary,
        }
    }

    fn scatter(entropy: &mut Entropy) -> Self {
        let start = port_after(super::FIRST_PORT, i32::from((entropy.next_u32() >> 16) as u16));
        // PORTS is 2^10 * 3^2 * 7.
        let stride = (0..).map(|_| i32::from((entropy.next_u32() >> 16) as u16) % PORTS);
        let stride = stride.take(64).find(|n| n % 2 != 0 && n % 3 != 0 && n % 7 != 0);
        Self::Scatter { start, stride: stride.unwrap_or(25_097) }
    }

    /// Whether either end can do more than ordinary checks.
    pub fn is_of_use(ours: &NatBehaviour, theirs: &NatBehaviour, entropy: &mut Entropy) -> bool {
        let mut is_more = |ours, theirs| Self::choose(ours, theirs, Role::First, entropy) != Self::Ordinary;
        is_more(ours, theirs) || is_more(theirs, ours)
    }

    /// How many pings an attempt has.
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Ordinary | Self::OpenSockets { .. } => 0,
            Self::Around { .. } => AROUND,
            Self::Sweep { .. } => SWEPT,
            Self::Scatter { .. } => SCATTERED,
        }
    }

    /// The port of ping `index`.
    pub(super) fn port(&self, index: u32) -> Option<u16> {
        if index >= self.len() {
            return None;
        }
        let index = i32::try_from(index).ok()?;
        match *self {
            Self::Ordinary | Self::OpenSockets { .. } => None,
            // What they sent to us already has a mapping, so the expected port is rather too late.
            Self::Around { port, step } => {
                let half = (index + 1) / 2;
                Some(port_after(port, step * if index % 2 == 1 { -half } else { half }))
            }
            Self::Sweep { port, step } => Some(port_after(port, step.saturating_mul(index))),
            Self::Scatter { start, stride } => {
                // In wide arithmetic: the product exceeds 32 bits.
                let steps = (i64::from(stride) * i64::from(index)) % i64::from(PORTS);
                Some(port_after(start, i32::try_from(steps).unwrap_or(0)))
            }
        }
    }
}

/// How many of their ports lie between two pings of ours.
///
/// Ping `i` of the first end leaves from its port `i + a` to port `i` of the second, where `a` is the number
/// of mappings that were made there unnoticed; ping `k` of the second from `k + b` to `s * k - c`. They meet
/// if `s * k - c = i + a` and `i = k + b`, so `(s - 1) * k = a + b + c`: never if both ends take each port in
/// turn and one of them is wrong, always if one takes every second port and enough of them. With one mapping
/// for all ports of an address, ports are not used up and none may be left out.
fn stride(ours: Mapping, theirs: Mapping, role: Role) -> i32 {
    let is_used_up = |mapping| mapping == Mapping::AddressAndPortDependent;
    if role == Role::Second && is_used_up(ours) && is_used_up(theirs) { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::Allocation, *};

    fn nat(mapping: Mapping, allocation: Allocation) -> NatBehaviour {
        let next_port = if matches!(allocation, Allocation::Sequential(_)) { 5000 } else { 0 };
        NatBehaviour { mapping, allocation, next_port, opens_sockets: true, begins: false }
    }

    #[test]
    fn both_behaviours_choose_the_plan() {
        use Allocation::{Random, Sequential, Unknown};
        use Mapping::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let one = nat(EndpointIndependent, Unknown);
        let unknown = nat(Mapping::Unknown, Unknown);
        let sequential = nat(AddressAndPortDependent, Sequential(3));
        let by_address = nat(AddressDependent, Sequential(3));
        let random = nat(AddressAndPortDependent, Random);
        let sweep = |step| Plan::Sweep { port: 5000, step };
        for (ours, theirs, role, expected) in [
            (one, one, Role::First, Plan::Ordinary),
            (unknown, unknown, Role::First, Plan::Ordinary),
            (sequential, one, Role::First, Plan::Ordinary),
            (one, sequential, Role::First, Plan::Around { port: 5000, step: 3 }),
            (unknown, by_address, Role::First, Plan::Around { port: 5000, step: 3 }),
            (sequential, sequential, Role::First, sweep(3)),
            (sequential, sequential, Role::Second, Plan::Sweep { port: 5000 - 3 * 24, step: 6 }),
            (sequential, by_address, Role::Second, sweep(3)),
            (random, one, Role::First, Plan::OpenSockets { count: SOCKETS }),
            (random, sequential, Role::First, Plan::Ordinary),
            (sequential, random, Role::First, Plan::Ordinary),
            (random, random, Role::First, Plan::Ordinary),
        ] {
            let chosen = Plan::choose(&ours, &theirs, role, &mut Entropy::new(&[1; 32]));
            assert_eq!(chosen, expected, "{ours:?} {theirs:?}");
        }
        let chosen = Plan::choose(&one, &random, Role::First, &mut Entropy::new(&[1; 32]));
        assert!(matches!(chosen, Plan::Scatter { .. }), "{chosen:?}");
        // A peer that opens no more sockets cannot be found by chance.
        let random = NatBehaviour { opens_sockets: false, ..random };
        let mut entropy = Entropy::new(&[1; 32]);
        assert_eq!(Plan::choose(&one, &random, Role::First, &mut entropy), Plan::Ordinary);
        assert_eq!(Plan::choose(&random, &one, Role::First, &mut entropy), Plan::Ordinary);
    }

    #[test]
    fn no_port_comes_twice_in_an_attempt() {
        for seed in 0..50 {
            let scatter = Plan::scatter(&mut Entropy::new(&[seed; 32]));
            for plan in
                [scatter, Plan::Around { port: 1030, step: 2 }, Plan::Sweep { port: 65_530, step: -3 }]
            {
                let ports: BTreeSet<_> = (0..).map_while(|index| plan.port(index)).collect();
                assert_eq!(ports.len(), plan.len() as usize, "{plan:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn pings_around_a_port_begin_with_it() {
        let plan = Plan::Around { port: 5000, step: 2 };
        let ports: Vec<_> = (0..5).filter_map(|index| plan.port(index)).collect();
        assert_eq!(ports, [5000, 4998, 5002, 4996, 5004]);
    }

    /// Where the lines of a sweep cross, whatever both ends did not notice.
    #[test]
    fn sweeps_meet_whatever_was_not_noticed() {
        let swept = i32::try_from(SWEPT).unwrap();
        for (a, b) in (-EARLY..20).flat_map(|a| (0..20).map(move |b| (a, b))) {
            let meets = (0..swept).any(|k| {
                let i = k + b;
                i < swept && 2 * k - EARLY == i + a
            });
            assert!(meets, "{a} and {b} mappings");
        }
    }
}
