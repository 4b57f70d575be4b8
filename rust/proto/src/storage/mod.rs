//! Byte queues, reassembly and rate limiters, without knowledge of any protocol.
//!
//! Queues store data in chunks that are recycled while data flows and freed when it stops: a bulk transfer
//! stays in cache, and an idle connection holds no buffer.

pub mod assembler;
pub mod pace;
pub mod recv_queue;
pub mod send_queue;
pub mod token_bucket;

/// Size of the first chunk of an empty queue, bytes.
const SMALL_CHUNK: usize = 4 * 1024;
/// Size of further chunks, bytes.
const LARGE_CHUNK: usize = 64 * 1024;
