//! The IO shell: sockets, threads and the clock. No protocol decision is made here.
//!
//! One thread owns a [`pilot_proto::node::Node`], the UDP socket, the daemon's Unix socket and every
//! bridge between a stream and an application. It wakes only for work: a readable or writable
//! descriptor, a deadline, or a command from its [`Handle`].

mod answers;
mod asked;
pub mod beacon;
mod clients;
pub mod clock;
mod control;
mod counters;
mod datagrams;
mod deadlines;
#[cfg(target_os = "linux")]
mod error_queue;
mod event;
pub mod fd;
mod forwards;
mod handle;
mod heap;
mod inbox;
mod intake;
mod io_thread;
mod limits;
#[cfg(feature = "port-mapping")]
pub mod port_mapping;
mod ports;
mod private_socket;
mod readiness;
mod source;
mod spare_sockets;
mod streams;
mod tag;
#[cfg(test)]
mod tests;
mod trace;
mod udp;

pub use control::{Config, ConnectionRow, PeerRow, Snapshot};
pub use counters::LocalCounters;
pub use event::HostEvent;
pub use handle::Handle;
#[cfg(any(test, feature = "harness"))]
pub use io_thread::harness;
pub use tag::{ClientId, Tag};
pub use trace::TraceConfig;
