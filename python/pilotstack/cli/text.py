"""Results as members, text that is safe for a terminal, and errors of writing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from pilotstack.ipc import layout

#: Members of a result.
Data = Mapping[str, object]


def members_of(result: Data | msgspec.Struct) -> Data:
    """The members of a result as JSON has them."""
    return layout.members(result) if isinstance(result, msgspec.Struct) else result


def visible(text: str, *, keeps_lines: bool = False) -> str:
    r"""The text with characters that are not printable as escapes, such as ``\x1b``.

    Args:
        keeps_lines: keep line feeds and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if keeps_lines else ""
    return "".join(
        char
        if char.isprintable() or char in kept
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


class OutputFailed(Exception):
    """Writing to stdout failed: its reader has gone, or the disk is full."""


@contextmanager
def stdout_errors() -> Iterator[None]:
    """Failures to write to stdout become :class:`OutputFailed`."""
    try:
        yield
    except OSError as error:
        raise OutputFailed(str(error)) from error


def duration(seconds: float) -> str:
    """A duration in its largest unit: ``40s``, ``5m``, ``3h``, ``2d``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def size(count: float) -> str:
    """A number of bytes in a unit that keeps it short: ``512 B``, ``3.5 KiB``, ``12.0 MiB``."""
    units = ("KiB", "MiB", "GiB")
    if count < 1024:
        return f"{count:.0f} B"
    power = next((n for n in range(1, len(units)) if count < 1024 ** (n + 1)), len(units))
    return f"{count / 1024**power:.1f} {units[power - 1]}"
