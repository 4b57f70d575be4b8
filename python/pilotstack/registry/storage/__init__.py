"""Where the registry's state survives."""
