//! Byte queues, reassembly and rate limiting; no protocol knowledge.
//!
//! Queues hold data in chunks that are recycled while data flows and given back when it stops, so a
//! bulk flow stays in cache and an idle connection holds no buffer at all.

pub mod assembler;
pub mod pace;
pub mod recv_queue;
pub mod send_queue;
pub mod token_bucket;

/// Bytes of the first chunk of an empty queue.
const SMALL_CHUNK: usize = 4 * 1024;
/// Bytes of a chunk while a queue is not empty.
const LARGE_CHUNK: usize = 64 * 1024;
