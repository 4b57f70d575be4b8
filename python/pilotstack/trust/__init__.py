"""Trust between nodes: the handshake of port 444 and its relay (whitepaper section 5)."""
