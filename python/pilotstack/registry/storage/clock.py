"""The registry's own time, in seconds that look like Unix time; all deadlines are measured by it.

It follows the monotonic clock, so a step of the wall clock expires nothing. It is kept beside the
store and continues after a restart. After a boot of the host only the wall clock tells how long the
registry was down, and is believed for at most a week. A standby follows the time of its primary,
which the times in its rows are by.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pilotstack import _events, _files

if TYPE_CHECKING:
    from collections.abc import Callable

log = _events.get_logger(__name__)

#: Seconds of downtime that the wall clock alone is believed for.
MAX_AWAY: Final = 7 * 86_400.0
#: Limit of plausible wall clocks, in Unix seconds.
_MAX_TIME: Final = float(1 << 40)
#: Seconds of difference between the clocks that are logged.
_NOTABLE: Final = 60.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX_FILE: Final = 4096


class _Kept(msgspec.Struct):
    boot: str
    monotonic: float
    time: float


class Clock:
    """The registry's time.

    Args:
        path: the file it is kept in; ``None`` for none.
        monotonic: seconds since the boot.
        wall: Unix seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._boot = _boot_id() if boot is None else boot
        kept, here, now = self._load(), monotonic(), wall()
        start = now
        if kept is not None and kept.boot == self._boot and kept.monotonic <= here:
            start = kept.time + here - kept.monotonic
        elif kept is not None:
            start = min(max(now, kept.time), kept.time + MAX_AWAY)
        self._offset = start - here
        if abs(self.skew) > _NOTABLE:
            log.warning("wall_clock_differs", seconds=round(self.skew))

    def now(self) -> float:
        """The registry's time."""
        return self._monotonic() + self._offset

    def read(self) -> tuple[float, float]:
        """:meth:`now` and :attr:`skew`, read together."""
        now = self._monotonic() + self._offset
        return now, self._wall() - now

    def follow(self, now: float) -> None:
        """Takes over the time of another registry, if it is plausible."""
        if 0 < now < _MAX_TIME:
            self._offset = now - self._monotonic()

    @property
    def skew(self) -> float:
        """Seconds by which the wall clock is ahead."""
        return self._wall() - self.now()

    def save(self) -> None:
        """Writes the time. After a failure, which is logged, the next start uses the wall clock."""
        if self._path is None:
            return
        kept = _Kept(self._boot, self._monotonic(), self.now())
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(kept))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("clock_not_kept", error=str(error))

    def _load(self) -> _Kept | None:
        if self._path is None:
            return None
        try:
            descriptor = _files.open_regular(self._path, os.O_RDONLY)
            with open(descriptor, "rb") as file:
                kept = msgspec.json.decode(file.read(_MAX_FILE), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("clock_unreadable", error=str(error), hint="the wall clock is believed")
            return None
        return kept if 0 <= kept.time < _MAX_TIME else None


def _boot_id() -> str:
    """Identifies the host's boot; where the system does not, every start counts as one."""
    try:
        return _BOOT.read_text("ascii").strip()
    except (OSError, ValueError):
        return os.urandom(16).hex()
