//! Throughput, fairness and recovery of whole nodes over long paths, in virtual time.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fairness;
mod limits;
mod table;
