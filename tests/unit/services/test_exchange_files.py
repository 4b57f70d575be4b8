"""Files and folders between our own nodes, and from and to existing ones."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.services.exchange import PEER, Service, serving
from tests.unit.services.streams import Pipe, pipe

from pilotstack.errors import InvalidArgument, NotFound, Unavailable
from pilotstack.services.data_exchange import (
    Exchange,
    Limits,
    NotStored,
    bulk,
    filestream,
    frames,
    partial,
)
from pilotstack.services.data_exchange.connection import Connection
from pilotstack.services.data_exchange.folder import Folder
from pilotstack.services.data_exchange.frames import Frame, FrameType
from pilotstack.services.data_exchange.listing import Mailbox
from pilotstack.services.data_exchange.reader import Reader
from pilotstack.services.data_exchange.refusals import Refused
from pilotstack.services.data_exchange.sending import send_chunks
from pilotstack.services.data_exchange.source import Source
from pilotstack.types import Address, SocketAddress

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3_500_000)
MB = 1 << 20


@pytest.fixture
async def service(tmp_path: Path) -> Any:
    async with serving(tmp_path / "home") as service:
        yield service


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(CONTENT)
    return path


async def test_a_file_arrives_whole_and_verified(service: Service, file: Path) -> None:
    told: list[int] = []
    async with service.sender() as peer:
        sent = await peer.send_file(file, progress=told.append)
    assert (sent.transport, sent.is_verified, sent.resumed) == ("bulk", True, 0)
    assert sent.size == sent.sent == len(CONTENT)
    assert sent.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)
    ((name, content),) = service.files().items()
    assert name.startswith("report-")
    assert name.endswith(".bin")
    assert content == CONTENT
    assert (service.received / name).stat().st_mode & 0o777 == 0o600
    assert service.partials() == []


@pytest.mark.parametrize("size", [0, 1, MB - 1, MB, MB + 1, 2 * MB])
async def test_sizes_around_a_block(service: Service, tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT[:size])
    async with service.sender() as peer:
        # Two, to see that the connection goes on.
        for _ in range(2):
            assert (await peer.send_file(path)).size == size
    assert [*service.files().values()] == [CONTENT[:size]] * 2


async def test_a_pipe_is_sent_to_its_end(service: Service) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as end:
            end.write(CONTENT)

    async with service.sender() as peer, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, write)
        sent = await peer.send_file(reading, name="from stdin.bin")
    os.close(reading)
    assert sent.size == len(CONTENT)
    assert [*service.files().values()] == [CONTENT]


async def test_a_broken_transfer_is_resumed(service: Service, file: Path) -> None:
    """The first stream breaks after two blocks; the second one sends only what is missing."""
    streams: list[Pipe] = []

    async def dial() -> Pipe:
        stream = await service.dial()
        if not streams:
            stream = _Breaking(stream, 2 * MB + 100)
        streams.append(stream)
        return stream

    async with Exchange(dial) as peer:
        sent = await peer.send_file(file)
    assert len(streams) == 2
    assert sent.resumed >= MB
    assert sent.sent == len(CONTENT) - sent.resumed
    assert [*service.files().values()] == [CONTENT]
    assert service.partials() == []


async def test_another_peer_cannot_touch_what_is_unfinished(service: Service, file: Path) -> None:
    async with _once(service, 2 * MB + 100) as peer:
        with pytest.raises(anyio.BrokenResourceError):
            await peer.send_file(file)
    await _idle(service)
    (left,) = service.partials()
    async with service.sender(SocketAddress(Address(0, 9), 1)) as stranger:
        sent = await stranger.send_file(file)
    assert sent.resumed == 0
    assert service.partials() == [left]
    # Nor does a start of other content harm: the hash says so, and it is sent from the beginning.
    path = service.received / ".partial" / left
    path.write_bytes(b"x" * path.stat().st_size)
    async with service.sender() as peer:
        sent = await peer.send_file(file)
    assert (sent.resumed, sent.is_verified) == (0, True)
    assert [*service.files().values()] == [CONTENT] * 2


async def test_a_second_stream_takes_an_unfinished_file_over(service: Service, file: Path) -> None:
    first = await service.dial()
    with Source(file) as source:
        await first.send(bulk.encode(bulk.Offer(source.key, "report.bin", source.size)))
        assert (await _control(first)) == bulk.Accept(0)
        await first.send(bulk.data_head(MB) + CONTENT[:MB])
    async with service.sender() as peer:
        await peer.send_file(file)
    assert [*service.files().values()] == [CONTENT]
    await first.send(bulk.data_head(MB) + CONTENT[:MB])
    await first.send(bulk.data_head(MB) + CONTENT[:MB])
    result = await _control(first)
    assert isinstance(result, bulk.Result)
    assert result.code == "superseded"


async def test_a_wrong_hash_stores_nothing(service: Service) -> None:
    stream = await service.dial()
    await stream.send(bulk.encode(bulk.Offer("0" * 32, "a", 4)))
    await _control(stream)
    await stream.send(bulk.data_head(4) + b"data" + bulk.encode(bulk.End("0" * 64)))
    result = await _control(stream)
    assert isinstance(result, bulk.Result)
    assert result.code == "hash_mismatch"
    assert (service.files(), service.partials()) == ({}, [])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (bulk.data_head(5) + b"12345", "more data than was announced"),
        (bulk.encode(bulk.End("0" * 64)), "incomplete: have 0 of 4 bytes"),
        (bulk.data_head(20 << 20), "a block of a wrong size"),
        (bulk.data_head(0) * 100, "a block of a wrong size"),
        (frames.encode(FrameType.TEXT, b"hello"), "a frame inside a file"),
        (bulk.encode(bulk.Accept(0)), "nobody expects"),
        (frames.header(FrameType.BULK, 1 << 20) + b"\x04", "too long"),
    ],
)
async def test_what_does_not_fit_is_told(service: Service, sent: bytes, reason: str) -> None:
    stream = await service.dial()
    await stream.send(bulk.encode(bulk.Offer("0" * 32, "a", 4)))
    await _control(stream)
    await stream.send(sent)
    with anyio.fail_after(10):
        frame = await Reader(stream).frame(1 << 16)
    assert frame is not None
    assert reason.encode() in frame.payload
    assert service.files() == {}
    async with service.sender() as peer:
        assert (await peer.send_text("still here")).text == "ACK TEXT 10 bytes"


@pytest.mark.parametrize("name", ["", "..", "a/..", "\0"])
async def test_a_name_that_is_none_is_refused(service: Service, name: str) -> None:
    stream = await service.dial()
    await stream.send(bulk.encode(bulk.Offer("0" * 32, name, 4)))
    result = await _control(stream)
    assert isinstance(result, bulk.Result)
    assert result.code == "invalid_name"


async def test_a_full_disk_is_told_and_leaves_nothing(
    service: Service, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = partial._write
    written = 0

    def write(fd: int, parts: list[bytes], offset: int) -> None:
        nonlocal written
        written += sum(map(len, parts))
        if written > 2 * MB:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, parts, offset)

    monkeypatch.setattr(partial, "_write", write)
    async with service.sender() as peer:
        with pytest.raises(NotStored, match="the receiver's disk is full") as refused:
            await peer.send_file(file)
        assert refused.value.code == "disk_full"
        assert (service.files(), service.partials()) == ({}, [])
        answer = await peer.send(Frame(FrameType.FILE, frames.file_payload("a", CONTENT[:MB])))
        assert answer.text == "ERR FILE save failed: the receiver's disk is full"
        assert service.partials() == []
        # When there is room again, everything is as before.
        written = -10 * MB
        await peer.send_file(file)
    assert [*service.files().values()] == [CONTENT]


async def test_room_is_checked_before_data_is_sent(tmp_path: Path, file: Path) -> None:
    limits = Limits(sender_bytes=1000)
    async with serving(tmp_path, limits=limits) as service, service.sender() as peer:
        with pytest.raises(NotStored, match="your quota of bytes is used up") as refused:
            await peer.send_file(file)
        assert refused.value.code == "quota"
        # Of a pipe the size is not known.
        reading, writing = os.pipe()
        os.write(writing, b"x" * 2000)
        os.close(writing)
        with pytest.raises(NotStored, match="your quota of bytes is used up"):
            await peer.send_file(reading, name="a")
        os.close(reading)
        assert service.partials() == []
        assert service.exchange._stores.folder.quota.used() == (0, 0)
    reserved = Limits(reserve_bytes=1 << 60)
    async with serving(tmp_path, limits=reserved) as service, service.sender() as peer:
        with pytest.raises(NotStored, match="disk is full"):
            await peer.send_file(file)


async def test_unfinished_files_are_bounded_per_sender(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=Limits(sender_partials=2)) as service:
        for number in range(5):
            stream = await service.dial()
            await stream.send(bulk.encode(bulk.Offer(f"{number:032x}", "a", 10)))
            await _control(stream)
            await stream.send(bulk.data_head(4) + b"data")
            await stream.aclose()
            await _idle(service)
        assert len(service.partials()) == 2
        bytes_used, files_used = service.exchange._stores.folder.quota.used()
        assert (bytes_used <= 8, files_used) == (True, 2)
        busy = [await service.dial() for _ in range(3)]
        for number, stream in enumerate(busy):
            await stream.send(bulk.encode(bulk.Offer(f"{number + 10:032x}", "a", 10)))
            result = await _control(stream)
        assert isinstance(result, bulk.Result)
        assert result.code == "busy"


# Folders


def make_folder(root: Path) -> dict[str, bytes]:
    files = {
        "a.txt": b"a",
        "sub/b.bin": CONTENT[: MB + 5],
        "sub/deep/.hidden": b"h",
        "sub/empty": b"",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub" / "loop").symlink_to(root)
    return files


async def test_a_folder_arrives_as_one(service: Service, tmp_path: Path) -> None:
    files = make_folder(tmp_path / "docs")
    async with service.sender() as peer:
        sent = await peer.send_folder(tmp_path / "docs")
    assert (sent.name, len(sent.files), sent.skipped) == ("docs", 4, 2)
    got = service.files()
    (root,) = {name.split("/")[0] for name in got}
    assert root.startswith("docs-")
    expected = {name.replace(".hidden", "_hidden"): content for name, content in files.items()}
    assert {name.removeprefix(f"{root}/"): content for name, content in got.items()} == expected
    assert service.partials() == []


async def test_a_folder_is_resumed_where_it_broke(service: Service, tmp_path: Path) -> None:
    make_folder(tmp_path / "docs")

    async with _once(service, MB + 1000) as peer:
        with pytest.raises(anyio.BrokenResourceError):
            await peer.send_folder(tmp_path / "docs")
    assert service.files() == {}
    await _idle(service)
    async with service.sender() as peer:
        sent = await peer.send_folder(tmp_path / "docs")
    assert sum(file.resumed for file in sent.files) > MB
    assert len(service.files()) == 4


async def test_empty_folders_are_bounded_too(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=Limits(sender_files=3)) as service:
        stream = await service.dial()
        codes = []
        for number in range(5):
            await stream.send(bulk.encode(bulk.Close(f"{number:032x}", "empty")))
            result = await _control(stream)
            assert isinstance(result, bulk.Result)
            codes.append(result.code)
        assert codes == ["", "", "", "quota", "quota"]
        assert len([*service.received.glob("empty-*")]) == 3


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/../../x", "sub\\..\\x"])
async def test_paths_do_not_lead_out_of_the_folder(
    service: Service, tmp_path: Path, path: str
) -> None:
    stream = await service.dial()
    await stream.send(bulk.encode(bulk.Offer("0" * 32, path, 1, "1" * 32, "docs")))
    result = await _control(stream)
    assert isinstance(result, bulk.Result)
    assert result.code == "invalid_name"
    assert service.files() == {}


async def test_what_cannot_be_sent_is_an_error_of_the_caller(
    service: Service, tmp_path: Path
) -> None:
    async with service.sender() as peer:
        with pytest.raises(NotFound):
            await peer.send_file(tmp_path / "nothing")
        with pytest.raises(InvalidArgument):
            await peer.send_file(tmp_path)
        with pytest.raises(NotFound):
            await peer.send_folder(tmp_path / "nothing")
        with pytest.raises(InvalidArgument):
            await peer.send_json(object())
        with pytest.raises(InvalidArgument):
            await peer.send_bytes(bytes((16 << 20) + 1))
        assert (await peer.send_text("fine")).text == "ACK TEXT 4 bytes"


# Existing nodes


async def test_chunks_of_existing_nodes_are_taken_and_resumed(service: Service, file: Path) -> None:
    stream = await service.dial()
    number = hashlib.sha256(CONTENT).digest()[:16]
    init = filestream.Init(number, len(CONTENT), hashlib.sha256(CONTENT).digest(), b"r.bin")
    await stream.send(_stream(init))
    await stream.send(_stream(filestream.Chunk(number, 0, CONTENT[:40_000])))
    await stream.send(_stream(filestream.Chunk(number, 40_000, CONTENT[40_000:80_000])))
    reader = Reader(stream)
    for _ in range(3):
        await reader.frame(1 << 16)
    await stream.aclose()
    await _idle(service)
    with Source(file, "r.bin") as source:
        sent = await send_chunks(Connection(await service.dial(), 10), source, lambda _: None)
    assert (sent.resumed, sent.transport, sent.is_verified) == (80_000, "filestream", True)
    assert [*service.files().values()] == [CONTENT]


@pytest.mark.parametrize("kind", ["older", "newer", "echo", "silent"])
async def test_existing_receivers_get_what_they_know(file: Path, kind: str) -> None:
    old = _OldNode(kind)
    small = file.with_name("small.txt")
    small.write_bytes(b"hello")
    async with anyio.create_task_group() as tasks:
        old.tasks = tasks
        async with Exchange(old.dial) as peer:
            sent = await peer.send_file(small)
            assert old.got == ("small.txt", b"hello")
            assert sent.transport == ("filestream" if kind == "newer" else "frame")
            folder = file.with_name("folder")
            folder.mkdir()
            (folder / "a").write_bytes(b"a")
            with pytest.raises(Unavailable):
                await peer.send_folder(folder)
            if kind != "newer":
                small.write_bytes(b"x")
                os.truncate(small, 17 << 20)
                with pytest.raises(Unavailable):
                    await peer.send_file(small)
        tasks.cancel_scope.cancel()
    await old.close()


class _OldNode:
    """A receiver of one of the generations, as far as files go; or a server that only echoes, or
    one that hangs up when it does not know a frame."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.tasks: anyio.abc.TaskGroup
        self.got: tuple[str, bytes] | None = None
        self._pipes: list[Pipe] = []

    async def dial(self) -> Pipe:
        ours, theirs = pipe(dialler=PEER)
        self._pipes += [ours, theirs]
        self.tasks.start_soon(self._serve, theirs)
        return ours

    async def close(self) -> None:
        for end in self._pipes:
            await end.aclose()

    async def _serve(self, stream: Pipe) -> None:
        reader = Reader(stream)
        data = b""
        name = ""
        async with stream:
            while (frame := await reader.frame(frames.MAX_MESSAGE)) is not None:
                answer = Frame(FrameType.TEXT, frames.unsupported(frame.type).encode())
                if frame.type == FrameType.FILE:
                    raw, content = frames.split_file(frame.payload)
                    self.got = raw.decode(), content
                    text = frames.ack(FrameType.FILE, len(content))
                    answer = Frame(FrameType.TEXT, text.encode())
                elif self.kind == "older":
                    text = f"ACK UNKNOWN({frame.type}) {len(frame.payload)} bytes"
                    answer = Frame(FrameType.TEXT, text.encode())
                elif self.kind == "silent":
                    return
                elif frame.type == FrameType.FILESTREAM and self.kind == "newer":
                    message = filestream.parse(frame.payload)
                    if isinstance(message, filestream.Init):
                        name = message.name.decode()
                        reply: filestream.Message = filestream.InitAck(message.id, 0)
                    elif isinstance(message, filestream.Chunk):
                        data += message.data
                        reply = filestream.Ack(message.id, len(data))
                    else:
                        self.got = name, data
                        reply = filestream.Complete(message.id, True)
                    answer = Frame(FrameType.FILESTREAM, filestream.encode(reply))
                if self.kind == "echo":
                    answer = frame
                await stream.send(frames.encode(answer.type, answer.payload))


