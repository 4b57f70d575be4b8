"""Requests and replies of the nameserver as text (docs/reference/protocol/services/names.md).

Errors are told in the words of existing servers, which existing clients show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pilotstack.errors import (
    AlreadyExists,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotError,
    Unavailable,
)
from pilotstack.services.nameserver.records import (
    MAX_NAME,
    Kind,
    NameRecord,
    NetworkRecord,
    Record,
    ServiceRecord,
    normal,
)
from pilotstack.types import Address

__all__ = [
    "List",
    "Query",
    "QueryServices",
    "Refused",
    "Register",
    "Reply",
    "Request",
    "Unregister",
    "parse_records",
    "parse_reply",
    "parse_request",
    "request_line",
]

#: Bytes of a request, and of a reply.
MAX_REQUEST: Final = 4096
MAX_REPLY: Final = 1 << 20
_MAX_U16: Final = 0xFFFF
#: Digits that a number may have before it is said to be out of range.
_MAX_DIGITS: Final = 20
#: Tokens of each request, the command and the type included; what follows them.
_SHAPES: Final = {
    ("QUERY", "A"): (3, "<name>"),
    ("QUERY", "N"): (3, "<name>"),
    ("QUERY", "S"): (4, "<net_id> <port>"),
    ("REGISTER", "A"): (4, "<name> <address>"),
    ("REGISTER", "N"): (4, "<name> <net_id>"),
    ("REGISTER", "S"): (6, "<name> <address> <net_id> <port>"),
    ("UNREGISTER", "A"): (3, "<name>"),
    ("UNREGISTER", "N"): (3, "<name>"),
    ("UNREGISTER", "S"): (5, "<name> <net_id> <port>"),
}
_COMMANDS: Final = {command for command, _ in _SHAPES}


class Refused(Exception):
    """A request that is answered by ``ERR``; the message is its text."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is behind a name; ``kind`` is A or N."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class QueryServices:
    """Who offers a port in a network."""

    network: int
    port: int


@dataclass(frozen=True, slots=True)
class Register:
    """Takes a record, or keeps it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Unregister:
    """Gives a record up. ``network`` and ``port`` are those of a service."""

    kind: Kind
    name: str
    network: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class List:
    """The records of the node that asks."""


Request = Query | QueryServices | Register | Unregister | List


def parse_request(text: str) -> Request:
    """Reads a request, in any case and with any blanks.

    Raises:
        Refused: it is none.
    """
    tokens = text.split()
    command = tokens[0].upper() if tokens else ""
    if command == "LIST":
        if len(tokens) > 1:
            raise Refused(f"too many fields ({len(tokens)} > 1)")
        return List()
    if len(tokens) < 3 and not (len(tokens) == 2 and command in _COMMANDS):
        raise Refused("too few fields")
    kind = tokens[1].upper()
    if command not in _COMMANDS:
        raise Refused(f"unknown command: {shown(command)}")
    if (command, kind) not in _SHAPES:
        raise Refused(f"unknown record type: {shown(kind)}")
    count, fields = _SHAPES[command, kind]
    if len(tokens) < count:
        raise Refused(f"{command} {kind} requires {fields}")
    if len(tokens) > count:
        raise Refused(f"too many fields ({len(tokens)} > {count})")
    return _request(command, kind, tokens[2:])


def _request(command: str, kind: str, fields: list[str]) -> Request:
    match command, kind, fields:
        case "QUERY", "A" | "N", [name]:
            return Query(kind, _name(name))
        case "QUERY", "S", [network, port]:
            return QueryServices(_number(network, "net_id"), _number(port, "port"))
        case "REGISTER", "A", [name, address]:
            return Register(NameRecord(_name(name), _address(address)))
        case "REGISTER", "N", [name, network]:
            return Register(NetworkRecord(_name(name), _number(network, "net_id")))
        case "REGISTER", "S", [name, address, network, port]:
            at = _address(address)
            numbers = _number(network, "net_id"), _number(port, "port")
            return Register(ServiceRecord(_name(name), at, *numbers))
        case "UNREGISTER", "A" | "N", [name]:
            return Unregister(kind, _name(name))
        case "UNREGISTER", "S", [name, network, port]:
            numbers = _number(network, "net_id"), _number(port, "port")
            return Unregister("S", _name(name), *numbers)
    raise Refused("too few fields")


def shown(text: str, limit: int = 64) -> str:
    """What a stranger sent: one line of printable ASCII."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:limit])


def _name(text: str) -> str:
    if (length := len(text.encode(errors="replace"))) > MAX_NAME:
        raise Refused(f"name too long: {length} bytes (max {MAX_NAME})")
    return normal(text)


