"""What requests do to the state, as pure functions."""
