"""The file that keeps mappings over restarts of the gateway.

It is replaced as a whole, so that after a crash it has its old content or its new one. It must not
decide anything: :mod:`pilotstack.gateway.mapping` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _files
from pilotstack.errors import InvalidArgument, PilotError
from pilotstack.gateway.mapping import Mapped, parse_ip
from pilotstack.types import Address

if TYPE_CHECKING:
    from pathlib import Path

    from pilotstack.gateway.mapping import Mapping

#: Bytes of a file that is read.
_MAX_FILE: Final = 4 << 20
_VERSION: Final = 1


class _Row(msgspec.Struct, frozen=True, omit_defaults=True):
    local_ip: str
    pilot_addr: str
    name: str = ""


class _File(msgspec.Struct, frozen=True):
    subnet: str
    mappings: list[_Row]
    retired: list[_Row] = []
    version: int = _VERSION


class Store:
    """Reads and writes the file.

    Args:
        path: of the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, mapping: Mapping) -> list[Mapped]:
        """Restores mappings, and returns those that are of no use any more: their IP is not in the
        subnet.

        Raises:
            InvalidArgument: the file is damaged, or cannot be read.
        """
        try:
            saved = msgspec.json.decode(_files.read_regular(self._path, _MAX_FILE), type=_File)
            if saved.version != _VERSION:
                raise ValueError(f"version {saved.version} is unknown")
            mappings = [_mapped(row) for row in saved.mappings]
            retired = [_mapped(row) for row in saved.retired]
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, PilotError, ValueError, OSError) as error:
            raise InvalidArgument(
                f"cannot read the mappings in {self._path}: {error}",
                hint="repair the file or move it away; agents then get new local IPs",
            ) from error
        lost = []
        for row in mappings:
            try:
                mapping.map(row.address, row.local_ip, row.name)
            except PilotError:
                lost.append(row)
        mapping.restore_retired(retired)
        return lost

    def save(self, mapping: Mapping) -> None:
        """Writes mappings.

        Raises:
            OSError: they could not be written; the old file is unchanged.
        """
        file = _File(
            str(mapping.subnet),
            [_Row(str(row.local_ip), str(row.address), row.name) for row in mapping],
            [_Row(str(row.local_ip), str(row.address)) for row in mapping.retired()],
        )
        text = msgspec.json.format(msgspec.json.encode(file), indent=1)
        _files.replace(self._path, [text, b"\n"])


def _mapped(row: _Row) -> Mapped:
    return Mapped(parse_ip(row.local_ip), Address.parse(row.pilot_addr), row.name)
