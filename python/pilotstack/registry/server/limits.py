"""Rate limits per source and connection. No clocks here; ``now`` is any clock that only goes
forward, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pilotstack._resolving import source_of
from pilotstack.registry.model.budgets import Bucket, Buckets
from pilotstack.registry.protocol import values
from pilotstack.registry.protocol.requests.identity import Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.registry.protocol.requests.base import Reply, Request

#: Refusals minus answers at which a connection is closed.
MAX_REFUSALS: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's limits; 0 is no limit."""

    #: Registrations of unknown keys per minute and source; as many in a burst.
    registrations: float = 10.0
    #: Requests per second and connection; twice as many in a burst.
    requests: float = 500.0
    #: Requests that count as lookups, per second and source; ten times as many in a burst.
    lookups: float = 100.0
    #: Simultaneous connections, in total and of one source.
    connections: int = 20_000
    connections_per_source: int = 2048
    #: Limit loopback connections, too. All that come through a proxy on this host share one limit.
    includes_loopback: bool = False


class Throttle:
    """Decides whether a request is answered; shared by all connections.

    Args:
        is_known: whether a public key, 32 bytes, is registered.
    """

    def __init__(self, limits: Limits, is_known: Callable[[bytes], bool]) -> None:
        self.limits = limits
        self._is_known = is_known
        self._registrations = Buckets(limits.registrations / 60, limits.registrations)
        self._lookups = Buckets(limits.lookups, 10 * limits.lookups)

    def connection(self, host: str, now: float) -> Allowance:
        """The limits of a new connection."""
        return Allowance(self, host, now)

    def is_shared(self, host: str) -> bool:
        """Whether an address is that of a proxy on this host, shared by many clients."""
        return self.limits.includes_loopback and source_of(host)[1]

    def sweep(self, now: float) -> None:
        """Drops the sources whose buckets have refilled."""
        self._registrations.sweep(now)
        self._lookups.sweep(now)

    @property
    def sources(self) -> int:
        """Number of buckets."""
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
    """The limits of one connection."""

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
        """Whether the source is this host and not limited."""
        return self._is_exempt

    @property
    def is_spent(self) -> bool:
        """Whether the client keeps sending in spite of refusals."""
        return self._refusals >= MAX_REFUSALS

    def refusal(self, request: Request[Reply], now: float) -> str:
        """Why a request is refused, or an empty string."""
        if self._is_exempt:
            return ""
        if self._throttle.limits.requests and not self._bucket.take(now):
            text = "rate limited: too many requests on this connection"
        else:
            text = self._throttle.refusal(self._source, request, now)
        # An answer makes up for only one refusal, since a flood gets some answers as well.
        self._refusals = self._refusals + 1 if text else max(0, self._refusals - 1)
        return text
