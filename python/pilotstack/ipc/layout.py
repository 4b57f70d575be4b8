"""How payloads are laid out: fields in order, each written and read by the same codec.

Numbers are unsigned and big endian. Writing raises :exc:`InvalidArgument` for a value that does not
fit; reading raises it for a payload that is cut off, in the words that existing drivers know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeGuard, TypeVar, cast

import msgspec

from pilotstack.errors import InternalError, InvalidArgument
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterable

A = TypeVar("A", bound=msgspec.Struct)
T = TypeVar("T")


class Reader:
    """Takes a payload apart.

    Args:
        verb: what is read, for messages.
    """

    def __init__(self, data: bytes, verb: str) -> None:
        self._data = data
        self.verb = verb

    def take(self, length: int, what: str, problem: str = "missing") -> bytes:
        """The next bytes.

        Raises:
            InvalidArgument: there are fewer.
        """
        if len(self._data) < length:
            raise InvalidArgument(f"{self.verb}: {problem} {what}")
        head, self._data = self._data[:length], self._data[length:]
        return head

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data), "")


class Codec(Protocol):
    """Writes and reads one field."""

    def pack(self, value: object, what: str) -> bytes:
        """The field's bytes.

        Raises:
            InvalidArgument: the value does not fit.
        """

    def take(self, reader: Reader, what: str) -> object:
        """The field's value.

        Raises:
            InvalidArgument: it is missing or malformed.
        """


def is_number(value: object) -> TypeGuard[int]:
    """Whether it is an integer, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


class Unsigned:
    """An unsigned number of ``size`` bytes."""

    def __init__(self, size: int, *, least: int = 0) -> None:
        self.size = size
        self._least = least
        self._limit = (1 << 8 * size) - 1

    def pack(self, value: object, what: str = "number") -> bytes:
        """Big endian."""
        if not is_number(value) or not self._least <= value <= self._limit:
            raise InvalidArgument(
                f"no such {what.removesuffix('_id')}: {value!r}",
                hint=f"an integer of {self._least} to {self._limit}",
            )
        return value.to_bytes(self.size)

    def take(self, reader: Reader, what: str) -> int:
        """Big endian."""
        return int.from_bytes(reader.take(self.size, what))


class Flag:
    """A byte that is 1 for true.

    Args:
        name: what readers call it, if not by the field's name.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name

    def pack(self, value: object, what: str) -> bytes:
        """0 or 1."""
        if not isinstance(value, bool):
            raise InvalidArgument(f"{what} is True or False, not {value!r}")
        return bytes((value,))

    def take(self, reader: Reader, what: str) -> bool:
        """Everything but 1 is false."""
        return reader.take(1, self._name or what)[0] == 1


class Text:
    """UTF-8, up to the end of the payload.

    Args:
        limit: bytes at most.
        lenient: the reader replaces what is not UTF-8.
    """

    def __init__(self, limit: int, *, may_be_empty: bool = False, lenient: bool = False) -> None:
        self._limit = limit
        self._may_be_empty = may_be_empty
        self._lenient = lenient

    def pack(self, value: object, what: str) -> bytes:
        """Without a length."""
        if not isinstance(value, str):
            raise InvalidArgument(f"no {what}: {value!r}", hint="a string")
        try:
            data = value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"the {what} is not text: {error.reason}") from error
        if not data and not self._may_be_empty:
            raise InvalidArgument(f"the {what} is empty")
        if len(data) > self._limit:
            raise InvalidArgument(f"the {what} has {len(data)} bytes; at most {self._limit} fit")
        return data

    def take(self, reader: Reader, what: str) -> str:
        """All that is left."""
        return self._decode(reader, reader.rest(), what)

    def _decode(self, reader: Reader, data: bytes, what: str) -> str:
        if not data and not self._may_be_empty:
            raise InvalidArgument(f"{reader.verb}: missing {what}")
        try:
            return data.decode(errors="replace" if self._lenient else "strict")
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{reader.verb}: not UTF-8") from error


class CountedText(Text):
    """UTF-8 after its length in two bytes."""

    def pack(self, value: object, what: str) -> bytes:
        """Length, text."""
        data = super().pack(value, what)
        return len(data).to_bytes(2) + data

    def take(self, reader: Reader, what: str) -> str:
        """Length, text."""
        length = int.from_bytes(reader.take(2, what))
        return self._decode(reader, reader.take(length, what, "truncated"), what)


class Bytes:
    """1 to ``limit`` bytes, up to the end of the payload. The reader takes any number of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def pack(self, value: object, what: str) -> bytes:
        """As they are."""
        del what
        try:
            view = memoryview(cast("bytes", value))
        except TypeError as error:
            raise InvalidArgument(f"a datagram has bytes, not {type(value).__name__}") from error
        if not 0 < view.nbytes <= self._limit:
            raise InvalidArgument(f"a datagram has 1 to {self._limit} bytes, not {view.nbytes}")
        return view.tobytes()

    def take(self, reader: Reader, what: str) -> bytes:
        """All that is left."""
        del what
        return reader.rest()


