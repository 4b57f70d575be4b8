"""Hashing beside the thread that moves data, so that the two take the time of the longer one."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    class Hash(Protocol):
        """As :mod:`hashlib` has them; one that lets other threads run meanwhile."""

        def update(self, data: bytes | memoryview, /) -> None: ...


__all__ = ["Hasher"]


class Hasher:
    """Feeds a hash in a thread of its own while this is entered; complete when it is left.

    One block is hashed at a time: :meth:`update` returns when the one before it is done, so two
    buffers are enough.

    Args:
        hash: what is fed. Nothing else may use it meanwhile.
    """

    def __init__(self, hash: Hash) -> None:
        self._hash = hash
        self._blocks: SimpleQueue[bytes | memoryview | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="file-hasher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._done.put(None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocks.put(None)
        self._thread.join()

    def update(self, block: bytes | memoryview) -> None:
        """Hashes a block, which must not change until the next call or the end."""
        self._done.get()
        self._blocks.put(block)

    def _run(self) -> None:
        while (block := self._blocks.get()) is not None:
            try:
                self._hash.update(block)
            finally:
                self._done.put(None)
