"""What requests do to the state, and what expires: pure functions."""
