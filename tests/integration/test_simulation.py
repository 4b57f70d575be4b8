"""The simulator as users drive it from pytest."""

from __future__ import annotations

import pytest

from pilotstack.errors import NotFound
from pilotstack.testing.simulation import Simulation, simulation

__all__ = ["simulation"]


def pair(simulation: Simulation, **path: float | bool) -> tuple[int, int]:
    a, b = simulation.add_host(), simulation.add_host()
    simulation.set_path(a, b, **path)  # type: ignore[arg-type]
    simulation.set_path(b, a, latency=path.get("latency", 0.0))
    return a, b


def test_a_transfer_survives_a_bad_path(simulation: Simulation) -> None:
    a, b = pair(simulation, latency=0.05, loss=0.02, rate=1_250_000, queue=125_000)
    transfer = simulation.transfer(a, b, 5_000_000, congestion="bbr")
    simulation.finish()
    stats = simulation.stats(transfer)
    assert stats["received"] == 5_000_000
    assert stats["goodput"] > 800_000
    assert stats["retransmissions"] > 0


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[float, dict[str, object]]:
        simulation = Simulation(7)
        a, b = pair(simulation, latency=0.02, burst=(0.01, 0.3, 0.9), jitter=0.002)  # type: ignore[arg-type]
        transfer = simulation.transfer(a, b, 300_000, echo=True)
        simulation.finish()
        return simulation.now, simulation.stats(transfer)

    assert run() == run()


def test_a_crash_breaks_a_transfer_with_a_reason(simulation: Simulation) -> None:
    a, b = pair(simulation, latency=0.01)
    transfer = simulation.transfer(a, b, 1 << 40)
    simulation.run(1.0)
    simulation.restart(b)
    # A new connection makes a new tunnel, under which the old one is known to be gone.
    simulation.transfer(a, b, 10)
    simulation.run(60.0)
    assert simulation.stats(transfer)["closed"] == "PeerRestarted"


@pytest.mark.parametrize(("icmp", "segment"), [(True, 1200), (False, 1152)])
def test_a_router_that_tells_its_mtu_is_filled_and_a_silent_one_is_not(
    simulation: Simulation, icmp: bool, segment: int
) -> None:
    a, b = pair(simulation, latency=0.01, mtu=1270, icmp=icmp)
    transfer = simulation.transfer(a, b, 5_000_000)
    simulation.finish()
    stats = simulation.stats(transfer)
    assert (stats["max_segment"], stats["retransmissions"]) == (segment, 0)


def test_noise_delays_and_keeps_the_order() -> None:
    def run(**path: float) -> tuple[float, dict[str, object]]:
        simulation = Simulation(7)
        a, b = pair(simulation, latency=0.02, **path)
        transfer = simulation.transfer(a, b, 300_000)
        simulation.finish()
        return simulation.now, simulation.stats(transfer)

    quiet, noisy, jittery = run(), run(noise=0.05), run(jitter=0.05)
    assert noisy[0] > quiet[0]
    assert noisy[1]["retransmissions"] == 0
    assert jittery[1]["retransmissions"] != 0


def test_a_partition_that_does_not_heal_is_an_error_not_a_hang(simulation: Simulation) -> None:
    a, b = pair(simulation, latency=0.01)
    simulation.partition(a, b, True)
    transfer = simulation.transfer(a, b, 10)
    simulation.finish(limit=120)
    assert simulation.stats(transfer)["closed"] == "Unreachable"


@pytest.mark.parametrize("path", [{"loss": 2.0}, {"latency": -1.0}, {"loss": float("nan")}])
def test_invalid_arguments_are_refused(simulation: Simulation, path: dict[str, float]) -> None:
    simulation.add_host()
    with pytest.raises(ValueError, match=r"loss|latency"):
        simulation.set_path(0, 0, **path)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        simulation.set_path(0, 5)
