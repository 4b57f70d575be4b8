"""The gateway between the overlay and IP: programs that know nothing of it reach agents."""
