"""What fails says what can be done: refusals of services, the gateway and their commands."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pilotstack
from pilotstack.errors import AlreadyExists, NotFound, PermissionDenied
from pilotstack.services.data_exchange import Answer, Frame, FrameType, NotStored
from pilotstack.services.data_exchange.source import Source
from pilotstack.services.nameserver import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.errors import PilotError

ROOT = Path(pilotstack.__file__).parent
#: NotStored finds its hint by itself.
KINDS = {
    *("AlreadyExists", "ConnectionFailed", "InvalidArgument", "NotFound", "NotRunning"),
    *("PermissionDenied", "TimedOut", "Unavailable"),
}
COMMANDS = ("events", "files", "forward", "gateway", "mcp", "names", "secured", "services")
#: They become replies of the proxy, for browsers.
PROXY = ("socks.py", "http_proxy.py")


def sources() -> Iterator[Path]:
    for package in ("services", "gateway"):
        yield from (path for path in (ROOT / package).rglob("*.py") if path.name not in PROXY)
    yield from (ROOT / "cli" / f"{name}.py" for name in COMMANDS)


def test_errors_that_are_raised_have_hints() -> None:
    missing = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in KINDS:
                continue
            if not any(each.arg == "hint" for each in node.keywords):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not missing


@pytest.mark.parametrize(
    ("reply", "kind", "hint"),
    [
        ('name "x" is taken', AlreadyExists, "choose another name"),
        ('name "x" not found', NotFound, "name-register"),
        ("not a member of network 7", PermissionDenied, "pilotctl network join NETWORK"),
        ("cannot register address for another node", PermissionDenied, "that node"),
        ('name "x" is not yours', PermissionDenied, "pilotctl name-list"),
    ],
)
def test_refusals_of_a_nameserver_have_hints(reply: str, kind: type[PilotError], hint: str) -> None:
    with pytest.raises(kind) as caught:
        codec.parse_reply(f"ERR {reply}")
    assert hint in (caught.value.hint or "")


def test_a_missing_file_is_looked_for_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound) as caught:
        Source("report.pdf")
    assert caught.value.hint == f"the path is taken from {tmp_path}"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("the receiver is busy, try again later", "try again later"),
        ("the receiver's disk is full", "make room"),
        ("over the receiver's quota", "make room"),
        ("anything else", "log"),
    ],
)
def test_a_receiver_that_stores_nothing_is_explained(text: str, hint: str) -> None:
    frame = Frame(FrameType.TEXT, f"ERR TEXT save failed: {text}".encode())
    with pytest.raises(NotStored) as caught:
        Answer(frame).check()
    assert hint in (caught.value.hint or "")
