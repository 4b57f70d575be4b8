//! Connections and nodes in virtual time. A failing seed is printed and replays.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod admission;
mod congestion;
mod counters;
mod flow;
mod hand;
mod hostile;
mod liveness;
mod loss;
mod memory;
mod moved;
mod node;
mod old_node;
mod old_peers;
mod pair;
mod parameters;
mod paths;
mod patience;
mod places;
mod probes;
mod rng;
mod script;
mod sessions;
mod states;
mod strangers;
mod transport;
