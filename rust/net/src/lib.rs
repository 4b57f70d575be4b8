//! The IO shell: sockets, threads and the clock. No protocol decision is made here.
//!
//! One thread owns a [`pilot_proto::node::Node`], the UDP socket, the daemon's Unix socket and every
//! bridge between a stream and an application. It wakes only for work: a readable or writable
//! descriptor, a deadline, or a command from its [`Handle`].

mod answer;
mod asked;
pub mod beacon;
mod client;
mod clients;
pub mod clock;
mod dial;
mod driver;
#[cfg(target_os = "linux")]
mod error_queue;
pub mod fd;
mod handle;
#[cfg(any(test, feature = "harness"))]
pub mod harness;
mod heap;
mod inbox;
mod intake;
mod limits;
mod listen;
mod private_socket;
mod readiness;
mod requests;
mod stream;
#[cfg(test)]
mod tests;
mod trace;
mod udp;

pub use driver::ClientId;
pub use handle::{Config, ConnectionRow, Handle, HostEvent, PeerRow, Snapshot, Tag};
pub use limits::LocalCounters;
pub use trace::TraceConfig;
