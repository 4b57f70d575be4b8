//! Throughput, fairness and recovery of whole nodes over long paths, in virtual time.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod any_network;
mod fairness;
mod limits;
mod model;
mod narrow;
mod path_mtu;
mod restart;
mod table;
