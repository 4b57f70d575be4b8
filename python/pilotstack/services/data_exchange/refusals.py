"""Why something is not stored, in words for its sender: no paths, no details of this host."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pilotstack import _events
from pilotstack.services.data_exchange.names import NoName
from pilotstack.services.data_exchange.quota import OverQuota

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Hangup", "Refused", "telling"]

log = _events.get_logger(__name__)

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_FULL: Final = "the receiver's disk is full"


class Refused(Exception):
    """Something is not stored.

    Args:
        code: ``disk_full``, ``quota``, ``invalid_name``, ``hash_mismatch``, ``superseded``,
            ``malformed``, ``busy``, ``too_large`` or ``internal``.
        reason: for the sender.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Hangup(Exception):
    """The connection cannot go on.

    Args:
        reason: under which it is counted.
        answer: sent before the end.
    """

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


@contextmanager
def telling() -> Iterator[None]:
    """Failures of this host become :exc:`Refused`.

    Raises:
        Refused: with a text that may be sent.
    """
    try:
        yield
    except NoName as error:
        raise Refused("invalid_name", str(error)) from error
    except OverQuota as error:
        raise Refused("quota", str(error)) from error
    except OSError as error:
        if error.errno in _FULL:
            log.warning("disk_full", error=str(error))
            raise Refused("disk_full", DISK_FULL) from error
        log.warning("not_stored", error=str(error))
        raise Refused("internal", "the receiver cannot store it") from error
