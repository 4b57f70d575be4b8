//! Sans-IO core of the Pilot overlay network stack (`docs/reference/protocol`).
//!
//! Layers, each of which may use only those above it in this list:
//!
//! | module | what it is | what it must not do |
//! |---|---|---|
//! | [`time`], [`config`] | points in time as integers; every tunable with unit and source | read a clock |
//! | [`trace`] | bounded queues of trace events | call back into their reader |
//! | [`wire`] | bytes to typed values and back | keep state |
//! | [`storage`] | byte queues, reassembly, ranges, token bucket | know a protocol |
//! | [`crypto`] | identity, key agreement, AEAD, replay windows | know peers |
//! | [`tunnel`] | one peer: handshake, session, path | know streams |
//! | [`transport`] | one connection: RFC 9293 state machine and its timers | know tunnels or UDP |
//! | [`node`] | the facade: demultiplexing, ports, limits, commands, events | touch a socket |
//! | [`qlog`] | trace records as qlog text | write files |
//! | [`beacon`] | the server that nodes meet at: endpoints, hole punching, relay | open relayed frames |
//!
//! Nothing here opens a socket, reads a clock or draws a random number: time and seeds are
//! arguments, and the same inputs give the same output bytes.
#![forbid(unsafe_code)]

pub mod beacon;
pub mod config;
mod counters;
pub mod crypto;
pub mod node;
pub mod qlog;
pub mod storage;
pub mod time;
pub mod trace;
pub mod transport;
pub mod tunnel;
pub mod wire;