def _number(text: str, what: str) -> int:
    if text.isascii() and text.isdecimal():
        if len(text) <= _MAX_DIGITS and int(text) <= _MAX_U16:
            return int(text)
        problem = "value out of range"
    else:
        problem = "invalid syntax"
    raise Refused(f'invalid {what}: strconv.ParseUint: parsing "{shown(text)}": {problem}')


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidArgument:
        pass
    decimal, _, rest = text.partition(":")
    prefix = rest.partition(".")[0]
    try:
        Address.parse(f"{int(prefix, 16)}:{rest}")
        is_mismatch = decimal.isascii() and decimal.isdecimal() and int(decimal) <= _MAX_U16
    except ValueError:
        is_mismatch = False
    if is_mismatch:
        raise Refused(f"network mismatch: decimal {int(decimal)} != hex 0x{int(prefix, 16):04X}")
    raise Refused(f'invalid address: "{shown(text)}" (expected N:XXXX.YYYY.YYYY)')


def request_line(request: Request) -> str:
    """The text of a request."""
    match request:
        case Query(kind, name):
            return f"QUERY {kind} {name}"
        case QueryServices(network, port):
            return f"QUERY S {network} {port}"
        case Register(record):
            return f"REGISTER {record_line(record)}"
        case Unregister("S", name, network, port):
            return f"UNREGISTER S {name} {network} {port}"
        case Unregister(kind, name):
            return f"UNREGISTER {kind} {name}"
        case List():
            return "LIST"


def record_line(record: Record) -> str:
    """The text of a record, as it is registered and listed."""
    match record:
        case NameRecord(name, address):
            return f"A {name} {address}"
        case NetworkRecord(name, network):
            return f"N {name} {network}"
        case ServiceRecord(name, address, network, port):
            return f"S {name} {address} {network} {port}"


# Replies


def services_reply(records: list[ServiceRecord]) -> str:
    """The answer to a query for services."""
    return "\n".join(f"S {each.name} {each.address} {each.port}" for each in records) or "S"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``kind`` is that of its first word; of services only the network is missing."""

    kind: str
    name: str = ""
    address: Address | None = None
    network: int | None = None
    services: tuple[tuple[str, Address, int], ...] = ()


def parse_reply(text: str) -> Reply:
    """Reads a reply to anything but a list, as ``A NAME ADDRESS`` or ``OK ADDRESS``.

    Raises:
        NotFound: there is no such name.
        PermissionDenied, AlreadyExists, Unavailable, InvalidArgument: the server refuses.
        ConnectionFailed: the reply is malformed.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        raise _malformed("it is empty")
    if lines[0][0] == "ERR":
        raise _refusal(" ".join(lines[0][1:]))
    try:
        match lines[0]:
            case ["A", name, address]:
                return Reply("A", name, Address.parse(address))
            case ["N", name, network]:
                return Reply("N", name, network=_number(network, "net_id"))
            case ["OK"]:
                return Reply("OK")
            case ["OK", value]:
                return _short(value)
            case ["S", *_]:
                return Reply("S", services=tuple(_service(line) for line in lines if len(line) > 1))
    except (Refused, InvalidArgument) as error:
        raise _malformed(str(error)) from error
    raise _malformed(shown(text.splitlines()[0]))


def _short(value: str) -> Reply:
    """``OK`` and what was asked for."""
    if ":" in value:
        return Reply("A", address=Address.parse(value))
    return Reply("N", network=_number(value, "net_id"))


def _service(line: list[str]) -> tuple[str, Address, int]:
    match line:
        case ["S", name, address, port]:
            return name, Address.parse(address), _number(port, "port")
    raise Refused(f"invalid S response: {shown(' '.join(line))}")


def parse_records(text: str) -> tuple[Record, ...]:
    """Reads the reply to a list.

    Raises:
        Unavailable: the server has no lists.
        ConnectionFailed: the reply is malformed.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines and lines[0][0] == "ERR":
        parse_reply(text)
    records: list[Record] = []
    for line in lines:
        if line == ["OK"]:
            continue
        try:
            request = parse_request(" ".join(["REGISTER", *line]))
        except Refused as error:
            raise _malformed(str(error)) from error
        assert isinstance(request, Register), "what follows REGISTER is a record"
        records.append(request.record)
    return tuple(records)


def _malformed(why: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"the nameserver's reply is malformed: {why}",
        hint="check that a nameserver is served there, or name another one with --names",
    )


#: Words of an ``ERR`` and the error that they mean, the first that fits.
_OLD: Final = "this nameserver is an older one: its records end after five minutes by themselves"
_REFUSALS: Final[tuple[tuple[str, type[PilotError], str], ...]] = (
    (
        "not found",
        NotFound,
        "check the spelling; names last for five minutes after pilotctl name-register",
    ),
    ("taken", AlreadyExists, "choose another name; its owner is shown by: pilotctl resolve NAME"),
    ("cannot register", PermissionDenied, "that node, or a member of that network, can do it"),
    ("not a member", PermissionDenied, "join it first: pilotctl network join NETWORK"),
    ("not yours", PermissionDenied, "this node's names are shown by: pilotctl name-list"),
    ("unknown command", Unavailable, _OLD),
    ("too few fields", Unavailable, _OLD),
    ("try again", ConnectionFailed, "try again in a few seconds"),
)


def _refusal(text: str) -> PilotError:
    known = ((kind, hint) for words, kind, hint in _REFUSALS if words in text)
    kind, hint = next(known, (InvalidArgument, "see: pilotctl name-register --help"))
    return kind(f"nameserver: {shown(text, 400)}", hint=hint)
