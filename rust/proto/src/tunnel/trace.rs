//! Trace events of a peer, for [`Trace`](crate::trace::Trace).

use super::{Capabilities, route::Route, session::KeyVerdict};
use crate::crypto::Suite;

/// An event of the tunnel to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// Our key was sent to the peer.
    KeySent {
        /// Destination.
        to: Route,
        /// Whether a bare key, which asks for the peer's key, was sent with it.
        asks_back: bool,
    },
    /// A signed key of the peer arrived that was not known.
    KeyReceived {
        /// Source.
        from: Route,
        /// Its outcome.
        verdict: KeyVerdict,
    },
    /// A candidate session was created beside the current one.
    Candidate {
        /// Whether it comes from a new key of ours.
        is_rekey: bool,
    },
    /// Another session is used for sealing from now on.
    Installed {
        /// Whether it is the previous one, whose successor came from a replayed key.
        is_reinstated: bool,
    },
    /// The suite of the current session was detected, or changed to G2.
    SuiteLatched(Suite),
    /// The peer announced new capabilities.
    Capabilities(Capabilities),
    /// The peer echoed our capabilities: it is a legacy node.
    Legacy,
    /// The peer restarted.
    Restarted,
    /// An address was challenged.
    Challenged(Route),
    /// An address was validated, and is used for sending.
    PathValidated {
        /// The address.
        at: Route,
        /// Whether another address was used before.
        has_moved: bool,
    },
    /// Frames go by another path.
    PathChanged(Route),
    /// The largest segment that path and peer accept, bytes.
    MaxSegment(usize),
    /// The peer does not answer; the registry may know another endpoint.
    Stalled,
    /// The key exchange was given up.
    Unreachable,
    /// All sessions were dropped: the peer's identity changed.
    Forgotten,
}
