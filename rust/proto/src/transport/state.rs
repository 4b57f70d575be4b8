//! The states of RFC 9293 section 3.3.2 and the only transition table between them.

use core::fmt;

/// The states of a connection. LISTEN belongs to the node, which creates a connection from a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// No connection.
    Closed,
    /// A listening port; held by the node.
    Listen,
    /// SYN sent.
    SynSent,
    /// SYN received, SYN-ACK sent.
    SynReceived,
    /// The handshake is complete; data may flow in both directions.
    Established,
    /// Our FIN is sent and not acknowledged.
    FinWait1,
    /// Our FIN is acknowledged; the peer has not sent FIN.
    FinWait2,
    /// The peer sent FIN; we have not.
    CloseWait,
    /// Simultaneous close: both sent FIN, ours is not acknowledged.
    Closing,
    /// The peer sent FIN, then we did; ours is not acknowledged.
    LastAck,
    /// Both FINs are acknowledged; waits for old duplicates to expire.
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

/// Inputs of the transition table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Active open.
    Open,
    /// A SYN that does not acknowledge ours.
    Syn,
    /// A SYN that acknowledges ours.
    SynAck,
    /// Our SYN was acknowledged.
    AckOfSyn,
    /// We sent FIN.
    FinSent,
    /// Our FIN was acknowledged.
    AckOfFin,
    /// The peer's FIN is in sequence.
    Fin,
    /// The FIN of a legacy peer, which closes both directions, is in sequence.
    LegacyFin,
    /// The connection is closed: reset, timed out, or TIME-WAIT expired.
    Kill,
}

impl State {
    /// The next state; an input without meaning in this state leaves it unchanged.
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

    /// Whether both sides' sequence numbers are known.
    pub fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent)
    }

    /// Whether the peer may still send new data.
    pub fn can_receive(self) -> bool {
        matches!(self, Self::SynReceived | Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

#[cfg(test)]
mod tests {
    use super::{Input::*, State::*, *};

    #[test]
    fn transitions_follow_rfc_9293() {
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
    fn the_fin_of_a_legacy_peer_ends_both_directions_of_what_is_synchronized() {
        for state in [SynReceived, Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait] {
            assert_eq!(state.on(LegacyFin), TimeWait, "{state}");
        }
        for state in [Closed, Listen, SynSent] {
            assert_eq!(state.on(LegacyFin), state, "{state}");
        }
    }
}
