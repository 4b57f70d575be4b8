"""The registry: who has which address, key, name and endpoint."""
