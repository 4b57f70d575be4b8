"""``python -m pilotstack`` is ``pilotctl``."""

from pilotstack._entry import pilotctl

if __name__ == "__main__":
    pilotctl()