class Strings:
    """A JSON array of strings, up to the end of the payload. ``None`` stands for no bytes at all,
    where that is allowed."""

    def __init__(self, *, may_be_missing: bool = False) -> None:
        self._may_be_missing = may_be_missing

    def pack(self, value: object, what: str) -> bytes:
        """JSON."""
        if value is None and self._may_be_missing:
            return b""
        if isinstance(value, str):
            raise InvalidArgument(f"{what} are a list of strings, not one string")
        return to_json(tuple(cast("Iterable[str]", value)))

    def take(self, reader: Reader, what: str) -> tuple[str, ...] | None:
        """JSON."""
        del what
        data = reader.rest()
        if not data and self._may_be_missing:
            return None
        return from_json(data, tuple[str, ...], reader.verb)


U8 = Unsigned(1)
U16 = Unsigned(2)
U32 = Unsigned(4)
FLAG = Flag()


def to_json(value: object) -> bytes:
    """JSON.

    Raises:
        InvalidArgument: the value has none.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_encode)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"an argument has no JSON form: {error}") from error


def from_json(data: bytes, kind: type[T], verb: str) -> T:
    """The value of JSON from a driver.

    Raises:
        InvalidArgument: it is malformed or of another type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"{verb}: invalid JSON: {error}") from error


class Request(msgspec.Struct, Generic[A], frozen=True):
    """A control verb with its arguments. ``A`` is the type of its answer.

    Subclasses state the number, the fields and, in ``layout``, a codec for each field.
    """

    command: ClassVar[int]
    #: The first byte of the payload, for verbs that have several forms.
    sub: ClassVar[int | None] = None
    #: What error messages call it.
    verb: ClassVar[str] = ""
    layout: ClassVar[tuple[Codec, ...]] = ()
    #: Seconds that the answer may take, if it is worth waiting for longer than for others.
    patience: ClassVar[float | None] = None

    def pack(self) -> bytes:
        """The payload.

        Raises:
            InvalidArgument: an argument does not fit its field.
        """
        parts = [] if self.sub is None else [bytes((self.sub,))]
        for name, codec in zip(self.__struct_fields__, self.layout, strict=True):
            parts.append(codec.pack(getattr(self, name), name))
        return b"".join(parts)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """The request of a payload without its sub-command; bytes after the fields are ignored.

        Raises:
            InvalidArgument: it is cut off or malformed.
        """
        reader = Reader(payload, cls.verb)
        named = zip(cls.__struct_fields__, cls.layout, strict=True)
        return cls(**{name: codec.take(reader, name) for name, codec in named})

    def decode(self, reply: bytes) -> A:
        """The answer in the JSON of a reply.

        Raises:
            InternalError: it is malformed.
        """
        base = cast("Any", type(self)).__orig_bases__[0]
        kind: type[A] = base.__args__[0]
        return decode(reply, kind)


class JsonRequest(Request[A], Generic[A], frozen=True, omit_defaults=True):
    """A control verb whose arguments are the members of a JSON object."""

    def pack(self) -> bytes:
        """JSON, after the sub-command if there is one."""
        head = b"" if self.sub is None else bytes((self.sub,))
        return head + to_json(self)

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """The request of a JSON object, without the sub-command."""
        return from_json(payload, cls, cls.verb)


# Answers


def _encode(value: object) -> str:
    if isinstance(value, Address):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def read_address(kind: type, value: object) -> Address:
    """Reads an address for msgspec, as its ``dec_hook``.

    Raises:
        NotImplementedError: another type is wanted, as msgspec asks of hooks.
        InvalidArgument: the text is no address.
    """
    if kind is Address and isinstance(value, str):
        return Address.parse(value)
    raise NotImplementedError(f"{kind.__name__} has no JSON form")


def encode(answer: msgspec.Struct) -> bytes:
    """The JSON of an answer."""
    return msgspec.json.encode(answer, enc_hook=_encode)


def members(answer: msgspec.Struct) -> dict[str, object]:
    """The members of an answer's JSON."""
    shown: dict[str, object] = msgspec.to_builtins(answer, enc_hook=_encode)
    return shown


def decode(reply: bytes, kind: type[A]) -> A:
    """The answer in the JSON of a reply.

    Raises:
        InternalError: it is malformed.
    """
    try:
        return msgspec.json.decode(reply, type=kind, dec_hook=read_address)
    except (msgspec.DecodeError, InvalidArgument, RecursionError) as error:
        raise InternalError(f"the daemon sent a malformed answer: {error}") from error
