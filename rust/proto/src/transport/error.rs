//! Why a connection ended, and what a caller did wrong.

/// Why a connection is gone. Each reason is told to the application and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CloseReason {
    /// Both sides sent all they had and said so.
    Finished,
    /// Nothing listens on the peer's port.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// We reset the connection.
    Aborted,
    /// No answer to SYN.
    SynTimeout,
    /// A segment was never acknowledged.
    RetransmissionTimeout,
    /// Nothing arrived for the idle time.
    IdleTimeout,
    /// The peer's process is another one than when the connection was made.
    PeerRestarted,
    /// The peer does not answer on any path.
    Unreachable,
    /// The node was shut down.
    Shutdown,
}

/// Why data was not accepted for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The sending direction was closed by us.
    #[error("the stream is closed for sending")]
    Closed,
    /// The connection is broken.
    #[error("the connection is broken")]
    Broken(CloseReason),
}

/// Why nothing can be received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecvError {
    /// The connection broke before the peer finished.
    #[error("the connection is broken")]
    Broken(CloseReason),
}
