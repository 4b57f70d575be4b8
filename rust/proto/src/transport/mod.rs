//! One connection: the RFC 9293 state machine with the whitepaper section 4.3 parameters.
