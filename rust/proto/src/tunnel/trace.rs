//! What a peer records for [`Trace`](crate::trace::Trace).

use core::net::SocketAddr;

use super::{Capabilities, session::KeyVerdict};
use crate::crypto::Suite;

/// Something that happened between us and a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// Our key went to the peer.
    KeySent {
        /// Where to.
        to: SocketAddr,
        /// Whether its key was asked for.
        asks_back: bool,
    },
    /// A signed key of the peer came, one that was not known.
    KeyReceived {
        /// Where from.
        from: SocketAddr,
        /// What became of it.
        verdict: KeyVerdict,
    },
    /// A session was made that has to show itself beside the current one.
    Candidate {
        /// Whether its key is a new one of ours.
        is_rekey: bool,
    },
    /// Frames are sealed under another session from now on.
    Installed {
        /// Whether it is the one before, whose successor was made of a replayed key.
        is_reinstated: bool,
    },
    /// The suite of the current session is known, or another one than it seemed.
    SuiteLatched(Suite),
    /// The peer told what it can do.
    Capabilities(Capabilities),
    /// The peer echoed our capabilities, as peers of older generations do.
    Legacy,
    /// The peer is another process than before.
    Restarted,
    /// An address was challenged.
    Challenged(SocketAddr),
    /// An address answered its challenge, and frames go there.
    PathValidated {
        /// Which.
        at: SocketAddr,
        /// Whether frames went elsewhere before.
        has_moved: bool,
    },
    /// The largest segment that is known to pass, bytes.
    MaxSegment(usize),
    /// No answers; the registry may know another endpoint.
    Stalled,
    /// The key exchange was given up.
    Unreachable,
    /// Every session and what the peer told in them is void: its identity changed.
    Forgotten,
}
