"""Where the registry's state survives.

The state machine knows nothing of stores, and a store nothing of requests: it gets changes to keep
and gives a state back. A database could stand here as well as
:class:`~pilotstack.registry.storage.journal.FileStore`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pilotstack.registry.model.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.storage.snapshot import View


class Store(Protocol):
    """What the server needs of a store.

    :meth:`append` and :meth:`rotate` are called from one worker thread at a time; :meth:`fold` may
    run beside them in another.
    """

    def lock(self) -> None:
        """Takes the store for this process.

        Raises:
            AlreadyExists: another registry has it.
        """

    def load(self, now: float) -> State:
        """The state as it was last stored.

        Raises:
            AlreadyExists: another registry has the store.
            InternalError: what is stored is corrupt. It is left as it is.
        """

    def append(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none.

        Raises:
            StoreRemoved: what was stored is gone; :meth:`reclaim` comes first.
            OutcomeUnknown: they may be durable, or not.
            OSError: they are not; nothing of them is kept.
        """

    def check(self) -> None:
        """That what was stored is still there.

        Raises:
            StoreRemoved: it is gone.
            OSError: nothing more can be stored.
        """

    def reclaim(self, view: View) -> None:
        """Stores everything again where it was removed.

        Raises:
            OSError: it cannot be stored.
        """

    def keep_aside(self, view: View, label: str) -> Path | None:
        """Keeps a view for people to look at; returns where.

        Raises:
            OSError: it cannot be kept.
        """

    def wants_fold(self) -> bool:
        """Whether to call :meth:`rotate` and :meth:`fold`."""

    def rotate(self) -> None:
        """Begins anew: a view taken before the next :meth:`append` has all that came before.

        Raises:
            OSError: nothing has changed.
        """

    def fold(self, view: View) -> None:
        """Keeps a view in place of all changes before the last :meth:`rotate`.

        Raises:
            OSError: everything is as before.
        """

    def close(self) -> None:
        """Releases what is open."""


class MemoryStore:
    """Keeps nothing."""

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
    """The store's files are gone; what the registry knows can be written again."""


class StoreReplaced(OSError):
    """Others stand where the store's files were; they are left alone."""


class StoreClosed(OSError):
    """The store takes nothing more until the registry is started again."""


class OutcomeUnknown(StoreClosed):
    """A write failed and could not be taken back: it may be there after the next start."""
