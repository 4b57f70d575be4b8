"""How often a standby has become the primary: kept beside the store, so that a registry that was
replaced can be told from the one that replaced it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pilotstack.errors import InternalError

if TYPE_CHECKING:
    from pathlib import Path


class _Kept(msgspec.Struct):
    term: int
    is_standby: bool


class Term:
    """The term of this registry.

    Args:
        path: where it is kept; ``None`` for a registry that keeps nothing.

    Raises:
        InternalError: the file is corrupt.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = _Kept(term=0, is_standby=False)
        if path is None:
            return
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            raise InternalError(
                f"the term in {path} cannot be read: {error}",
                hint="restore it from a backup with the store, or remove it to begin with term 0",
            ) from error

    @property
    def number(self) -> int:
        """The term."""
        return self._kept.term

    def lead(self) -> bool:
        """Begins to serve as the primary; returns whether that is a promotion.

        Raises:
            OSError: the term cannot be kept.
        """
        is_promotion = self._kept.is_standby
        self._keep(_Kept(term=self._kept.term + is_promotion, is_standby=False))
        return is_promotion

    def follow(self, term: int) -> None:
        """Follows a primary of this term.

        Raises:
            OSError: the term cannot be kept.
        """
        self._keep(_Kept(term=term, is_standby=True))

    def _keep(self, kept: _Kept) -> None:
        if self._path is not None and kept != self._kept:
            temporary = self._path.with_name(f"{self._path.name}.tmp")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(kept))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        self._kept = kept
