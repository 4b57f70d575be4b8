//! Networks of whole nodes in virtual time.
//!
//! A [`World`] holds nodes, the paths between them and bulk transfers ([`World::start_flow`]). Time
//! jumps from one event to the next, and everything random comes from one seed, so a run is repeated
//! by repeating its seed. Nothing here knows a clock, a socket or a thread.

mod channel;
mod flow;
pub mod model;
mod qlog;
mod rng;
mod world;

pub use channel::{Channel, ETHERNET, Fate, LinkId, Links, Loss, Path};
pub use flow::{Flow, FlowId, HostId, pattern};
pub use rng::Rng;
pub use world::{Stuck, World};
