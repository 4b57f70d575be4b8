"""Host names and routes: cancellable lookups, connections by RFC 8305, source addresses, and the
sources that limits are for."""

from __future__ import annotations

import ipaddress
import itertools
import socket as sockets
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Final

import anyio
import anyio.abc

from pilotstack.errors import InvalidArgument

#: Names that are looked up at once. Each has a thread, which lives as long as the system's resolver
#: takes.
MAX_LOOKUPS: Final = 16
#: Seconds before the next address of a host is tried (RFC 8305, 8).
ATTEMPT_DELAY: Final = 0.25
_MAX_NAME: Final = 253
#: Bits of an IPv6 network of which a host with one address can use them all.
_V6_PREFIX: Final = 64
#: Port for questions about routes; nothing is sent there.
_DISCARD: Final = 9


def check_host(host: str) -> str:
    """The host, if it is an IP address or a name that can be looked up.

    Raises:
        InvalidArgument: it is neither.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        _check_name(host)
    return host


def _check_name(name: str) -> None:
    try:
        is_name = 0 < len(name.encode("idna")) <= _MAX_NAME
    except UnicodeError:
        is_name = False
    if not is_name or not name.isprintable() or any(c in name for c in " []:/@\\%"):
        raise InvalidArgument(
            f"not a host: {name[:80]!r}",
            hint="a host is an IP address or a name whose parts have 1 to 63 characters",
        )


class _Lookup:
    """A lookup by the system's resolver, shared by all who wait for the same name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[str] = []
        self.error: OSError | None = None
        self.is_done = False
        self._wakes: list[sockets.socket] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            rows = sockets.getaddrinfo(self.name, None, type=sockets.SOCK_DGRAM)
            self.found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        except OSError as error:
            self.error = error
        except ValueError as error:
            self.error = sockets.gaierror(str(error))
        with _lookups_lock:
            _lookups.pop(self.name, None)
        with self._lock:
            self.is_done = True
            for wake in self._wakes:
                with suppress(OSError):
                    wake.send(b"\0")

    async def wait(self) -> None:
        ours, theirs = sockets.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        try:
            with self._lock:
                if self.is_done:
                    return
                self._wakes.append(theirs)
            await anyio.wait_readable(ours)
        finally:
            with self._lock, suppress(ValueError):
                self._wakes.remove(theirs)
            ours.close()
            theirs.close()


_lookups: dict[str, _Lookup] = {}
_lookups_lock = threading.Lock()


async def resolve(host: str) -> list[str]:
    """The IP addresses of a host, in the system's order of preference (RFC 6724). Cancellation
    takes effect at once, though the resolver goes on in its thread.

    Raises:
        OSError: there is none, or too many names are being looked up.
    """
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    with _lookups_lock:
        lookup = _lookups.get(host)
        if lookup is None:
            if len(_lookups) >= MAX_LOOKUPS:
                raise sockets.gaierror(f"too many names are being looked up besides {host!r}")
            lookup = _Lookup(host)
            # A daemon thread: the process may exit while the resolver still waits.
            thread = threading.Thread(target=lookup.run, name="pilot-resolver", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise sockets.gaierror(f"{host!r} cannot be looked up: {error}") from error
            # The thread takes the entry away, and waits for the lock to do so.
            _lookups[host] = lookup
    await lookup.wait()
    if lookup.error is not None:
        raise lookup.error
    return lookup.found


async def connect_tcp(host: str, port: int) -> anyio.abc.SocketStream:
    """A connection to the first address of a host that answers. An attempt starts when the one
    before has failed or :data:`ATTEMPT_DELAY` has passed (RFC 8305).

    Raises:
        OSError: all attempts failed.
    """
    found: list[anyio.abc.SocketStream] = []
    failures: list[OSError] = []

    async def attempt(address: str, failed: anyio.Event) -> None:
        try:
            stream = await anyio.connect_tcp(address, port)
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            found.append(stream)
            tasks.cancel_scope.cancel()

    try:
        addresses = _alternating(await resolve(host))
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(ATTEMPT_DELAY):
                    await failed.wait()
        if found:
            return found.pop(0)
    finally:
        for late in found:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(late)
    if len(failures) == 1:
        raise failures[0]
    raise OSError(f"no address of {host} answers") from ExceptionGroup("attempts", failures)


def _alternating(addresses: list[str]) -> list[str]:
    """Addresses of both families in turn, starting with the first one's (RFC 8305, section 4)."""
    first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
    second = [a for a in addresses if a not in first]
    pairs = itertools.zip_longest(first, second)
    return [address for pair in pairs for address in pair if address is not None]


def source_towards(address: str) -> str | None:
    """The source address of datagrams from this host to an IP address; ``None`` without a route.
    Nothing is sent."""
    family = sockets.AF_INET6 if ":" in address else sockets.AF_INET
    try:
        with sockets.socket(family, sockets.SOCK_DGRAM) as probe:
            probe.connect((address, _DISCARD))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _has_dual_stack() -> bool:
    """Whether one socket can serve IPv6 and IPv4."""
    try:
        with sockets.socket(sockets.AF_INET6, sockets.SOCK_DGRAM) as probe:
            probe.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def any_host() -> str:
    """The address that a server binds if only a port is given: every address of both families, or
    of IPv4 on a host without IPv6."""
    return "::" if _has_dual_stack() else "0.0.0.0"


def canonical(address: str) -> str:
    """The address, with an IPv4-mapped IPv6 address as IPv4."""
    with suppress(ValueError):
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
    return address


@lru_cache(maxsize=4096)
def source_of(host: str) -> tuple[str, bool]:
    """The source that an IP address belongs to, an IPv4 address or an IPv6 /64, and whether it is
    this host."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address), _V6_PREFIX), strict=False)
            return str(network), address.is_loopback
        address = address.ipv4_mapped
    return str(address), address.is_loopback
