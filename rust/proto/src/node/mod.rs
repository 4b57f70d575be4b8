//! The facade that joins tunnels and connections: demultiplexing, ports, limits, events.
