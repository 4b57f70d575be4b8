"""Chromium without a window, spoken to by the Chrome DevTools Protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

#: Seconds for the browser to do something.
PATIENCE = 60.0
#: Why there is no browser; empty if there is one.
MISSING = "" if shutil.which("chromium") else "chromium is not installed"


def axe(cache: Path) -> Path | str:
    """The script of axe-core, taken from npm if it is not there yet; or why there is none."""
    named = os.environ.get("PILOT_AXE")
    script = Path(named) if named else cache / "node_modules" / "axe-core" / "axe.min.js"
    if script.exists():
        return script
    if not shutil.which("npm"):
        return "axe-core needs npm"
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), "axe-core@4"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return "npm does not answer"
    return script if script.exists() else f"npm has no axe-core: {result.stderr[-300:]}"


class Browser:
    """A browser with one page; a context manager that ends it.

    Args:
        profile: its directory.
        size: of the window.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 900)) -> None:
        self._profile = profile
        self._size = size
        self._number = 0
        self._buffer = b""
        self._is_loaded = False
        #: What the page wrote to its console as an error, and failed loads.
        self.errors: list[str] = []

    def __enter__(self) -> Browser:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Numbers that are in use by nobody, so that moving them to 3 and 4 overwrites neither.
        command = (
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"),
            *(f"--window-size={self._size[0]},{self._size[1]}", f"--user-data-dir={self._profile}"),
            *("--remote-debugging-pipe", "about:blank"),
        )
        shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A call to the page."""
        return self._ask(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Loads a page."""
        for place in ("about:blank", url):
            self.errors.clear()
            self._is_loaded = False
            self.call("Page.navigate", url=place)
            while not self._is_loaded:
                self._note(self._receive())

    def evaluate(self, script: str) -> Any:
        """The value of an expression of the page; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Waits for an expression to be true: it is asked again when the page has changed."""
        waiting = """new Promise((done, failed) => {
            const check = () => { if (%s) { observer.disconnect(); done(true); } };
            const observer = new MutationObserver(check);
            observer.observe(document, {subtree: true, childList: true, attributes: true,
                                        characterData: true});
            setTimeout(() => failed(new Error(document.body.innerText)), %d);
            check();
        })"""
        self.evaluate(waiting % (script, 1000 * PATIENCE))

    def resize(self, width: int, height: int) -> None:
        """Changes the size of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Prefers a ``light`` or ``dark`` scheme of colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """Draws the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def press(self, key: str) -> None:
        """Presses a key."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = "\r" if key == "Enter" and kind == "char" else ""
            if kind != "char" or text:
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    text=text,
                    windowsVirtualKeyCode=codes[key],
                )

    def _ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + 2 * PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, "the browser does not answer"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        received: dict[str, Any] = json.loads(text)
        return received

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(str(parameters["entry"]))
            case "Page.loadEventFired":
                self._is_loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
