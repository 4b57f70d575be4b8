"""Durable storage of the registry's state."""
