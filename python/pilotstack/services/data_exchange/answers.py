"""What a sender learns of what it sent."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pilotstack.errors import ConnectionFailed
from pilotstack.services.data_exchange.frames import Ack, Frame, FrameType, Tag, parse_ack

__all__ = ["Answer", "NotStored", "SentFile", "SentFolder"]


#: What a sender can do about the reasons of receivers.
HINTS: Final = {
    "aborted": "send it again",
    "busy": "try again later: a file goes on where it was",
    "disk_full": "ask the receiver to make room: pilotctl received --clear",
    "hash_mismatch": "send it again",
    "invalid_name": "give another name with --name",
    "quota": "ask the receiver to make room: pilotctl received --clear",
    "superseded": "another program sends the same file there: let one of them end",
}
_OTHERWISE: Final = "the log of the receiver's daemon may tell more"
#: Parts of the texts of acknowledgements, which have no codes.
_TEXTS: Final = (("busy", "busy"), ("disk is full", "disk_full"), ("quota", "quota"))


class NotStored(ConnectionFailed):
    """The receiver did not store it. ``code`` is the receiver's reason, such as ``disk_full`` or
    ``quota``, where it gave one; otherwise ``not_stored``."""

    code = "not_stored"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        reason = code or next((known for text, known in _TEXTS if text in message), "")
        super().__init__(message, code=code, hint=hint or HINTS.get(reason, _OTHERWISE))


class Answer(msgspec.Struct, frozen=True):
    """A receiver's answer to a frame.

    Args:
        frame: as it came; ``None`` if the receiver ended the stream instead.
        tag: under which the message was sent, if the receiver knows tags.
    """

    frame: Frame | None
    tag: Tag | None = None

    @property
    def ack(self) -> Ack | None:
        """What it says, if it is an acknowledgement."""
        return parse_ack(self.frame) if self.frame is not None else None

    @property
    def text(self) -> str:
        """It as text, if it is one."""
        if self.frame is None or self.frame.type not in {FrameType.TEXT, FrameType.JSON}:
            return ""
        return self.frame.payload.decode(errors="replace")

    def check(self) -> None:
        """Raises unless the frame was taken.

        Raises:
            NotStored: the receiver refuses it, or only acknowledges that it does not know its type.
        """
        found = self.ack
        if found is not None and not found.is_stored:
            reason = found.reason or "the receiver does not know this type of frame"
            raise NotStored(f"the receiver did not store it: {reason}")


#: How a file travelled: in our frames, in the chunks of existing nodes, or in one frame.
Transport = Literal["bulk", "filestream", "frame"]


class SentFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the receiver has.

    Args:
        name: as sent.
        size: bytes of the file.
        sent: bytes that were sent now.
        resumed: bytes that the receiver had from an earlier attempt.
        sha256: of the file, in hexadecimal.
        is_verified: the receiver compared the hash.
        ack: the text of the answer to a single frame.
    """

    name: str
    size: int
    sent: int
    resumed: int
    sha256: str
    transport: Transport
    is_verified: bool
    ack: str = ""


class SentFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that the receiver has."""

    name: str
    files: tuple[SentFile, ...]
    skipped: int

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)
