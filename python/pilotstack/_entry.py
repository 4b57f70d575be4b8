"""Entry points of the package's commands.

Each disables tracebacks for Ctrl-C before it imports its command, and the garbage collector, which
would find nothing among imported modules.
"""

from __future__ import annotations

import gc
import sys

from pilotstack import _interrupts


def pilotctl() -> None:
    """``pilotctl``."""
    _begin()
    if sys.argv[1:] == ["--version"]:
        from pilotstack import wellknown

        sys.stdout.write(f"pilotctl, version {wellknown.VERSION}\n")
        return
    from pilotstack.cli import quick

    quick.try_run(sys.argv[1:])
    from pilotstack.cli.main import run

    run()


def pilot_daemon() -> None:
    """``pilot-daemon``."""
    _begin()
    from pilotstack.daemon.main import run

    run()


def pilot_rendezvous() -> None:
    """``pilot-rendezvous``."""
    _begin()
    from pilotstack.registry.main import run_rendezvous

    run_rendezvous()


def pilot_registry() -> None:
    """``pilot-registry``."""
    _begin()
    from pilotstack.registry.main import run_registry

    run_registry()


def pilot_beacon() -> None:
    """``pilot-beacon``."""
    _begin()
    from pilotstack.beacon.main import run

    run()


def pilot_nameserver() -> None:
    """``pilot-nameserver``."""
    _begin()
    from pilotstack.services.nameserver.main import run

    run()


def pilot_gateway() -> None:
    """``pilot-gateway``."""
    _begin()
    from pilotstack.gateway.main import run

    run()


def pilotstack_serve() -> None:
    """``pilotstack-serve``."""
    _begin()
    from pilotstack.services.adapters.main import run

    run()


def _begin() -> None:
    _interrupts.end_process()
    gc.disable()
