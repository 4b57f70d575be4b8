//! Networks of whole nodes in virtual time.
//!
//! A [`World`] contains nodes, the paths, NAT boxes and beacons between them and bulk transfers ([`World::start_flow`]).
//! Time jumps from event to event, and all randomness derives from one seed, so that a seed replays a run. No
//! clocks, sockets or threads.

mod channel;
mod flow;
pub mod model;
pub mod nat;
mod qlog;
mod rng;
mod world;

pub use channel::{Channel, ETHERNET, Fate, LinkId, Links, Loss, Path};
pub use flow::{Flow, FlowId, HostId, pattern};
pub use rng::Rng;
pub use world::{Attachment, BeaconId, BoxConfig, BoxId, Notice, Place, Stuck, World};
