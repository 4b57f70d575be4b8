"""Which beacons a node announces itself to: those of its settings, then those that its registry
lists. The first that answers is its home; that is the core's choice
(``docs/reference/protocol/beacon.md``)."""

from __future__ import annotations

import hashlib
import ipaddress
import random
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from pilotstack import _events, _files, _interfaces, _resolving, _serving
from pilotstack.errors import InvalidArgument, PilotError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

log = _events.get_logger(__name__)

#: Seconds between two requests for the registry's list, and what is added at random.
REFRESH: Final = 60.0
JITTER: Final = 10.0
#: Beacons in all, and addresses of one in each family.
MAX_BEACONS: Final = 8
MAX_ADDRESSES: Final = 2
#: Seconds for a name lookup.
_RESOLVING: Final = 5.0
_MAX_FILE: Final = 1 << 14


def parse_beacons(text: str) -> tuple[str, ...]:
    """Beacons of ``host:port,host:port``; none of an empty text.

    Raises:
        InvalidArgument: there are too many, or one is no address.
    """
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(parts) > MAX_BEACONS:
        raise InvalidArgument(f"{len(parts)} beacons; at most {MAX_BEACONS} can be used")
    for part in parts:
        _serving.split_address(part)
    return parts


class Beacons:
    """The beacons of one node, in the order of preference.

    Args:
        configured: those of its settings, ``host:port`` each. Without any there are none at all.
        fetch: asks the registry for its list.
        registry: host of the registry. Only one on a private network may list private addresses.
        key: the node's public key, by which nodes spread over the listed beacons.
        path: file of the last list; ``None`` to store nothing.
    """

    def __init__(
        self,
        configured: Sequence[str],
        fetch: Callable[[], Awaitable[Iterable[str]]],
        registry: Callable[[], str],
        key: bytes,
        path: Path | None,
    ) -> None:
        self.configured = tuple(configured)
        self._fetch = fetch
        self._registry = registry
        self._key = key
        self._path = path
        self._listed = self._chosen(self._load()) if self.configured else ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of each."""
        return tuple(dict.fromkeys((*self.configured, *self._listed)))[:MAX_BEACONS]

    async def refresh(self) -> bool:
        """Asks the registry for its list; returns whether that changed anything. A list that does
        not arrive, or is empty, leaves the last one in use."""
        if not self.configured:
            return False
        try:
            listed = list(await self._fetch())
        except PilotError as error:
            log.debug("no_beacon_list", error=error.message)
            return False
        before = self.addresses
        chosen = self._chosen(listed)
        if chosen and chosen != self._listed:
            self._listed = chosen
            self._save()
        return self.addresses != before

    @_serving.endless
    async def keep(self, changed: Callable[[], None]) -> None:
        """Follows the registry's list until cancelled.

        Args:
            changed: called when there are other beacons than before.
        """
        if not self.configured:
            await anyio.sleep_forever()
            return
        while True:
            if await self.refresh():
                log.info("beacons_changed", beacons=list(self.addresses))
                changed()
            await anyio.sleep(REFRESH + random.uniform(0, JITTER))

    async def endpoints(self, may_send_to: Callable[[str], bool]) -> list[str]:
        """Addresses of all beacons whose names can be resolved now, in the order of preference.

        Args:
            may_send_to: whether this host can send to an address.
        """
        found: dict[str, list[str]] = {}

        async def look_up(address: str) -> None:
            found[address] = await addresses_of(address, may_send_to)

        addresses = self.addresses
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                tasks.start_soon(look_up, address)
        return list(dict.fromkeys(each for address in addresses for each in found[address]))

    def _chosen(self, listed: Iterable[str]) -> tuple[str, ...]:
        """The usable ones of a list, in an order of this node's own (rendezvous hashing), so that
        nodes spread over the beacons and few move when one is added."""
        is_site_local = not _is_global(self._registry())
        usable = {text for text in listed if _is_beacon(text, may_be_local=is_site_local)} - set(
            self.configured
        )
        weigh = lambda text: hashlib.sha256(self._key + text.encode()).digest()  # noqa: E731
        return tuple(sorted(usable, key=weigh))[:MAX_BEACONS]

    def _load(self) -> list[str]:
        if self._path is None:
            return []
        try:
            data = _files.read_regular(self._path, _MAX_FILE)
            return msgspec.json.decode(data, type=_Stored).beacons
        except (OSError, msgspec.DecodeError, RecursionError):
            return []

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            _files.replace(self._path, [msgspec.json.encode(_Stored(list(self._listed)))])
        except OSError as error:
            log.warning("beacons_not_stored", path=str(self._path), error=str(error))


class _Stored(msgspec.Struct):
    """The content of the file."""

    beacons: list[str]


def _is_beacon(text: str, *, may_be_local: bool) -> bool:
    try:
        host, port = _serving.split_address(text)
    except InvalidArgument:
        return False
    return bool(port) and (may_be_local or _is_global(host))


def _is_global(host: str) -> bool:
    """Whether a host is on the public internet; names are taken for that."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost"
    return not (address.is_loopback or address.is_link_local or _interfaces.is_site_local(address))


async def addresses_of(text: str, may_send_to: Callable[[str], bool]) -> list[str]:
    """``address:port`` of a beacon, in the system's order of preference; empty if its name cannot
    be resolved now."""
    host, port = _serving.split_address(text)
    found: list[str] = []
    with anyio.move_on_after(_RESOLVING):
        try:
            found = await _resolving.resolve(host)
        except OSError as error:
            log.debug("not_resolved", host=host, error=str(error))
    usable = [address for address in found if may_send_to(address)]
    v6 = [address for address in usable if ":" in address][:MAX_ADDRESSES]
    v4 = [address for address in usable if ":" not in address][:MAX_ADDRESSES]
    return [_serving.join_address(each, port) for each in usable if each in v6 or each in v4]
