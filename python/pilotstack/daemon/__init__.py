"""The daemon: one agent's network stack as a process (whitepaper section 4.2)."""
