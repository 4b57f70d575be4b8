"""What one source may ask of the registry: token buckets and seats. No clocks here; ``now`` is any
clock that only goes forward, in seconds.

A source is an IPv4 address or an IPv6 /64: whoever has one address of a /64 has them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.budgets import Bucket, Buckets
from pilotstack.registry.model.source import source_of
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.identity import Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.protocol.requests.base import Reply, Request

#: Refusals, less what was answered, after which a connection is closed rather than answered.
MAX_REFUSALS: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed; 0 is no limit."""

    #: Registrations of unknown keys per minute and source, and as many at once (sheet 5).
    registrations: float = 10.0
    #: Requests per second and connection; twice as many at once.
    requests: float = 500.0
    #: Requests that count as lookups, per second and source; ten times as many at once.
    lookups: float = 100.0
    #: Connections at once, of all and of one source.
    connections: int = 20_000
    connections_per_source: int = 2048
    #: Whether this host's own processes are limited too. What comes through a proxy on this host
    #: would share one allowance.
    includes_loopback: bool = False


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

    def refusal(self, source: str, request: Request[Reply], now: float) -> str:
        """Why a source's request is refused, or an empty string."""
        limits = self.limits
        if isinstance(request, Register) and limits.registrations and self._is_new(request):
            buckets, what = self._registrations, "registrations"
        elif limits.lookups and request.is_lookup:
            buckets, what = self._lookups, "lookups"
        else:
            return ""
        return "" if buckets.take(source, now) else f"rate limited: too many {what} from {source}"

    def _is_new(self, request: Register) -> bool:
        try:
            key = values.decode_base64(request.public_key, values.KEY_LEN)
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

    def refusal(self, request: Request[Reply], now: float) -> str:
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