class _Breaking(Pipe):
    """A stream that breaks after so many bytes."""

    def __init__(self, stream: Pipe, count: int) -> None:
        super().__init__(stream._send, stream._receive)
        self._left = count

    async def send(self, item: bytes) -> None:
        self._left -= len(item)
        if self._left < 0:
            await self.aclose()
            raise anyio.BrokenResourceError
        await super().send(item)


async def _idle(service: Service) -> None:
    """Returns when no file is under way."""
    while service.exchange._stores.folder._open:
        await anyio.lowlevel.checkpoint()


def _once(service: Service, count: int) -> Exchange:
    """What a peer sends with whose first stream breaks after so many bytes, and all others at
    once."""
    left = [count]

    async def dial() -> Pipe:
        return _Breaking(await service.dial(), left.pop() if left else 0)

    return Exchange(dial)


def _stream(message: filestream.Message) -> bytes:
    return frames.encode(FrameType.FILESTREAM, filestream.encode(message))


async def _control(stream: Pipe) -> bulk.Control:
    with anyio.fail_after(10):
        frame = await Reader(stream).frame(1 << 16)
    assert frame is not None
    assert frame.type == FrameType.BULK
    return bulk.parse(frame.payload)


def test_folders_that_stay_empty_cost_their_sender(tmp_path: Path) -> None:
    folder = Folder(tmp_path, Limits(sender_files=60, total_files=100, sender_partials=4))
    empty = hashlib.sha256().digest()
    path = "/".join("d" * 8) + "/f"

    def again(number: int) -> None:
        """Puts a file into a folder of many levels, and takes it back."""
        tree = f"{number:032x}"
        for is_put in (True, False):
            partial = folder.begin(7, key="k" * 32, size=0, tree=tree, path=path)
            if is_put:
                folder.finish_in_tree(partial, tree, path, empty)
            else:
                folder.keep(partial)

    for number in range(20):
        again(number)
    left = [name for name in os.listdir(tmp_path / ".partial") if name.endswith(".tree")]
    assert left == []
    assert folder.quota.used(7) == (0, 1)
    # Folders that hold something count, and no more of them stay than unfinished files may.
    for number in range(20):
        partial = folder.begin(7, key=f"{number:032x}", size=0)
        folder.finish_in_tree(partial, f"{number:032x}", path, empty)
    left = [name for name in os.listdir(tmp_path / ".partial") if name.endswith(".tree")]
    assert len(left) <= 4
    assert folder.quota.used(7)[1] <= 60
    partial = folder.begin(7, key="b" * 32, size=0)
    with pytest.raises(Refused, match="quota of files"):
        folder.finish_in_tree(partial, "c" * 32, "/".join("e" * 31) + "/f", empty)
    # Nobody else notices.
    folder.keep(folder.begin(8, key="k" * 32, size=0))
    folder.close()


@pytest.mark.parametrize("number", ["a\0b", "x" * 300, "../../etc/passwd", ".hidden"])
def test_an_id_that_no_message_can_have_is_of_none(tmp_path: Path, number: str) -> None:
    assert Mailbox(tmp_path).read(number) is None
