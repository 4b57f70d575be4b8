"""The registry's server: sockets, limits, HTTP."""
