//! Where RFC 4787 behaviour allows a direct path without guessing a port.
//!
//! Both nodes send to the endpoint that the beacon saw of the other, and to every endpoint that an authenticated
//! frame came from. With mapping and filtering of both sides:
//!
//! * Endpoint-independent mapping on both sides: each sends from the endpoint that the other sends to, so every
//!   filter opens.
//! * On one side only: the other comes from an unknown port of a known address. The first side's filter must not
//!   look at ports.
//! * On neither side: one filter must admit anyone, so that the frame from an unknown port arrives at the endpoint
//!   that the beacon saw; the other side's filter must not look at ports. If both mappings look at ports, each answer
//!   leaves from a new one, and nothing is promised.

use pilot_sim::nat::Behaviour::{self, *};

use crate::scenario::{Access, Family, Scenario, Shared, Side};

/// What all boxes between a host and the public network do together: as much as the strictest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) mapping: Behaviour,
    pub(crate) filtering: Behaviour,
}

impl Chain {
    const NONE: Self = Self { mapping: EndpointIndependent, filtering: EndpointIndependent };

    /// For IPv4.
    pub(crate) fn of(access: Access) -> Self {
        match access {
            Access::Public => Self::NONE,
            Access::Firewall(firewall) => Self { filtering: firewall.filtering, ..Self::NONE },
            Access::Home(nat) => Self { mapping: nat.mapping, filtering: nat.filtering },
            Access::Carrier { home, carrier } => Self {
                mapping: home.mapping.max(carrier.mapping),
                filtering: home.filtering.max(carrier.filtering),
            },
        }
    }
}

fn has(side: Side, family: Family) -> bool {
    side.family == family || side.family == Family::Dual
}

/// Whether a direct path exists without guessing.
pub(crate) fn must_be_direct(scenario: &Scenario) -> bool {
    let [a, b] = scenario.sides;
    let both = |family| has(a, family) && has(b, family);
    // Nothing translates IPv6, and sending opens every filter.
    if both(Family::V6) {
        return true;
    }
    if !both(Family::V4) {
        return false;
    }
    match scenario.shared {
        Shared::Home => true,
        Shared::Nothing => allows(Chain::of(a.access), Chain::of(b.access)),
        Shared::Carrier => match a.access {
            // Each meets the other's outside endpoint at the carrier.
            Access::Carrier { carrier, .. } if carrier.has_hairpinning => {
                let through = |access| match access {
                    Access::Carrier { home, .. } | Access::Home(home) => Access::Carrier { home, carrier },
                    Access::Public | Access::Firewall(_) => Access::Home(carrier),
                };
                allows(Chain::of(through(a.access)), Chain::of(through(b.access)))
            }
            Access::Carrier { .. } | Access::Home(_) | Access::Firewall(_) | Access::Public => false,
        },
    }
}

fn allows(a: Chain, b: Chain) -> bool {
    let is_fixed = |chain: Chain| chain.mapping == EndpointIndependent;
    match (is_fixed(a), is_fixed(b)) {
        (true, true) => true,
        (true, false) => a.filtering != AddressAndPortDependent,
        (false, true) => b.filtering != AddressAndPortDependent,
        (false, false) => {
            let follows_ports = |chain: Chain| chain.mapping == AddressAndPortDependent;
            let open = [a, b].into_iter().any(|chain| chain.filtering == EndpointIndependent);
            let strict = [a, b].into_iter().any(|chain| chain.filtering == AddressAndPortDependent);
            open && !strict && !(follows_ports(a) && follows_ports(b))
        }
    }
}

#[test]
fn the_oracle_knows_the_textbook() {
    let chain = |mapping, filtering| Chain { mapping, filtering };
    let cone = chain(EndpointIndependent, EndpointIndependent);
    let restricted = chain(EndpointIndependent, AddressDependent);
    let port_restricted = chain(EndpointIndependent, AddressAndPortDependent);
    let symmetric = chain(AddressAndPortDependent, AddressAndPortDependent);
    assert!(
        allows(port_restricted, port_restricted) && allows(cone, symmetric) && allows(restricted, symmetric)
    );
    assert!(!allows(port_restricted, symmetric) && !allows(symmetric, symmetric));
}
