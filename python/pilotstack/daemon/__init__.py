"""The daemon: one agent's network stack as a process (``docs/reference/daemon.md``)."""
