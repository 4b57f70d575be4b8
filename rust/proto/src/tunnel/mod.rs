//! One peer: key exchange, sessions, suite detection, path and liveness
//! (`docs/reference/protocol/tunnel.md`).
//!
//! Rules that hold throughout:
//!
//! - A frame is authenticated before it changes any state: key frames by a signature under the key that the
//!   registry names, sealed frames by their tag.
//! - Nothing is sent unencrypted. Packets are queued until there is a session.
//! - A session of a new key is a candidate until a frame opens under it; until then the current session is
//!   used for sending.
//! - An address is validated by a challenge that is answered from it (RFC 9000 section 8.2); until then the
//!   anti-amplification limit applies.
//! - The counter of a key pair never decreases, and the lowest bit of the nonce prefix says which of the two
//!   public keys is larger, so that two native nodes never use the same nonce.

mod candidates;
mod capabilities;
pub mod cookie;
mod path;
mod path_mtu;
mod peer;
pub mod prediction;
mod retired;
mod route;
mod send_times;
mod session;
mod trace;

pub use candidates::{Candidate, CandidateKind, Candidates, PathClass, is_usable};
pub use capabilities::{Capabilities, PATH_PROBE};
pub use path::{CandidateState, CandidateStatus, PathChange, Source};
pub use peer::{Change, KEEPALIVE, Liveness, Local, Opened, Outbox, PathSwitch, Peer, PeerStatus, REFRESH};
pub use route::Route;
pub use session::{KeyVerdict, OpenError, Session};
pub use trace::TunnelEvent;
