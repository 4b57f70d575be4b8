"""Nebula, from its Debian package, at the same pairs of places: what another overlay reaches.

Its lighthouse is on the host of our rendezvous and relays; nodes punch and answer punches, as its
example configuration recommends behind difficult NATs. It does not say which path it uses, so the
internet counts who exchanges packets.
"""

from __future__ import annotations

import select
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anyio import to_thread
from tests.lab.places import PLACES, expected
from tests.lab.trial import Pair, Result, lay_out

if TYPE_CHECKING:
    from pilotstack.testing.internet import Host, Internet

_PORT, _ECHO = 4242, 4243
_NETWORK = "10.99.0."
#: Bytes of a datagram: more than any packet that nebula sends for itself.
_PAYLOAD = 1000
#: Seconds for a process to be ready, between packets, between looks, and for a direct path.
_READY, _STEP, _LOOK, _CHANCE = 20.0, 0.02, 0.05, 8.0
_CONFIG = """
pki: {{ca: {path}/ca.crt, cert: {path}/{name}.crt, key: {path}/{name}.key}}
static_host_map: {{"{network}1": [{lighthouse}]}}
lighthouse: {{am_lighthouse: {is_lighthouse}, interval: 10, hosts: [{hosts}]}}
listen: {{host: "::", port: {port}}}
punchy: {{punch: true, respond: true}}
relay: {{am_relay: {is_lighthouse}, use_relays: true, relays: [{hosts}]}}
tun: {{dev: nebula1, mtu: 1300}}
logging: {{level: info, format: json}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


def is_installed() -> bool:
    """Whether there is a nebula to compare with."""
    return all(map(shutil.which, ("nebula", "nebula-cert")))


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Keys and processes of one trial."""

    path: Path
    stack: ExitStack
    lighthouse: Host

    def sign(self, name: str, number: int) -> None:
        subprocess.run(
            ["nebula-cert", "sign", "-name", name, "-ip", f"{_NETWORK}{number}/24"],
            cwd=self.path,
            check=True,
            capture_output=True,
        )

    def start(self, name: str, host: Host) -> None:
        """Starts a node; one that is not the lighthouse knows it when this returns."""
        is_lighthouse = host is self.lighthouse
        own = self.lighthouse
        seen = [f'"{own.ipv4}:{_PORT}"'] if host.ipv4 else [f'"[{own.ipv6}]:{_PORT}"']
        file = self.path / f"{name}.yml"
        file.write_text(
            _CONFIG.format(
                path=self.path,
                name=name,
                network=_NETWORK,
                lighthouse=", ".join(seen),
                is_lighthouse=str(is_lighthouse).lower(),
                hosts="" if is_lighthouse else f'"{_NETWORK}1"',
                port=_PORT if is_lighthouse else 0,
            )
        )
        process = subprocess.Popen(
            host.command("nebula", "-config", str(file)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.stack.callback(_stop, process)
        assert process.stdout is not None
        said = "interface is active" if is_lighthouse else "Handshake message received"
        _wait_for(process.stdout, said.encode())


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _wait_for(output: IO[bytes], text: bytes) -> None:
    deadline = time.monotonic() + _READY
    said = b""
    while text not in said:
        if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"nebula did not say {text!r}: {said[-300:]!r}")
        data = output.read(65_536)
        if not data:
            raise TimeoutError(f"nebula ended: {said[-300:]!r}")
        said += data


async def run(pair: Pair, lab: Path | None) -> Result:
    """Tries a pair."""
    return await to_thread.run_sync(_run, pair, lab)


def _run(pair: Pair, lab: Path | None) -> Result:
    wish = expected(PLACES[pair.first], PLACES[pair.second])
    result = Result(pair.first, pair.second, wish.value)
    with ExitStack() as stack:
        try:
            internet, rendezvous, sites = lay_out(stack, pair, lab)
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nebula-")))
            cluster = _Cluster(path, stack, rendezvous)
            subprocess.run(
                ["nebula-cert", "ca", "-name", "lab"], cwd=path, check=True, capture_output=True
            )
            for number, (name, host) in enumerate(
                (("lighthouse", rendezvous), ("first", sites[0].host), ("second", sites[1].host)),
                1,
            ):
                cluster.sign(name, number)
                cluster.start(name, host)
            internet.count(sites[0].outside, sites[1].outside, longer_than=_PAYLOAD)
            return _measure(internet, sites[0].host, sites[1].host, result)
        except (OSError, subprocess.SubprocessError) as error:
            return replace(result, error=str(error))


def _measure(internet: Internet, first: Host, second: Host, result: Result) -> Result:
    """Sends a datagram every few milliseconds, and looks where they go."""
    with first.socket() as here, second.socket() as there:
        here.bind((f"{_NETWORK}2", _ECHO))
        there.bind((f"{_NETWORK}3", _ECHO))
        began = time.perf_counter()
        first_byte = direct = None
        looked, sent = began, 0.0
        while (now := time.perf_counter()) < began + _CHANCE and direct is None:
            if now >= sent + _STEP:
                here.sendto(bytes(_PAYLOAD), (f"{_NETWORK}3", _ECHO))
                sent = now
            for ready in select.select([here, there], [], [], sent + _STEP - now)[0]:
                if ready is there:
                    there.sendto(*there.recvfrom(_PAYLOAD))
                    first_byte = first_byte or time.perf_counter() - began
                else:
                    here.recv(_PAYLOAD)
            if now >= looked + _LOOK:
                looked = now
                if all(internet.counted):
                    direct = now - began
    outcome = "none" if first_byte is None else "relayed" if direct is None else result.way
    return replace(result, outcome=outcome, first_byte=first_byte, direct=direct)
