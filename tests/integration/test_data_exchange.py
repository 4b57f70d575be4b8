"""Messages and files between real daemons, by ``pilotctl`` and by the SDK."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.support.pilotctl import _COMMAND, Pilotctl
from tests.support.relayed import relayed_pair

from pilotstack import Driver
from pilotstack.errors import ConnectionRefused
from pilotstack.services import data_exchange
from pilotstack.services.data_exchange import Frame, NotStored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pilotstack.testing import Network
    from pilotstack.types import SocketAddress

CONTENT = os.urandom(9_000_000)


def ask(ctl: Pilotctl, *arguments: object, stdin: str = "") -> dict[str, Any]:
    result = ctl.run(*arguments, stdin=stdin)
    assert result.returncode == 0, result.stdout + result.stderr
    data: dict[str, Any] = json.loads(result.stdout)["data"]
    return data


def fail(ctl: Pilotctl, *arguments: object) -> tuple[str, int]:
    result = ctl.run(*arguments)
    return json.loads(result.stdout)["code"], result.returncode


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pilotctl, Pilotctl]]:
    from pilotstack.testing import Network

    with Network() as network:
        network.start("agent-a")
        network.start("agent-b")
        yield Pilotctl.of(network, "agent-a"), Pilotctl.of(network, "agent-b")


def test_messages_of_every_type_reach_the_inbox(pair: tuple[Pilotctl, Pilotctl]) -> None:
    a, b = pair
    text = ask(a, "send-message", "agent-b", "--data", "hello from data exchange")
    assert (text["type"], text["bytes"], text["ack"]) == ("text", 24, "ACK TEXT 24 bytes")
    given = '{"key":"value","count":42}'
    sent = ask(a, "send-message", "agent-b", "--data", given, "--type", "json")
    assert sent["ack"] == "ACK JSON 26 bytes"
    piped = ask(a, "send-message", "agent-b", "--data", "-", "--type", "binary", stdin="bytes")
    assert (piped["ack"], piped["tagged"]) == ("ACK BINARY 5 bytes", True)
    answer = ask(
        *(a, "send-message", "agent-b", "--data", "again", "--reply-to", text["message_id"]),
    )
    inbox = ask(b, "inbox", "--full")
    assert (inbox["shown"], inbox["total"]) == (4, 4)
    newest, binary, as_json, first = inbox["messages"]
    assert newest["message_id"] == answer["message_id"]
    assert newest["reply_to"] == text["message_id"]
    assert (binary["type"], binary["data_b64"]) == ("BINARY", "Ynl0ZXM=")
    assert json.loads(as_json["data"]) == {"key": "value", "count": 42}
    assert (first["data"], first["type"]) == ("hello from data exchange", "TEXT")
    assert {row["from"] for row in inbox["messages"]} == {"0:0000.0000.0001"}
    # One of them, by its id.
    (read,) = ask(b, "inbox", "read", first["id"])["messages"]
    assert read == first
    assert ask(b, "inbox", "--latest")["messages"] == [newest]
    assert fail(b, "inbox", "read", "TEXT-nothing") == ("not_found", 3)
    assert fail(b, "inbox", "../../etc/passwd") == ("not_found", 3)
    assert ask(b, "inbox", "--clear") == {"cleared": 4, "remaining": 0}


def test_an_answer_is_waited_for(pair: tuple[Pilotctl, Pilotctl]) -> None:
    a, b = pair
    command = [str(_COMMAND), "send-message", "agent-b", "--data", "question?", "--wait", "40s"]
    environment = os.environ | a.environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as asking:
        while not (messages := ask(b, "inbox")["messages"]):
            pass
        (question,) = messages
        # Neither an older message nor one to another question.
        ask(b, "send-message", "agent-a", "--data", "no", "--reply-to", "other")
        ask(b, "send-message", "agent-a", "--data", "yes", "--reply-to", question["message_id"])
        out, _ = asking.communicate(timeout=50)
    reply = json.loads(out)["data"]["reply"]
    assert (reply["data"], reply["reply_to"]) == ("yes", question["message_id"])
    command = [*command[:1], "--no-json", *command[1:]]
    ask(b, "inbox", "--clear")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as asking:
        while not ask(b, "inbox")["messages"]:
            pass
        ask(b, "send-message", "agent-a", "--data", "yes\x1b[2J")
        out, _ = asking.communicate(timeout=50)
    assert b"  yes\\x1b[2J\n" in out
    result = a.run("send-message", "agent-b", "--data", "anybody?", "--wait", "100ms")
    answer = json.loads(result.stdout)
    assert (answer["code"], result.returncode) == ("timeout", 7)
    assert answer["data"]["ack"] == "ACK TEXT 8 bytes"
    for ctl in pair:
        ask(ctl, "inbox", "--clear")


def test_a_file_a_folder_and_stdin_arrive(pair: tuple[Pilotctl, Pilotctl], tmp_path: Path) -> None:
    a, b = pair
    file = tmp_path / "report.bin"
    file.write_bytes(CONTENT)
    sent = ask(a, "send-file", "agent-b", file)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (sent["filename"], sent["bytes"], sent["sha256"]) == ("report.bin", 9_000_000, digest)
    assert (sent["transport"], sent["verified"], sent["bytes_resumed"]) == ("bulk", True, 0)
    assert sent["destination"] == "0:0000.0000.0002"
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "sub" / "a.txt").write_text("a")
    assert ask(a, "send-file", "agent-b", tmp_path / "docs")["files"] == 1
    assert ask(a, "send-file", "agent-b", "-", "--name", "in.txt", stdin="piped")["bytes"] == 5
    received = ask(b, "received")
    assert (received["shown"], received["total"]) == (3, 3)
    piped, folder, whole = received["files"]
    assert Path(piped["path"]).read_text() == "piped"
    assert (Path(folder["path"]) / "sub" / "a.txt").read_text() == "a"
    assert Path(whole["path"]).read_bytes() == CONTENT
    assert (whole["sha256"], whole["from"]) == (digest, "0:0000.0000.0001")
    # Nothing else is in the folder, and nobody else may look.
    assert Path(received["dir"]).stat().st_mode & 0o777 == 0o700
    assert ask(b, "received", "--clear") == {"cleared": 3, "cleared_partial": 0, "remaining": 0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("send-file", "agent-b", "/no/such"), ("not_found", 3)),
        (("send-file", "agent-b", "-"), ("invalid_argument", 2)),
        (("send-message", "agent-b"), ("invalid_argument", 2)),
        (("send-message", "agent-b", "--data", "{", "--type", "json"), ("invalid_argument", 2)),
        (("send-message", "agent-b", "--data", "x", "--type", "bad"), ("invalid_argument", 2)),
        (("send-message", "nobody", "--data", "x"), ("not_found", 3)),
        (("send-message", "agent-b:4999", "--data", "x"), ("connection_failed", 6)),
        (("received", "--before", "1h"), ("invalid_argument", 2)),
    ],
)
def test_mistakes_are_told(
    pair: tuple[Pilotctl, Pilotctl], arguments: tuple[str, ...], expected: tuple[str, int]
) -> None:
    assert fail(pair[0], *arguments) == expected


def test_limits_of_a_node_are_told_to_the_sender(network: Network, tmp_path: Path) -> None:
    network.start("agent-a")
    folder = tmp_path / "elsewhere"
    network.start("agent-b", "--files", str(folder), "--files-quota", "0.001")
    a, b = Pilotctl.of(network, "agent-a"), Pilotctl.of(network, "agent-b")
    file = tmp_path / "large"
    file.write_bytes(CONTENT)
    result = a.run("send-file", "agent-b", file)
    assert result.returncode == 1
    assert json.loads(result.stdout)["code"] == "quota"
    assert "your quota of bytes is used up" in result.stdout
    ask(a, "send-message", "agent-b", "--data", "still here")
    assert ask(b, "inbox")["dir"] == str(folder / "inbox")
    assert ask(b, "info")["dropped"]["service_files_quota"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_the_service_goes_on(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], check=True, timeout=10
    )
    try:
        network.start("agent-a")
        b = network.start("agent-b", "--files", str(folder))
        a = Pilotctl.of(network, "agent-a")
        size = 40_000_000
        result = a.run("send-file", "agent-b", "-", "--name", "a", stdin="x" * size)
        assert json.loads(result.stdout)["code"] == "disk_full"
        assert "the receiver's disk is full" in result.stdout
        assert [*(folder / "received" / ".partial").iterdir()] == []
        assert ask(a, "send-message", "agent-b", "--data", "hello")["ack"] == "ACK TEXT 5 bytes"
        assert b.process.is_running
    finally:
        for node in network.nodes.values():
            node.process.stop()
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


@pytest.mark.anyio
async def test_a_node_may_offer_neither(network: Network) -> None:
    a = network.start("agent-a")
    network.start("agent-b", "--no-dataexchange", "--no-eventstream")
    async with Driver(a.socket) as driver:
        for port in (1001, 1002):
            with pytest.raises(ConnectionRefused):
                await driver.dial(("agent-b", port))


@pytest.mark.anyio
async def test_a_transfer_goes_on_after_the_receiver_was_killed(
    network: Network, tmp_path: Path
) -> None:
    a, b = network.start("agent-a"), network.start("agent-b")
    file = tmp_path / "large"
    size = 300_000_000
    with file.open("wb") as written:
        written.truncate(size)
    killed = anyio.Event()

    def progress(count: int) -> None:
        if count > size // 3:
            killed.set()

    async with Driver(a.socket) as driver, anyio.create_task_group() as tasks:

        async def send() -> None:
            async with data_exchange.connect(driver, "agent-b") as peer:
                await peer.send_file(file, progress=progress)

        tasks.start_soon(send)
        await killed.wait()
        b.process.kill()
        tasks.cancel_scope.cancel()
    partial = network.path / "agent-b" / "received" / ".partial"
    assert len([*partial.iterdir()]) == 1
    b = network.start("agent-b")
    async with Driver(a.socket) as driver, data_exchange.connect(driver, "agent-b") as peer:
        sent = await peer.send_file(file)
    assert 0 < sent.resumed < size
    assert sent.sent + sent.resumed == size
    (stored,) = (network.path / "agent-b" / "received").glob("large-*")
    assert stored.stat().st_size == size
    assert [*partial.iterdir()] == []


@pytest.mark.anyio
async def test_an_application_answers_frames_itself(a: Driver, b: Driver) -> None:
    """The sample server of the protocol sends back what it gets."""

    async def echo(frame: Frame, peer: SocketAddress) -> Frame:
        del peer
        return frame

    async with await b.listen(4701) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(data_exchange.serve, listener, echo)
        async with data_exchange.connect(a, "agent-b", port=4701) as peer:
            answer = await peer.send_text("hello from data exchange")
            assert (answer.text, answer.ack) == ("hello from data exchange", None)
            answer = await peer.send_json(
                {"key": "value", "count": 42}, tag=data_exchange.new_tag()
            )
            assert json.loads(answer.text) == {"key": "value", "count": 42}
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_old_frames_reach_the_service_of_a_daemon(network: Network, tmp_path: Path) -> None:
    """As an existing program sends them: header and payload apart, nothing negotiated."""
    a = network.start("agent-a")
    network.start("agent-b")
    async with Driver(a.socket) as driver, await driver.dial("agent-b:1001") as stream:
        await stream.send(bytes.fromhex("0000000100000018"))
        await stream.send(b"hello from data exchange")
        answer = b""
        while len(answer) < 8 + 17:
            answer += await stream.receive()
        assert answer[8:] == b"ACK TEXT 24 bytes"
        # And one that is too large: the reason comes before the end.
        await stream.send(bytes.fromhex("0000000101000001") + bytes(100_000))
        with suppress(anyio.EndOfStream):
            while True:
                answer += await stream.receive()
        assert answer.endswith(b"a message has at most 16777216 bytes, not 16777217")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_observer_of_the_datagrams_reads_nothing(network: Network, tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    with relayed_pair(network, capture=capture) as (a, _, _):
        async with Driver(a.socket) as driver, data_exchange.connect(driver, "agent-b") as peer:
            await peer.send_text("hello from data exchange" * 10)
            file = tmp_path / "report-of-the-quarter.txt"
            file.write_text("the quick brown fox jumps over the lazy dog " * 1000)
            await peer.send_file(file)
    wire = capture.read_bytes()
    assert len(wire) > 40_000
    for part in (b"hello from data", b"the quick brown", b"report-of-the", b"ACK TEXT", b"PSTF"):
        assert part not in wire


@pytest.mark.anyio
async def test_a_refusal_has_the_receivers_reason(network: Network, tmp_path: Path) -> None:
    a = network.start("agent-a")
    network.start("agent-b", "--files-quota", "0")
    file = tmp_path / "a"
    file.write_text("a")
    async with Driver(a.socket) as driver, data_exchange.connect(driver, "agent-b") as peer:
        with pytest.raises(NotStored) as refused:
            await peer.send_file(file)
    assert refused.value.code == "quota"
