"""How several registries keep the same state."""
