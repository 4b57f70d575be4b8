//! Close reasons, and errors of calls.

/// Why a connection was closed. Reported to the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CloseReason {
    /// Both sides sent FIN and all data was acknowledged.
    Finished,
    /// Nothing listens on the peer's port.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// We reset the connection.
    Aborted,
    /// SYN was not answered.
    SynTimeout,
    /// A segment was not acknowledged in time.
    RetransmissionTimeout,
    /// Nothing arrived within the idle timeout.
    IdleTimeout,
    /// The peer restarted.
    PeerRestarted,
    /// The peer does not answer on any path.
    Unreachable,
    /// The policy of the network does not allow the port.
    Prohibited,
    /// The node was shut down.
    Shutdown,
}

impl CloseReason {
    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::SynTimeout => "syn_timeout",
            Self::RetransmissionTimeout => "retransmission_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::PeerRestarted => "peer_restarted",
            Self::Unreachable => "unreachable",
            Self::Prohibited => "prohibited",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why data was not accepted for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The sending direction is closed.
    #[error("the stream is closed for sending")]
    Closed,
    /// The connection failed.
    #[error("the connection is broken")]
    Broken(CloseReason),
}

/// Why nothing can be received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecvError {
    /// The connection failed before the peer's FIN.
    #[error("the connection is broken")]
    Broken(CloseReason),
}
