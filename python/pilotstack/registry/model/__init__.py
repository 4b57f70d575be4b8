"""What the registry knows: rows, tables and what else is decided by."""
