"""Who owns the other end of a connection."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from pilotstack.errors import InvalidArgument
from pilotstack.gateway.guard import owner, parse_uids


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no such table")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_whose_a_connection_is(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as listening,
        socket.create_connection(listening.getsockname()[:2]) as client,
        listening.accept()[0] as accepted,
    ):
        peer, own = client.getsockname()[:2], accepted.getsockname()[:2]
        assert owner(peer, own) == os.geteuid()
        assert owner(own, peer) == os.geteuid()
    assert owner((host, 1), (host, 2)) is None


def test_user_ids_are_numbers() -> None:
    assert parse_uids("") == ()
    assert parse_uids("0, 1000") == (0, 1000)
    for bad in ("root", "-1", "1,", "99999999999", "4294967295", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(InvalidArgument):
            parse_uids(bad)
