"""Messages between registries and their clients."""
