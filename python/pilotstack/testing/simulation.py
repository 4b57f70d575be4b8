"""Networks in virtual time: minutes of a lossy path in milliseconds, the same for the same seed.

::

    from pilotstack.testing.simulation import simulation  # the fixture


    def test_a_transfer_survives_a_bad_path(simulation):
        a, b = simulation.add_host(), simulation.add_host()
        simulation.set_path(a, b, latency=0.05, loss=0.02, rate=1_250_000, queue=100_000)
        simulation.set_path(b, a, latency=0.05)
        transfer = simulation.transfer(a, b, 5_000_000, congestion="bbr")
        simulation.finish()
        assert simulation.stats(transfer)["goodput"] > 900_000

Times are seconds, rates bytes per second, sizes bytes, probabilities between 0 and 1. A path is
one direction; ``burst`` is (probability of a burst's beginning, of its end, of a loss inside) per
datagram. ``jitter`` is at most what each datagram takes longer, so that they overtake each other;
``noise`` delays them before the bottleneck and keeps their order: without it, of two flows that
share one, chance may favour the same again and again. ``mtu`` is the size of the largest datagram
that passes, 0 for any; with ``icmp`` the sender of a larger one is told, without it just vanishes.
Every transfer carries a known pattern, which is verified on arrival.
"""

from __future__ import annotations

import os
import random

import pytest

from pilotstack._core import Simulation

__all__ = ["Simulation", "simulation"]


@pytest.fixture
def simulation() -> Simulation:
    """An empty network. Its seed is ``$PILOT_SIM_SEED``, or a new one that failures show."""
    named = os.environ.get("PILOT_SIM_SEED")
    seed = int(named) if named else random.getrandbits(32)
    print(f"simulation seed {seed}; PILOT_SIM_SEED={seed} replays it")  # noqa: T201
    return Simulation(seed)
