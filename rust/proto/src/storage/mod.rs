//! Octet queues, reassembly, range sets and rate limiting; no protocol knowledge.
