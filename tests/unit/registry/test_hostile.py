"""Hostile frames end only their own connection; those of a primary leave a state that can be
stored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import hostile

if TYPE_CHECKING:
    from collections.abc import Sequence

#: ``make fuzz-registry`` runs the same for as long as it is told.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(hostile.STREAMS, min_size=1, max_size=4))
def test_hostile_frames_end_only_their_connection(
    connections: Sequence[Sequence[bytes]],
) -> None:
    anyio.run(hostile.Target().attack, connections)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile.PRIMARY)
def test_hostile_frames_of_a_primary_leave_a_state_that_can_be_stored(
    frames: Sequence[dict[str, Any]],
) -> None:
    anyio.run(hostile.follow, frames)
