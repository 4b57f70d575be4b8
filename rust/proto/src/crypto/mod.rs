//! Identity, key agreement, sealing and replay protection (whitepaper section 5).
