"""Which request a payload is: the table of control verbs, for the daemon."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, cast

from pilotstack.errors import InvalidArgument, Unavailable
from pilotstack.ipc import codes, network_requests, requests
from pilotstack.ipc.layout import Request, from_json

if TYPE_CHECKING:
    import msgspec

    AnyRequest = Request[msgspec.Struct]

#: Names of the verbs that have sub-commands, in error messages.
_GROUPS = {codes.HANDSHAKE: "handshake", codes.NETWORK: "network", codes.MANAGED: "managed"}
#: Sub-commands of managed networks, of which this daemon has none.
_NOT_MANAGED = {codes.MANAGED_STATUS, codes.MANAGED_CYCLE, codes.MANAGED_RECONCILE}


@cache
def table() -> dict[tuple[int, int | None], type[AnyRequest]]:
    """Requests by command and sub-command. Those that are told apart by their JSON are left out."""
    found: dict[tuple[int, int | None], type[AnyRequest]] = {}
    for module in (requests, network_requests):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Request) and "command" in vars(kind):
                found[kind.command, kind.sub] = kind
    del found[codes.NETWORK, codes.NETWORK_MANAGE]
    return found


def parse(command: int, payload: bytes) -> AnyRequest:
    """The request of a control frame.

    Raises:
        Unavailable: there is no such verb or sub-command. Existing drivers look for ``unknown
            command`` and ``unknown sub-command`` in the text.
        InvalidArgument: the payload is cut off or malformed.
    """
    sub = None
    if (group := _GROUPS.get(command)) is not None:
        if not payload:
            raise InvalidArgument(f"{group}: missing sub-command")
        sub, payload = payload[0], payload[1:]
        if command == codes.NETWORK and sub == codes.NETWORK_MANAGE:
            kinds = cast("type[AnyRequest]", network_requests.Management)
            return from_json(payload, kinds, group)
        if command == codes.MANAGED and sub in _NOT_MANAGED:
            raise Unavailable("managed: no active managed networks")
    kind = table().get((command, sub))
    if kind is None and group is not None:
        raise Unavailable(f"{group}: unknown sub-command 0x{sub:02X}")
    if kind is None:
        raise Unavailable(f"unknown command: 0x{command:02X}")
    return kind.parse(payload)
