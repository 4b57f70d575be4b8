"""Names of files that peers choose, made safe: one component, no surprises for shells and systems.

Nothing that a peer sends is used as a path. What is left of a name keeps its last extension, and
gets the time and a number, as existing nodes store files.
"""

from __future__ import annotations

import re
import time
from typing import Final

__all__ = ["NoName", "safe_name", "safe_path", "stored_name"]

#: Bytes of a stored name without time and number, which fit with it into the 255 of file systems.
MAX_NAME: Final = 200
#: Components of a path below a folder.
MAX_DEPTH: Final = 32
_MAX_EXTENSION: Final = 32

#: Characters that some file systems forbid or give a meaning (streams, wildcards, pipes).
_RESERVED: Final = re.compile(r'[<>:"|?*]')
#: Names of devices on some systems, with any extension.
_DEVICES: Final = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(?:\.|$)", re.I)


class NoName(ValueError):
    """Nothing usable is left of a name."""


def safe_name(raw: bytes | str) -> str:
    """The last component of a name, without what is not printable.

    Raises:
        NoName: it is empty, ``.`` or ``..``, or not UTF-8.
    """
    text = _text(raw).replace("\\", "/").rpartition("/")[2]
    return _component(text)


def safe_path(raw: str) -> tuple[str, ...]:
    """The components of a path below a folder, each of them safe.

    Raises:
        NoName: a component is empty, ``.`` or ``..``, or there are too many.
    """
    parts = _text(raw).replace("\\", "/").split("/")
    if len(parts) > MAX_DEPTH:
        raise NoName("the path is too deep")
    return tuple(_component(part) for part in parts)


def _text(raw: bytes | str) -> str:
    if isinstance(raw, str):
        return raw.encode(errors="replace").decode()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise NoName("the name is not UTF-8") from error


def _component(text: str) -> str:
    # isprintable leaves out controls, formats such as right-to-left marks, and odd separators.
    name = "".join(char for char in text if char.isprintable())
    if name in {"", ".", ".."}:
        raise NoName("the file has no name" if not name else "the name is reserved")
    name = _RESERVED.sub("_", name).lstrip(" ").rstrip(" .")
    if not name:
        raise NoName("the name is reserved")
    # A leading dot hides a file, a leading dash makes it an option of commands.
    if name[0] in ".-" or _DEVICES.match(name):
        name = f"_{name.lstrip('.-')}"
    return _cut(name)


def _cut(name: str) -> str:
    """A name of at most :data:`MAX_NAME` bytes with the same extension."""
    if len(name.encode()) <= MAX_NAME:
        return name
    stem, extension = _split(name)
    room = MAX_NAME - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore") + extension


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    if not stem or not dot or len(extension.encode()) > _MAX_EXTENSION:
        return name, ""
    return stem, dot + extension


def stamp(now: float, number: int) -> str:
    """Local time to the millisecond, and a number of six digits."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    return f"{moment}.{int(now * 1000) % 1000:03d}-{number % 1_000_000:06d}"


def stored_name(name: str, now: float, number: int) -> str:
    """The name under which a file is stored: ``report-20261201-143000.123-000001.txt``."""
    stem, extension = _split(name)
    return f"{stem}-{stamp(now, number)}{extension}"
