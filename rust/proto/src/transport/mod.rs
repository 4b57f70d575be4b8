//! One connection: the RFC 9293 state machine with the parameters of
//! `docs/reference/protocol/transport.md`.
//!
//! A [`Connection`] takes arriving segments ([`Connection::process`]), time
//! ([`Connection::handle_timeout`]) and the application's calls, and gives segments
//! ([`Connection::dispatch`]), events and its next deadline. Windows are bytes in here; the wire
//! counts segments, and the conversion happens where a header is read or written.
//!
//! Peers of both older generations differ from RFC 9293 in ways that [`Dialect`] names; everything
//! that depends on it asks the dialect, so that each quirk stands in one place.

pub mod congestion;
mod connection;
mod dispatch;
pub mod error;
mod pacing;
mod patience;
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
pub use rate::RateSample;
pub use recv::Supply;
pub use state::State;
pub use stats::{Counters, Stats};
pub use timer::TimerKind;
pub use trace::TransportEvent;

use crate::config::{MAX_SEGMENT, SAFE_SEGMENT};

/// The peer's transport dialect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Dialect {
    /// The first generation of nodes.
    G1,
    /// The generation after it.
    G2,
    /// A node like this one: RFC 9293 without exceptions.
    Native,
}

impl Dialect {
    /// Bytes that one advertised slot stands for when we send.
    fn slot(self) -> usize {
        match self {
            Self::G1 | Self::Native => MAX_SEGMENT,
            Self::G2 => SAFE_SEGMENT,
        }
    }

    /// Whether FIN ends both directions, carries no acknowledgement and may only follow
    /// acknowledged data.
    fn is_legacy(self) -> bool {
        self != Self::Native
    }

    /// Whether a peer that gets our FIN drops what it has not sent yet, so that FIN must wait until it
    /// has finished, or until nobody will read what it sends.
    fn forgets_answers(self) -> bool {
        self.is_legacy()
    }
}
