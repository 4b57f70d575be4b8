"""``make soak``: mixed honest and hostile load, then a check for leaks."""
