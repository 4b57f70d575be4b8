//! One connection: the RFC 9293 state machine with the parameters of
//! `docs/reference/protocol/transport.md`.
//!
//! A [`Connection`] takes arriving segments ([`Connection::process`]), timeouts
//! ([`Connection::handle_timeout`]) and calls of the application, and returns segments
//! ([`Connection::dispatch`]), events and its next deadline. Windows are in bytes; the wire counts segments,
//! and headers are converted when read or written. It knows neither tunnels nor UDP.
//!
//! Legacy peers deviate from RFC 9293. [`Dialect`] names their deviations, and code that depends on one asks
//! the dialect.

pub mod congestion;
mod connection;
mod dispatch;
pub mod error;
mod liveness;
mod pacing;
mod path_change;
mod path_state;
mod process;
mod rack;
mod rate;
mod record;
mod recovery;
mod recv;
pub mod rtt;
mod send;
pub mod state;
pub mod stats;
mod stream;
pub mod timer;
pub mod trace;

pub use congestion::Algorithm;
pub use connection::{Connection, ConnectionEvent, FourTuple, Options};
pub use dispatch::reset_for;
pub use error::{CloseReason, RecvError, SendError};
pub use path_change::OldPath;
pub use path_state::PathKey;
pub use rate::RateSample;
pub use recv::Supply;
pub use state::State;
pub use stats::{Counters, Stats};
pub use timer::TimerKind;
pub use trace::TransportEvent;

use crate::config::{MAX_SEGMENT, SAFE_SEGMENT};

/// The transport dialect of a peer (`docs/reference/protocol/transport.md#dialects`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Dialect {
    /// The first generation of nodes.
    G1,
    /// The generation after it.
    G2,
    /// A native node: RFC 9293 without exceptions.
    Native,
}

impl Dialect {
    /// Bytes per advertised window slot, for sending.
    fn slot(self) -> usize {
        match self {
            Self::G1 | Self::Native => MAX_SEGMENT,
            Self::G2 => SAFE_SEGMENT,
        }
    }

    /// Whether the peer is G1 or G2: FIN closes both directions, carries no acknowledgement and may only
    /// follow acknowledged data.
    fn is_legacy(self) -> bool {
        self != Self::Native
    }

    /// Whether a peer that receives our FIN discards its unsent data, so that our FIN must wait for the
    /// peer's FIN or until nobody reads the peer's data.
    fn discards_unsent_on_fin(self) -> bool {
        self.is_legacy()
    }
}
