"""What drivers ask of the daemon over its socket (``docs/reference/ipc.md``), by topic."""
