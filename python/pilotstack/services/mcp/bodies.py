"""Bodies of HTTP answers, decompressed no further than is shown.

The decoders of HTTP libraries give whatever a piece expands to: a few hundred KiB become as many
MiB.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

from pilotstack.errors import ConnectionFailed

if TYPE_CHECKING:
    import httpx

__all__ = ["ACCEPTED", "body_of"]

#: Encodings that :func:`body_of` knows, for the header of requests.
ACCEPTED: Final = "gzip, deflate"
_GZIP: Final = 16 + zlib.MAX_WBITS


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Identity:
    eof = False

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return data[:max_length]


async def body_of(answer: httpx.Response, limit: int) -> bytes:
    """The first bytes of a body that is streamed: ``limit``, and one more if there are more.

    Raises:
        ConnectionFailed: it is not what its ``Content-Encoding`` says, or that is unknown.
    """
    encoding = answer.headers.get("content-encoding", "").strip().lower()
    data = bytearray()
    decoder: _Decoder | None = None
    async for piece in answer.aiter_raw():
        decoder = decoder or _decoder(encoding, piece)
        try:
            data += decoder.decompress(piece, limit + 1 - len(data))
        except zlib.error as error:
            raise ConnectionFailed(
                f"the body is not {encoding}", hint="the server is at fault"
            ) from error
        if len(data) > limit or decoder.eof:
            break
    return bytes(data)


def _decoder(encoding: str, piece: bytes) -> _Decoder:
    match encoding:
        case "" | "identity":
            return _Identity()
        case "gzip" | "x-gzip":
            return zlib.decompressobj(_GZIP)
        case "deflate":
            # Some servers leave out the header of RFC 1950.
            has_header = (
                len(piece) > 1 and piece[0] & 15 == 8 and not int.from_bytes(piece[:2]) % 31
            )
            return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    raise ConnectionFailed(
        f"the body has an encoding that was not asked for: {encoding:.50}",
        hint=f"the server should send {ACCEPTED} or none",
    )
