"""Replication: standbys that follow a primary, and promotion."""
