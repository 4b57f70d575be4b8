//! The states of RFC 9293 section 3.3.2 and the transitions between them. Nowhere else is a state
//! decided.

use core::fmt;

/// The states of a connection. LISTEN belongs to the node, which makes a connection from a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// No connection.
    Closed,
    /// A port that takes connections; held by the node.
    Listen,
    /// SYN sent.
    SynSent,
    /// SYN received and sent.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// We finished and wait for the acknowledgement.
    FinWait1,
    /// We finished; the peer has not.
    FinWait2,
    /// The peer finished; we have not.
    CloseWait,
    /// Both finished at once; we wait for the acknowledgement.
    Closing,
    /// The peer finished, then we did; we wait for the acknowledgement.
    LastAck,
    /// Both finished; old packets are dying out.
    TimeWait,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        })
    }
}

/// What moves a connection between states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The application asked for a connection.
    Open,
    /// A SYN without an acknowledgement of ours.
    Syn,
    /// A SYN that acknowledges ours.
    SynAck,
    /// Our SYN was acknowledged.
    AckOfSyn,
    /// We sent FIN.
    FinSent,
    /// Our FIN was acknowledged.
    AckOfFin,
    /// The peer's FIN was reached in sequence.
    Fin,
    /// The FIN of an old peer, which ends both directions, was reached in sequence.
    LegacyFin,
    /// The connection ended for good: reset, given up, or TIME-WAIT is over.
    Kill,
}

impl State {
    /// The state that `input` leads to; an input that means nothing here leaves the state.
    #[must_use]
    pub fn on(self, input: Input) -> Self {
        match (self, input) {
            (_, Input::Kill) => Self::Closed,
            (Self::Closed, Input::Open) => Self::SynSent,
            (Self::Listen | Self::SynSent, Input::Syn) => Self::SynReceived,
            (Self::SynSent, Input::SynAck) | (Self::SynReceived, Input::AckOfSyn) => Self::Established,
            (Self::SynReceived | Self::Established, Input::FinSent) => Self::FinWait1,
            (Self::SynReceived | Self::Established, Input::Fin) => Self::CloseWait,
            (Self::FinWait1, Input::AckOfFin) => Self::FinWait2,
            (Self::FinWait1, Input::Fin) => Self::Closing,
            (Self::FinWait2, Input::Fin) | (Self::Closing, Input::AckOfFin) => Self::TimeWait,
            (Self::CloseWait, Input::FinSent) => Self::LastAck,
            (Self::LastAck, Input::AckOfFin) => Self::Closed,
            (
                Self::SynReceived
                | Self::Established
                | Self::FinWait1
                | Self::FinWait2
                | Self::CloseWait
                | Self::Closing
                | Self::LastAck,
                Input::LegacyFin,
            ) => Self::TimeWait,
            (
                Self::Closed
                | Self::Listen
                | Self::SynSent
                | Self::SynReceived
                | Self::Established
                | Self::FinWait1
                | Self::FinWait2
                | Self::CloseWait
                | Self::Closing
                | Self::LastAck
                | Self::TimeWait,
                _,
            ) => self,
        }
    }

    /// Whether the handshake is done and data can arrive.
    pub fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent)
    }

    /// Whether the peer may still send data.
    pub fn can_receive(self) -> bool {
        matches!(self, Self::SynReceived | Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

#[cfg(test)]
mod tests {
    use super::{Input::*, State::*, *};

    #[test]
    fn every_state_is_reachable_and_the_table_is_the_one_of_the_rfc() {
        let paths: [(&[Input], State); 11] = [
            (&[], Closed),
            (&[Open], SynSent),
            (&[Open, Syn], SynReceived),
            (&[Open, SynAck], Established),
            (&[Open, SynAck, FinSent], FinWait1),
            (&[Open, SynAck, FinSent, AckOfFin], FinWait2),
            (&[Open, SynAck, FinSent, AckOfFin, Fin], TimeWait),
            (&[Open, SynAck, FinSent, Fin], Closing),
            (&[Open, SynAck, FinSent, Fin, AckOfFin], TimeWait),
            (&[Open, SynAck, Fin], CloseWait),
            (&[Open, SynAck, Fin, FinSent], LastAck),
        ];
        for (inputs, expected) in paths {
            assert_eq!(inputs.iter().fold(Closed, |state, input| state.on(*input)), expected);
        }
        assert_eq!(Listen.on(Syn), SynReceived);
        assert_eq!(LastAck.on(AckOfFin), Closed);
        assert_eq!(TimeWait.on(Kill), Closed);
        assert_eq!(SynReceived.on(FinSent), FinWait1);
    }

    #[test]
    fn the_fin_of_an_old_peer_ends_both_directions_of_what_is_synchronized() {
        for state in [SynReceived, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait] {
            assert_eq!(state.on(LegacyFin), TimeWait, "{state}");
        }
        for state in [Closed, Listen, SynSent] {
            assert_eq!(state.on(LegacyFin), state, "{state}");
        }
    }
}
