"""Collects the facts that checks take. The only I/O of this package."""

from __future__ import annotations

import os
import resource
import shutil
import socket as sockets
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute

from pilotstack import _paths, _serving
from pilotstack.diagnosis.host import Socket
from pilotstack.diagnosis.network import BUFFER_BYTES
from pilotstack.diagnosis.registry import Contact
from pilotstack.errors import PilotError
from pilotstack.registry.protocol import framing, tls

if TYPE_CHECKING:
    from pilotstack.registry.protocol.tls import TlsTrust

#: Seconds for a registry to answer, with everything before that.
PATIENCE: Final = 6.0
#: Bytes of the answer, which lists beacons.
_MAX_ANSWER: Final = 1 << 20
_READ: Final = 1 << 16


async def contact(
    address: tuple[str, int], trust: TlsTrust | None, patience: float = PATIENCE
) -> Contact:
    """Asks a registry for something that it tells everybody."""
    name = _serving.join_address(*address)
    is_pinned = trust is not None and bool(trust.fingerprints)
    begun = time.perf_counter()
    try:
        with anyio.fail_after(patience):
            stream = await tls.open_stream(*address, trust)
            try:
                expires = _end_of(stream)
                asked = time.perf_counter()
                clock = await _ask_time(stream)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
    except (
        OSError,
        UnicodeError,
        PilotError,
        anyio.EndOfStream,
        anyio.BrokenResourceError,
        framing.ProtocolError,
    ) as failure:
        return Contact(name, trust is not None, is_pinned, failure)
    now = time.perf_counter()
    return Contact(
        name,
        trust is not None,
        is_pinned,
        took=now - begun,
        expires=expires,
        # When the registry answered, if both ways take as long.
        at=time.time() - (now - asked) / 2,
        clock=clock,
    )


def _end_of(stream: anyio.abc.ByteStream) -> float:
    """The end of a certificate that was verified; 0 if there is none."""
    certificate = stream.extra(TLSAttribute.peer_certificate, None) or {}
    end = certificate.get("notAfter")
    return float(ssl.cert_time_to_seconds(end)) if isinstance(end, str) else 0.0


async def _ask_time(stream: anyio.abc.ByteStream) -> float:
    await stream.send(framing.encode({"type": "beacon_list"}))
    framer = framing.Framer(_MAX_ANSWER)
    while (body := framer.next_body()) is None:
        framer.feed(await stream.receive(_READ))
    told = framing.decode(body).get("time", 0)
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else 0.0


def buffers() -> tuple[int, int]:
    """Bytes for receiving and sending that the kernel grants a UDP socket."""
    # Linux counts its own bookkeeping, by doubling what was asked for (socket(7)).
    divisor = 2 if sys.platform == "linux" else 1
    granted = []
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        for option in (sockets.SO_RCVBUF, sockets.SO_SNDBUF):
            # Other systems refuse what is too much.
            with suppress(OSError):
                probe.setsockopt(sockets.SOL_SOCKET, option, BUFFER_BYTES)
            granted.append(probe.getsockopt(sockets.SOL_SOCKET, option) // divisor)
    return granted[0], granted[1]


def descriptor_limit(pid: int | None) -> tuple[int, int]:
    """How many files the daemon may open and has opened; without a daemon, how many one might."""
    with suppress(OSError, ValueError, StopIteration):
        if pid is not None:
            lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
            row = next(line for line in lines if line.startswith("Max open files"))
            used = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            return int(row.split()[3]), used
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 30 if hard == resource.RLIM_INFINITY else hard), 0


def server_pid(path: Path) -> int | None:
    """The process that serves a socket; ``None`` where the system does not tell."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            _paths.connect(probe, path)
        except (OSError, PilotError):
            return None
        return _paths.peer(probe)[0]


def cpu_seconds(pid: int | None) -> float | None:
    """Seconds of CPU that a process has used; ``None`` where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        # The name before the last bracket may hold anything: proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")
    return None


#: User and system time among the fields of ``/proc/PID/stat`` after the name.
_UTIME, _STIME = 11, 12


def free_bytes(path: Path) -> tuple[Path, int]:
    """The bytes that are free at a path, or at the first folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path, shutil.disk_usage(path).free


def socket_at(path: Path) -> Socket:
    """What is at the place of a socket."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return Socket(path)
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            with _paths.socket_address(path) as address:
                probe.connect(address)
        except TimeoutError:
            # A daemon that hangs still serves it.
            is_served = True
        except (OSError, PilotError):
            is_served = False
        else:
            is_served = True
    return Socket(path, True, status.st_uid, is_served)
