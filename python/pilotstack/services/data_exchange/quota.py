"""How much of the disk peers may use: bytes and files, one peer's and all together. No IO."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

__all__ = ["Limits", "OverQuota", "Quota"]

GIB: Final = 1 << 30


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what is stored. Sizes are in bytes."""

    total_bytes: int = 64 * GIB
    total_files: int = 100_000
    sender_bytes: int = 32 * GIB
    sender_files: int = 50_000
    #: Files of one sender that are not complete; they are kept for a while, to be resumed.
    sender_partials: int = 16
    #: Room that stays free on the disk.
    reserve_bytes: int = 64 << 20


class OverQuota(Exception):
    """A bound is reached. The text is for the sender."""

    def __init__(self, what: Literal["sender", "total"], unit: str) -> None:
        whose = "your quota" if what == "sender" else "the receiver's quota"
        super().__init__(f"{whose} of {unit} is used up")


class _Used(msgspec.Struct):
    bytes: int = 0
    files: int = 0


class Quota:
    """What is used.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._total = _Used()
        self._senders: dict[int, _Used] = {}

    def used(self, sender: int | None = None) -> tuple[int, int]:
        """Bytes and files of one sender, or of all."""
        used = self._total if sender is None else self._senders.get(sender, _Used())
        return used.bytes, used.files

    def forget(self) -> None:
        """Begins to count anew."""
        self._total = _Used()
        self._senders.clear()

    def note(self, sender: int, size: int, files: int = 1) -> None:
        """Counts what is there already."""
        self._add(sender, size, files)

    def take(self, sender: int, size: int, files: int = 0) -> None:
        """Takes room.

        Raises:
            OverQuota: there is not enough; nothing is taken then.
        """
        limits, own = self.limits, self._senders.get(sender, _Used())
        if size and own.bytes + size > limits.sender_bytes:
            raise OverQuota("sender", "bytes")
        if files and own.files + files > limits.sender_files:
            raise OverQuota("sender", "files")
        if size and self._total.bytes + size > limits.total_bytes:
            raise OverQuota("total", "bytes")
        if files and self._total.files + files > limits.total_files:
            raise OverQuota("total", "files")
        self._add(sender, size, files)

    def give(self, sender: int, size: int, files: int = 0) -> None:
        """Gives room back."""
        self._add(sender, -size, -files)

    def _add(self, sender: int, size: int, files: int) -> None:
        own = self._senders.setdefault(sender, _Used())
        for used in (self._total, own):
            used.bytes = max(0, used.bytes + size)
            used.files = max(0, used.files + files)
        if not own.bytes and not own.files:
            del self._senders[sender]
