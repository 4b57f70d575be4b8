"""What all requests and replies have in common.

A request is a struct that states its name on the wire, its members with their limits, the text that
is signed, whether it only reads, its reply and the codes it is refused with. Members that stand in
:func:`optional_members` are left out of what a client sends while they have their default.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Generic, TypeVar, cast, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pilotstack.registry.protocol.errors import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Marks a member that is not sent while it has its default.
OPTIONAL: Final = Meta(extra={"optional": True})

NodeId = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
NetworkId = Annotated[int, Meta(ge=0, le=0xFFFF)]
Count = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
#: Unix seconds, and numbers of deltas.
Seconds = Annotated[int, Meta(ge=0, le=(1 << 48) - 1)]
Long = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
OptionalText = Annotated[str, OPTIONAL]
OptionalFlag = Annotated[bool, OPTIONAL]
OptionalId = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF, extra={"optional": True})]

#: How a refusal begins that ends with the registry's clock.
NOT_NOW: Final = "signature is not of now: the registry has "
#: Not covered by a signature with a time: signatures, secrets, and what the connection adds.
_UNCOVERED: Final = frozenset(
    {
        *("signature", "signature_at", "admin_token", "token", "network_admin_token"),
        *("cluster", "term", "term_proof"),
    }
)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """An answer. Members with a default are left out while they have it."""


class Refusal(Reply, frozen=True, kw_only=True, omit_defaults=True, tag="error"):
    """The answer to a request that is refused."""

    error: str
    code: str = ""
    #: ``host:port`` of the registry that would not refuse, if a standby knows.
    primary: str = ""


R = TypeVar("R", bound=Reply, covariant=True)


class Request(msgspec.Struct, Generic[R], frozen=True, kw_only=True, tag_field="type"):
    """A question or an order. Members that are absent have their default."""

    #: It changes nothing, so a standby may answer it.
    is_read: ClassVar[bool] = False
    #: It tells something about a node of one's choice, and so serves to list them all.
    is_lookup: ClassVar[bool] = False
    #: The codes it is refused with, beside :data:`~pilotstack.registry.protocol.errors.COMMON`.
    errors: ClassVar[frozenset[Code]] = frozenset[Code]()

    signature: OptionalText = ""
    #: The operator's, or the network's; stands in for a signature.
    admin_token: OptionalText = ""
    #: What the client knows of the registries' cluster and term.
    cluster: OptionalText = ""
    term: OptionalId = 0
    term_proof: OptionalText = ""

    def challenge(self) -> str:
        """The text that ``signature`` signs."""
        return ""


class Asked(Request[R], frozen=True, kw_only=True):
    """A question whose answer may depend on who asks."""

    is_read: ClassVar[bool] = True

    requester_id: OptionalId = 0


class Timed(Request[R], frozen=True, kw_only=True):
    """A request whose signature serves once. With a time, the same can be asked again, and the
    signature covers what else the request says."""

    #: Unix seconds.
    signed_at: Seconds | UnsetType = UNSET
    #: A signature over :meth:`challenge_at`.
    signature_at: OptionalText = ""
    #: Digest of the request as it came; no member on the wire.
    digest: OptionalText = ""

    def challenge_at(self) -> str:
        """The text that ``signature_at`` signs."""
        return f"{self.challenge()}@{self.signed_at}#{self.digest}"


def message_of(request: Request[Reply]) -> dict[str, object]:
    """The members that a client sends."""
    members: dict[str, object] = msgspec.to_builtins(request)
    for name, default in _left_out(type(request)):
        if members.get(name) == default:
            members.pop(name, None)
    members.pop("digest", None)
    return members


@cache
def _left_out(kind: type[Request[Reply]]) -> tuple[tuple[str, object], ...]:
    """Wire names and defaults of the optional members of a request."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return tuple(
        (field.encode_name, msgspec.to_builtins(field.default))
        for field in info.fields
        if isinstance(field.type, msgspec.inspect.Metadata)
        and (field.type.extra or {}).get("optional")
    )


def digest_of(members: Mapping[str, object]) -> str:
    """The SHA-256, in hexadecimal, of a request as JSON with sorted names, without signatures,
    tokens and what connections add."""
    covered = {name: value for name, value in members.items() if name not in _UNCOVERED}
    return hashlib.sha256(msgspec.json.encode(covered, order="sorted")).hexdigest()


def name_of(kind: type[Request[R]]) -> str:
    """The ``type`` of a request on the wire."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def reply_of(kind: type[Request[R]]) -> type[R]:
    """The reply of a request."""
    return cast("type[R]", _reply_of(kind))


@cache
def _reply_of(kind: type[Request[Reply]]) -> type[Reply]:
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    reply: type[Reply]
    (reply,) = get_args(base)
    return reply
