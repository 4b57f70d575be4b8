"""What one source may ask of the registry: token buckets and seats. No clocks here; ``now`` is any
clock that only goes forward, in seconds.

A source is an IPv4 address or an IPv6 /64: whoever has one address of a /64 has them all.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pilotstack.registry import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.messages import Message

#: Sources that are remembered; the ones not heard of for longest go first.
MAX_SOURCES: Final = 1 << 16
#: Refusals, less what was answered, after which a connection is closed rather than answered.
MAX_REFUSALS: Final = 1000
#: Requests that tell something about a node of one's choice, and so serve to list them all.
ENUMERATING: Final = frozenset(
    {
        *("lookup", "resolve", "resolve_hostname", "list_nodes", "punch", "check_trust"),
        *("get_member_role", "get_member_tags", "get_key_info", "get_polo_score"),
    }
)
_V6_PREFIX: Final = 64
#: Lines in the log of one kind that anybody can cause: at once, and per second.
NOTES_BURST: Final = 20.0
NOTES_RATE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed; 0 is no limit."""

    #: Registrations of unknown keys per minute and source, and as many at once (sheet 5).
    registrations: float = 10.0
    #: Requests per second and connection; twice as many at once.
    requests: float = 500.0
    #: Requests of :data:`ENUMERATING` per second and source; ten times as many at once.
    lookups: float = 100.0
    #: Connections at once, of all and of one source.
    connections: int = 20_000
    connections_per_source: int = 2048
    #: Whether this host's own processes are limited too. What comes through a proxy on this host
    #: would share one allowance.
    includes_loopback: bool = False


@lru_cache(maxsize=4096)
def source_of(host: str) -> tuple[str, bool]:
    """The source an IP address belongs to, and whether it is this host."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address), _V6_PREFIX), strict=False)
            return str(network), address.is_loopback
        address = address.ipv4_mapped
    return str(address), address.is_loopback


class Bucket:
    """A token bucket.

    Args:
        rate: tokens per second.
        burst: tokens in a full bucket, and at the start.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Takes a token, if there is one."""
        self._fill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def has(self, now: float) -> bool:
        """Whether there is a token."""
        self._fill(now)
        return self._level >= 1.0

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        self._fill(now)
        return self._level >= self._burst


class Notes:
    """Lines in the log of a kind that anybody can cause."""

    def __init__(self, now: float) -> None:
        self._bucket = Bucket(NOTES_RATE, NOTES_BURST, now)
        self._unlogged = 0

    def take(self, now: float) -> int | None:
        """How many went unlogged before this one; ``None`` if it does, too."""
        if not self._bucket.take(now):
            self._unlogged += 1
            return None
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


class Buckets:
    """A bucket per source, of a bounded number of sources."""

    def __init__(self, rate: float, burst: float, *, limit: int = MAX_SOURCES) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: str, now: float) -> bool:
        """Takes a token of a source, if there is one."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = Bucket(self._rate, self._burst, now)
        else:
            self._buckets.move_to_end(source)
        return bucket.take(now)

    def has(self, source: str, now: float) -> bool:
        """Whether a source has a token left."""
        bucket = self._buckets.get(source)
        return bucket is None or bucket.has(now)

    def sweep(self, now: float) -> None:
        """Forgets the buckets that are full."""
        for source in [s for s, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[source]


class Throttle:
    """Decides whether a request is answered; shared by all connections.

    Args:
        is_known: whether a public key, 32 octets, is registered.
    """

    def __init__(self, limits: Limits, is_known: Callable[[bytes], bool]) -> None:
        self.limits = limits
        self._is_known = is_known
        self._registrations = Buckets(limits.registrations / 60, limits.registrations)
        self._lookups = Buckets(limits.lookups, 10 * limits.lookups)

    def connection(self, host: str, now: float) -> Allowance:
        """What a new connection may ask."""
        return Allowance(self, host, now)

    def is_shared(self, host: str) -> bool:
        """Whether an address stands for whoever comes through a proxy on this host."""
        return self.limits.includes_loopback and source_of(host)[1]

    def sweep(self, now: float) -> None:
        """Forgets sources that have been quiet."""
        self._registrations.sweep(now)
        self._lookups.sweep(now)

    @property
    def sources(self) -> int:
        """Buckets that are kept."""
        return len(self._registrations) + len(self._lookups)

    def refusal(self, source: str, request: Message, now: float) -> str:
        """Why a source's request is refused, or an empty string."""
        kind, limits = messages.text(request, "type"), self.limits
        if kind == "register" and limits.registrations and self._is_new(request):
            buckets, what = self._registrations, "registrations"
        elif limits.lookups and kind in ENUMERATING:
            buckets, what = self._lookups, "lookups"
        else:
            return ""
        return "" if buckets.take(source, now) else f"rate limited: too many {what} from {source}"

    def _is_new(self, request: Message) -> bool:
        try:
            key = messages.decode_base64(messages.text(request, "public_key"), messages.KEY_LEN)
        except ValueError:
            return False
        return not self._is_known(key)


class Allowance:
    """What one connection may ask."""

    __slots__ = ("_bucket", "_is_exempt", "_refusals", "_source", "_throttle")

    def __init__(self, throttle: Throttle, host: str, now: float) -> None:
        limits = throttle.limits
        self._throttle = throttle
        self._source, is_local = source_of(host)
        self._is_exempt = is_local and not limits.includes_loopback
        self._bucket = Bucket(limits.requests, 2 * limits.requests, now)
        self._refusals = 0

    @property
    def is_exempt(self) -> bool:
        """Whether the source is this host, and not limited."""
        return self._is_exempt

    @property
    def is_spent(self) -> bool:
        """Whether the other side takes no notice of refusals."""
        return self._refusals >= MAX_REFUSALS

    def refusal(self, request: Message, now: float) -> str:
        """Why a request is refused, or an empty string."""
        if self._is_exempt:
            return ""
        if self._throttle.limits.requests and not self._bucket.take(now):
            text = "rate limited: too many requests on this connection"
        else:
            text = self._throttle.refusal(self._source, request, now)
        # An answer makes up for one refusal only: a flood gets some answers, too.
        self._refusals = self._refusals + 1 if text else max(0, self._refusals - 1)
        return text
