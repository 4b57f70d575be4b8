"""Where the registry's state survives.

The state machine knows nothing of stores, and a store nothing of requests: it stores changes and
returns a state. A database could take the place of
:class:`~pilotstack.registry.storage.journal.FileStore`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pilotstack._figures import Durations
from pilotstack.registry.model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.storage.snapshot import View


class Store(Protocol):
    """What a ledger needs of a store.

    :attr:`syncs` are the times that :meth:`append` waited for the disk.
    :meth:`append` and :meth:`rotate` are called from one worker thread at a time; :meth:`fold` may
    run beside them in another.
    """

    syncs: Durations

    def lock(self) -> None:
        """Locks the store for this process.

        Raises:
            AlreadyExists: another registry has it.
        """

    def load(self, now: float) -> State:
        """Locks the store and returns the state in it.

        Raises:
            AlreadyExists: another registry has the store.
            InternalError: its content is corrupt, and left as it is.
        """

    def append(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none.

        Raises:
            StoreRemoved: its content was removed; call :meth:`reclaim` first.
            OutcomeUnknown: they may be durable or not.
            OSError: they are not.
        """

    def check(self) -> None:
        """Checks that the content is still there.

        Raises:
            StoreRemoved: it was removed.
            OSError: nothing more can be stored.
        """

    def reclaim(self, view: View) -> None:
        """Stores everything again after its removal.

        Raises:
            OSError: it cannot be stored.
        """

    def keep_aside(self, view: View, label: str) -> Path | None:
        """Keeps a view in a file for people to inspect; returns its path.

        Raises:
            OSError: it cannot be written.
        """

    def wants_fold(self) -> bool:
        """Whether to call :meth:`rotate` and :meth:`fold`."""

    def rotate(self) -> None:
        """Starts a new journal: a view taken before the next :meth:`append` has all that came
        before.

        Raises:
            OSError: nothing has changed.
        """

    def fold(self, view: View) -> None:
        """Stores a view in place of all changes before the last :meth:`rotate`.

        Raises:
            OSError: nothing has changed.
        """

    def close(self) -> None:
        """Releases what is open."""


class MemoryStore:
    """Stores nothing."""

    def __init__(self) -> None:
        self.syncs = Durations()

    def lock(self) -> None:
        """Does nothing."""

    def load(self, now: float) -> State:
        """An empty state."""
        state = State()
        state.created = int(now)
        return state

    def append(self, changes: Sequence[Change]) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def reclaim(self, view: View) -> None:
        """Does nothing."""

    def keep_aside(self, view: View, label: str) -> Path | None:
        """Does nothing."""
        del view, label
        return None

    def wants_fold(self) -> bool:
        """Never."""
        return False

    def rotate(self) -> None:
        """Does nothing."""

    def fold(self, view: View) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class StoreRemoved(OSError):
    """The store's files were removed; the state can be written again."""


class StoreReplaced(OSError):
    """The store's files were replaced by others, which are left alone."""


class StoreClosed(OSError):
    """The store accepts nothing until the registry is restarted."""


class OutcomeUnknown(StoreClosed):
    """A write failed and could not be undone: it may reappear at the next start."""
