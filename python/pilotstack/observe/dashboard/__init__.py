"""The page to look at: files of this package, and what they show as server-sent events.

A program gives its state as a value for each audience: the operator, who shows a token, and others,
who may get less or nothing. The page asks for nothing else, and for nothing elsewhere.
"""

from __future__ import annotations

import importlib.resources
import time
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from pilotstack.http.messages import Events, Request, Response, event, json_response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

#: Files of the page, by path.
_FILES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/feed.js": ("feed.js", "text/javascript; charset=utf-8"),
    "/tables.js": ("tables.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
    "/graph.js": ("graph.js", "text/javascript; charset=utf-8"),
}
#: Nothing runs, is loaded, or frames the page but what is served here.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Dashboard:
    """The page of one program.

    Args:
        state: the value that is shown to operators, or to others; ``None`` if they see nothing.
        is_operator: whether a request comes from an operator.
        interval: seconds between two states.
    """

    def __init__(
        self,
        state: Callable[[bool], Awaitable[object | None]],
        is_operator: Callable[[Request], bool],
        interval: float,
    ) -> None:
        self._state = state
        self._is_operator = is_operator
        self._interval = interval
        #: The last state for each audience, and when it was taken: more viewers cost no more.
        self._taken: dict[bool, tuple[float, bytes | None]] = {}
        self._taking = anyio.Lock()
        files = importlib.resources.files(__name__) / "assets"
        self._files = {
            path: (files.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    @property
    def routes(self) -> Mapping[str, Callable[[Request], Awaitable[Response]]]:
        """What answers each path."""
        return {
            **dict.fromkeys(self._files, self._file),
            "/api/state": self._once,
            "/api/events": self._follow,
        }

    async def _file(self, request: Request) -> Response:
        body, kind = self._files[request.path]
        return Response(200, body, kind, headers=_HEADERS)

    async def _once(self, request: Request) -> Response:
        data = await self._encoded(self._is_operator(request))
        return _refusal() if data is None else Response(200, data)

    async def _follow(self, request: Request) -> Response:
        is_operator = self._is_operator(request)
        if await self._encoded(is_operator) is None:
            return _refusal()
        return Events(self._states(is_operator), is_proven=is_operator)

    async def _states(self, is_operator: bool) -> AsyncGenerator[bytes]:
        while data := await self._encoded(is_operator):
            yield event("state", data)
            await anyio.sleep(self._interval)

    async def _encoded(self, is_operator: bool) -> bytes | None:
        async with self._taking:
            now = time.monotonic()
            at, data = self._taken.get(is_operator, (now - self._interval, None))
            # A little less, so that a viewer does not get the same state twice.
            if now - at >= 0.9 * self._interval:
                value = await self._state(is_operator)
                data = None if value is None else msgspec.json.encode(value)
                self._taken[is_operator] = now, data
            return data


def _refusal() -> Response:
    response = json_response(401, {"error": "a token is needed"})
    response.headers["www-authenticate"] = "Bearer"
    return response
