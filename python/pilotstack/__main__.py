"""``python -m pilotstack`` is ``pilotctl``."""

from pilotstack.cli.main import run

if __name__ == "__main__":
    run()
