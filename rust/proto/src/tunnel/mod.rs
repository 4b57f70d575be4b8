//! One peer: key exchange, sessions, suite detection, path and liveness
//! (`docs/reference/protocol/tunnel.md`).
//!
//! Rules that hold throughout:
//!
//! - A frame is authenticated before any state changes: key frames by a signature under the key that
//!   the registry names, sealed frames by opening.
//! - Nothing leaves in the clear. What must wait for a session waits.
//! - A new key is a candidate until something opens under it; until then the old session sends.
//! - An address is where the peer is once a challenge sent there was answered from there; until then little
//!   goes to it.
//! - The counter of a key pair never goes back, and the lowest bit of the nonce prefix says which of
//!   the two public keys is larger, so that two nodes like this one never share a nonce.

mod capabilities;
pub mod cookie;
mod departures;
mod path;
mod path_mtu;
mod peer;
mod retired;
mod session;
mod trace;

pub use capabilities::Capabilities;
pub use path::Proof;
pub use peer::{Change, Liveness, Local, Opened, Outbox, Peer, PeerStatus, REFRESH};
pub use session::{KeyVerdict, OpenError, Session};
pub use trace::TunnelEvent;
