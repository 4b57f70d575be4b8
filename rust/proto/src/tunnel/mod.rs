//! One peer: key exchange, session, path and liveness (whitepaper section 5).
