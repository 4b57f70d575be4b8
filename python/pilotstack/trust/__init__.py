"""Trust between nodes: the handshake of port 444 and its relay (``docs/explanation/trust.md``)."""
