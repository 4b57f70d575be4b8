//! The IO shell: sockets, threads and the clock. No protocol decision is made here.
//!
//! One thread owns a [`pilot_proto::node::Node`], the UDP socket, the daemon's Unix socket and every
//! bridge between a stream and an application. It wakes only for work: a readable or writable
//! descriptor, a deadline, or a command from its [`Handle`].

pub mod beacon;
mod client;
pub mod clock;
mod driver;
#[cfg(target_os = "linux")]
mod error_queue;
pub mod fd;
mod handle;
mod heap;
mod requests;
mod stream;
mod udp;

pub use driver::ClientId;
pub use handle::{Config, ConnectionRow, Handle, HostEvent, PeerRow, Snapshot, Tag};
