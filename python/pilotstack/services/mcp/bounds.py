"""Bounds of what tools return: a model pays for every byte, also for those that JSON adds."""

from __future__ import annotations

import base64
import codecs
import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Rows of a list, and bytes of a text as JSON writes it, at most.
MAX_ROWS: Final = 50
MAX_TEXT: Final = 32 << 10
#: Bytes of what others name something, at most.
MAX_WORDS: Final = 500
#: Bytes of what is no text, at most: base64 tells a model little.
MAX_BINARY: Final = 1 << 10


def text_of(data: bytes, limit: int = MAX_TEXT) -> dict[str, Any]:
    """What a model is shown of bytes: their text, else base64, cut at a limit and said to be."""
    head = data[:limit]
    try:
        # A limit may fall into the middle of a character.
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = decoder.decode(head, len(head) == len(data))
    except UnicodeDecodeError:
        head = data[: min(limit, MAX_BINARY)]
        shown: dict[str, Any] = {"base64": base64.b64encode(head).decode()}
    else:
        cut = short(text, limit)
        head = head if cut == text else cut.encode()
        shown = {"text": cut}
    shown["bytes"] = len(data)
    if len(head) < len(data):
        shown["is_truncated"] = True
    return shown


def short(text: str, limit: int = MAX_WORDS) -> str:
    """The beginning of a text that has at most so many bytes in JSON."""
    if cost(text) <= limit:
        return text
    low, high = 0, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(text[:middle]) <= limit else (low, middle - 1)
    return text[:low]


def cost(text: str) -> int:
    """Bytes of a text in JSON, without the quotes: a control character has six."""
    return len(json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass")) - 2


def rows_of(
    found: Iterable[Any], row: Callable[[Any], dict[str, Any]], limit: int = MAX_ROWS
) -> dict[str, Any]:
    """The first rows of a list, and how many there are."""
    listed = list(found)
    return {"total": len(listed), "rows": [row(each) for each in listed[: min(limit, MAX_ROWS)]]}
