"""Waiting for what one agent does to have reached another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotstack import sync


def until_asked(driver: sync.Driver, node: int) -> None:
    """Returns when a node's request for trust is there."""
    while all(row.node_id != node for row in driver.pending()):
        pass


def until_trusted(driver: sync.Driver, peer: str) -> None:
    """Returns when the daemon knows of the trust in a peer."""
    assert driver.wait_for_trust(peer), f"no trust in {peer}"
