//! The IO shell: one thread that owns the sockets, the clock and the `Node`.
