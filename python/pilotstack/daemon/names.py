"""Hostnames that drivers dial, remembered for a moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pilotstack.daemon.records import OUTAGE
from pilotstack.daemon.replies import answer_of
from pilotstack.errors import ConnectionFailed, NotFound
from pilotstack.ipc.answers import Resolved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pilotstack.registry.client import RegistryClient
    from pilotstack.types import Address

#: Seconds for which a resolved name is taken from memory. A registry that was restored may name
#: another node, and nobody tells us of that.
CACHE: Final = 2.0
_MAX_CACHED: Final = 4096
_NOWHERE: Final = (
    "check the spelling; a node that deregisters loses its name, and names of the nameserver last "
    "for five minutes"
)


class Names:
    """Names that the registry resolved.

    Args:
        registry: whom to ask.
        others: asked for names that the registry does not know.
    """

    def __init__(
        self,
        registry: RegistryClient,
        others: Callable[[str], Awaitable[Address | None]] | None = None,
    ) -> None:
        self._registry = registry
        self._others = others
        self._found: dict[str, tuple[float, Resolved]] = {}

    async def resolve(self, name: str) -> Resolved:
        """The node behind a name. Tunnels outlive an outage of the registry, and so do the names
        of their ends.

        Raises:
            NotFound: nobody has the name.
            ConnectionFailed: no registry answers, and the name was not resolved lately.
        """
        now = time.monotonic()
        until, known = self._found.get(name, (0.0, None))
        if known is not None and now < until:
            return known
        try:
            found = answer_of(Resolved, await self._registry.resolve_hostname(name))
        except ConnectionFailed:
            if known is None or now - until > OUTAGE:
                raise
            return known
        except NotFound as error:
            if self._others is None:
                raise
            address = await self._others(name)
            if address is None:
                raise NotFound(error.message, hint=_NOWHERE) from error
            found = Resolved(address.node, address, hostname=name)
        if len(self._found) >= _MAX_CACHED:
            self._found.clear()
        self._found[name] = (now + CACHE, found)
        return found

    async def hostname(self, name: str) -> Address | None:
        """The node with a hostname at the registry, which alone is asked.

        Raises:
            ConnectionFailed: no registry answers.
        """
        try:
            found = answer_of(Resolved, await self._registry.resolve_hostname(name))
        except NotFound:
            return None
        return found.address

    def forget(self) -> None:
        """Asks the registry again: it may have been emptied or restored."""
        self._found.clear()
