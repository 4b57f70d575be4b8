//! What a NAT does with ports, and its encoding for the peer: an entry of a capability ping.
//!
//! ```text
//!  0      1       2       3      5           7
//! +------+-------+-------+------+-----------+
//! | 5    | len 5 | flags | step | next port |    flags: mapping 0x07, allocation 0x38, opens sockets 0x40,
//! +------+-------+-------+------+-----------+    begins 0x80; step, or offset: signed
//! ```

use crate::{tunnel::capabilities::entries, wire::ParseError};

const NAT_BEHAVIOUR: u8 = 5;

/// How mappings depend on the destination (RFC 4787 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapping {
    /// Not known yet.
    #[default]
    Unknown,
    /// One mapping for all destinations.
    EndpointIndependent,
    /// One for each address.
    AddressDependent,
    /// One for each address and port.
    AddressAndPortDependent,
}

impl Mapping {
    /// Whether a new destination may get a new mapping.
    pub fn is_dependent(self) -> bool {
        matches!(self, Self::AddressDependent | Self::AddressAndPortDependent)
    }

    /// The name that RFC 4787 gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// How the port of a new mapping is chosen (RFC 4787 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Allocation {
    /// Not known yet.
    #[default]
    Unknown,
    /// The port of the local socket.
    Preserving,
    /// That port and a constant.
    PreservingWithOffset(i16),
    /// The port of the mapping before, and a constant.
    Sequential(i16),
    /// No pattern.
    Random,
}

impl Allocation {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Preserving => "preserving",
            Self::PreservingWithOffset(_) => "preserving-with-offset",
            Self::Sequential(_) => "sequential",
            Self::Random => "random",
        }
    }
}

/// Behaviour of the NAT in front of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatBehaviour {
    /// How mappings depend on the destination.
    pub mapping: Mapping,
    /// How ports are chosen.
    pub allocation: Allocation,
    /// The port that the next mapping is expected to get; 0 if that cannot be said.
    pub next_port: u16,
    /// The node opens more sockets for a moment where that helps.
    pub opens_sockets: bool,
    /// The node asks for an attempt to begin now, or answers that it begins.
    pub begins: bool,
}

const OPENS_SOCKETS: u8 = 0x40;
const BEGINS: u8 = 0x80;

impl NatBehaviour {
    /// Length of the encoding, bytes.
    pub const LEN: usize = 5;

    /// The distance between ports of consecutive mappings, if the next one can be predicted.
    pub fn predictable_step(&self) -> Option<i32> {
        match self.allocation {
            Allocation::Sequential(step) if self.next_port != 0 && step != 0 => Some(step.into()),
            Allocation::Sequential(_)
            | Allocation::Preserving
            | Allocation::PreservingWithOffset(_)
            | Allocation::Random
            | Allocation::Unknown => None,
        }
    }

    /// Appends the entry to the payload of a capability ping.
    pub fn announce(&self, payload: &mut Vec<u8>) {
        payload.extend([NAT_BEHAVIOUR, 5]);
        payload.extend(self.emit());
    }

    /// The last entry in the payload of a capability ping, if it has one.
    pub fn announced(payload: &[u8]) -> Option<Self> {
        let entries = entries(payload).ok()?.filter_map(Result::ok);
        entries
            .filter(|(kind, _)| *kind == NAT_BEHAVIOUR)
            .last()
            .and_then(|(_, value)| Self::parse(value).ok())
    }

    /// Encodes it.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mapping = match self.mapping {
            Mapping::Unknown => 0,
            Mapping::EndpointIndependent => 1,
            Mapping::AddressDependent => 2,
            Mapping::AddressAndPortDependent => 3,
        };
        let (allocation, step) = match self.allocation {
            Allocation::Unknown => (0, 0),
            Allocation::Preserving => (1, 0),
            Allocation::PreservingWithOffset(offset) => (2, offset),
            Allocation::Sequential(step) => (3, step),
            Allocation::Random => (4, 0),
        };
        let sockets = if self.opens_sockets { OPENS_SOCKETS } else { 0 };
        let begins = if self.begins { BEGINS } else { 0 };
        let [step_high, step_low] = step.to_be_bytes();
        let [port_high, port_low] = self.next_port.to_be_bytes();
        [mapping | allocation << 3 | sockets | begins, step_high, step_low, port_high, port_low]
    }

    /// Parses an encoding; what later versions append is ignored, and so are kinds that they add.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] if it is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let [flags, step_high, step_low, port_high, port_low, ..] = *bytes else {
            return Err(ParseError::Truncated);
        };
        let step = i16::from_be_bytes([step_high, step_low]);
        Ok(Self {
            mapping: match flags & 0x07 {
                1 => Mapping::EndpointIndependent,
                2 => Mapping::AddressDependent,
                3 => Mapping::AddressAndPortDependent,
                _ => Mapping::Unknown,
            },
            allocation: match flags >> 3 & 0x07 {
                1 => Allocation::Preserving,
                2 => Allocation::PreservingWithOffset(step),
                3 => Allocation::Sequential(step),
                4 => Allocation::Random,
                _ => Allocation::Unknown,
            },
            next_port: u16::from_be_bytes([port_high, port_low]),
            opens_sockets: flags & OPENS_SOCKETS != 0,
            begins: flags & BEGINS != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tunnel::Capabilities;

    #[test]
    fn every_behaviour_survives_its_encoding() {
        for mapping in [
            Mapping::Unknown,
            Mapping::EndpointIndependent,
            Mapping::AddressDependent,
            Mapping::AddressAndPortDependent,
        ] {
            for allocation in [
                Allocation::Unknown,
                Allocation::Preserving,
                Allocation::PreservingWithOffset(-7),
                Allocation::Sequential(2),
                Allocation::Sequential(-1),
                Allocation::Random,
            ] {
                for opens_sockets in [false, true] {
                    let told = NatBehaviour {
                        mapping,
                        allocation,
                        next_port: 40_001,
                        opens_sockets,
                        begins: opens_sockets,
                    };
                    assert_eq!(NatBehaviour::parse(&told.emit()), Ok(told));
                }
            }
        }
    }

    #[test]
    fn it_stands_beside_the_capabilities() {
        let told = NatBehaviour { mapping: Mapping::AddressDependent, next_port: 7, ..Default::default() };
        let mut payload = Capabilities { boot_id: 1, max_segment: 4096 }.emit().to_vec();
        assert_eq!(NatBehaviour::announced(&payload), None);
        told.announce(&mut payload);
        assert_eq!(NatBehaviour::announced(&payload), Some(told));
        assert!(Capabilities::parse(&payload).is_ok());
        assert_eq!(NatBehaviour::announced(b"ping"), None);
        payload.pop();
        assert_eq!(NatBehaviour::announced(&payload), None);
    }

    #[test]
    fn a_peer_cannot_name_a_step_or_port_that_predicts_nothing() {
        for (step, next_port) in [(0, 4000), (1, 0)] {
            let told = NatBehaviour {
                mapping: Mapping::AddressAndPortDependent,
                allocation: Allocation::Sequential(step),
                next_port,
                opens_sockets: false,
                begins: false,
            };
            assert_eq!(told.predictable_step(), None);
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert_eq!(NatBehaviour::parse(&bytes).is_ok(), bytes.len() >= NatBehaviour::LEN);
        }
    }
}
