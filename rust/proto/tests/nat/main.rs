//! Whole nodes behind NAT boxes, firewalls and beacons, in virtual time.
//!
//! `SIM_SEEDS` says how many networks each property is tried on; a failing one is printed and replays with
//! `SIM_SEED`. Many are for release mode: `SIM_SEEDS=10000 cargo test --release -p pilot-proto --test nat`.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "tests")]

mod changes;
mod figures;
mod moves;
mod oracle;
mod reach;
mod scenario;
mod seeds;
mod silence;
mod storm;
mod table;
