"""Reads requests: strictly as their types say, and leniently what is not so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Union

import msgspec

from pilotstack.registry.protocol import framing, lenient, values
from pilotstack.registry.protocol.requests import (
    bans,
    beacons,
    directory,
    identity,
    keys,
    members,
    networks,
    replication,
    trust,
)
from pilotstack.registry.protocol.requests.base import (
    Reply,
    Request,
    Timed,
    digest_of,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: By name.
REQUESTS: Final[dict[str, type[Request[Reply]]]] = {
    name_of(kind): kind
    for module in (identity, directory, trust, networks, members, keys, bans, beacons, replication)
    for kind in module.REQUESTS
}


class Unknown(Request[Reply], frozen=True, kw_only=True, tag=""):
    """A request that this registry does not know."""

    #: Its name.
    kind: str = ""


_decode: Callable[[bytes], Request[Reply]] = msgspec.json.Decoder(
    Union[tuple(REQUESTS.values())]  # noqa: UP007
).decode


def decode(body: bytes) -> Request[Reply]:
    """The request of a frame's body. One that is not as its type says is read leniently.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return from_message(framing.decode(body))
    if isinstance(request, Timed):
        members = framing.decode(body) if request.signed_at is not msgspec.UNSET else None
        return _digested(request, members)
    return request


def from_message(message: Mapping[str, object]) -> Request[Reply]:
    """The request of a JSON object."""
    name = values.text(message, "type")
    kind = REQUESTS.get(name)
    if kind is None:
        return Unknown(kind=name)
    request = lenient.convert(message, kind)
    return _digested(request, message) if isinstance(request, Timed) else request


def _digested(request: Timed[Reply], members: Mapping[str, object] | None) -> Timed[Reply]:
    """A request with the digest of what came, which nobody else sets."""
    digest = "" if members is None or request.signed_at is msgspec.UNSET else digest_of(members)
    if request.digest == digest:
        return request
    return msgspec.structs.replace(request, digest=digest)
