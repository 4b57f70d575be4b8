"""Requests and responses of our HTTP server. No sockets here."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

#: Headers by which proxies are recognized.
_FORWARDING: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", ""})
_JSON: Final = "application/json"
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose head was read."""

    method: str
    #: Without the query.
    path: str
    query: str = ""
    #: By lower-case name; of a repeated one, the last.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The IP address that the connection comes from.
    address: str = ""
    #: Whether that is this host.
    is_from_here: bool = False

    @property
    def has_local_name(self) -> bool:
        """Whether the client calls this server by a name that only this host has. A site in a
        browser that had its name resolved to this host (DNS rebinding) does not."""
        host = self.headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name.lower() in _LOCAL_NAMES

    @property
    def is_local(self) -> bool:
        """Whether it certainly comes from a program of this host: not by a proxy, and not from a
        browser that was sent here by another name."""
        return self.is_from_here and self.has_local_name and not _FORWARDING & self.headers.keys()

    def argument(self, name: str) -> str:
        """A value of the query; the first, or an empty text."""
        return next(iter(parse_qs(self.query, max_num_fields=16).get(name, ())), "")

    @property
    def token(self) -> str:
        """The secret that it shows (RFC 6750), if it does."""
        given = self.headers.get("authorization", "")
        is_bearer = given[: len(_BEARER)].lower() == _BEARER
        return given[len(_BEARER) :].strip() if is_bearer else ""

    def shows(self, token: str) -> bool:
        """Whether it knows a secret; an empty one is never proven."""
        return bool(token) and hmac.compare_digest(self.token.encode(), token.encode())


class Response:
    """What is answered.

    Args:
        status: the HTTP status.
        body: its bytes.
        content_type: what they are.
        is_shared: pages of other origins may read it.
        headers: further ones.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = _JSON,
        *,
        is_shared: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        if is_shared:
            self.headers["access-control-allow-origin"] = "*"
        self.headers |= headers or {}


class Events(Response):
    """Server-sent events, for as long as the client stays.

    Args:
        source: gives each event's bytes; it is closed when the client leaves.
        is_proven: the client may keep its place when others want it.
    """

    __slots__ = ("is_proven", "source")

    def __init__(self, source: AsyncGenerator[bytes], *, is_proven: bool) -> None:
        super().__init__(200, b"", "text/event-stream")
        self.source = source
        self.is_proven = is_proven


def json_response(status: int, value: object, *, is_shared: bool = False) -> Response:
    """A value as JSON."""
    return Response(status, msgspec.json.encode(value), is_shared=is_shared)


def metrics_response(text: bytes) -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(200, text, _PROMETHEUS)


def event(name: str, data: bytes) -> bytes:
    """The bytes of an event; the data has no line feed."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
