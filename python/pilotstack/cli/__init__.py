"""``pilotctl``: the command line for people and programs."""
