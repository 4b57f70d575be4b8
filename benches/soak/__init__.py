"""``make soak``: mixed honest and hostile load, after which nothing may be left behind."""
