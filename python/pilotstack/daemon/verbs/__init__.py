"""What drivers ask of the daemon over its socket (``docs/reference/protocol/ipc.md``), by topic."""
