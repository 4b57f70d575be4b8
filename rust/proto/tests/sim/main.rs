//! Connections and nodes in virtual time. A failing seed is printed and replays.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod admission;
mod congestion;
mod connection_limits;
mod counters;
mod flow;
mod hand;
mod hostile;
mod legacy_node;
mod legacy_peers;
mod liveness;
mod loss;
mod memory;
mod migration;
mod nat_net;
mod node;
mod old_relays;
mod outages;
mod pair;
mod parameters;
mod path_changes;
mod paths;
mod paths_direct;
mod paths_predicted;
mod paths_relayed;
mod policy;
mod probes;
mod rng;
mod script;
mod sessions;
mod states;
mod transport;
mod unauthenticated;
