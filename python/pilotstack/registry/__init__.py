"""The registry: who has which address, key, name and endpoint (whitepaper section 4.1)."""
