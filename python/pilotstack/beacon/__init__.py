"""The beacon: tells nodes their public endpoint, and that something waits for them at the registry
(``docs/reference/protocol/beacon.md``). A thread of the core serves its datagrams; this package
starts and stops that thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack import _resolving, _serving
from pilotstack._core import BeaconServer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType


class Beacon:
    """A running beacon; a context manager that stops it.

    Args:
        listen: ``host:port`` or ``:port``; port 0 means any.

    Raises:
        OSError: the address cannot be bound.
        InvalidArgument: it is malformed.
    """

    def __init__(self, listen: str) -> None:
        host, port = _serving.split_address(listen, default_host=_resolving.any_host())
        try:
            self._server = BeaconServer(_serving.join_address(host, port))
        except OSError as error:
            raise _serving.bind_error("UDP", host, port, error) from error

    @property
    def address(self) -> str:
        """The address that is bound."""
        return _serving.join_address(*self._server.local_addr())

    def notify(self, nodes: Iterable[int]) -> None:
        """Tells nodes that have asked this beacon lately that a message waits for them at the
        registry. The datagrams may be lost."""
        self._server.notify(list(nodes))

    def __enter__(self) -> Beacon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()
