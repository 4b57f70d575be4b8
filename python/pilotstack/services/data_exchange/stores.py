"""What the sessions of one service share."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from pilotstack import _events
from pilotstack.services.budget import Budget
from pilotstack.services.data_exchange.duplicates import Duplicates
from pilotstack.services.data_exchange.folder import Folder
from pilotstack.services.data_exchange.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pilotstack.services.data_exchange.arrivals import Arrival
    from pilotstack.services.data_exchange.inbox import InboxLimits
    from pilotstack.services.data_exchange.partial import Partial
    from pilotstack.services.data_exchange.quota import Limits

__all__ = ["FILES", "INBOX", "Stores"]

log = _events.get_logger(__name__)

#: Names of the folders of files and messages.
FILES: Final = "received"
INBOX: Final = "inbox"
#: Threads that write files. A file waits for one at most as long as a block takes.
_WRITERS: Final = 4
_LANES: Final = 8


class Stores:
    """Folders, memory, and what was counted.

    Args:
        home: ``received`` and ``inbox`` are made in it.
        limits: how much peers may store as files.
        inbox_limits: how much as messages.
        counts: what was dropped, by reason.
    """

    def __init__(
        self,
        home: Path,
        *,
        limits: Limits | None = None,
        inbox_limits: InboxLimits | None = None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.folder = Folder(home / FILES, limits)
        self.inbox = Inbox(home / INBOX, inbox_limits)
        self.budget = Budget()
        self.duplicates = Duplicates()
        self.threads = ThreadPoolExecutor(_WRITERS, "file-writer")
        #: Files that a thread of their own takes from their stream: the others are slower.
        self.lanes = anyio.CapacityLimiter(_LANES)
        self.dropped: Counter[str] = counts if counts is not None else Counter()

    def close(self) -> None:
        """Keeps unfinished files, and ends the threads."""
        self.threads.shutdown()
        self.folder.close()

    async def leave(self, end: Callable[[Partial], None], partial: Partial) -> None:
        """Keeps or drops an unfinished file, also when cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(end, partial)

    def arrived(self, arrival: Arrival) -> None:
        """Logs that something is stored."""
        log.info("file_received", node=arrival.sender, name=arrival.name, bytes=arrival.bytes)
