"""DNS of a gateway, asked by ``dig`` and by programs that know nothing of the overlay."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.dig import dig
from tests.support.gateways import running
from tests.support.pilotctl import Pilotctl
from tests.support.site import SiteProcess

from pilotstack.testing import Network
from pilotstack.testing.internet import Namespaces, missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig")
MISSING = missing_requirement("curl")


@pytest.fixture(scope="module")
def agents() -> Iterator[Network]:
    """Two agents, of which one has a site, and a nameserver."""
    with Network() as network:
        network.start("nameserver", "--nameserver")
        network.start("agent-a")
        with SiteProcess(network.start("agent-b")):
            yield network


def test_names_are_local_ips(agents: Network) -> None:
    Pilotctl.of(agents, "agent-b")("name-register", "shop.example")
    flags = ("--unprivileged", "--dns", "127.0.0.1:0", "--ports", "80,443")
    with running(agents, "agent-a", flags=flags) as gateway:
        port = int(gateway.ready["dns"].rpartition(":")[2])
        address = agents.nodes["agent-b"].address
        for way in ("+notcp", "+tcp"):
            found = dig(port, way, "agent-b.pilot", "A")
            assert found.status == "NOERROR"
            assert found.flags == {"qr", "aa"}
            ((name, kind, ip),) = found.answers
            assert (name, kind) == ("agent-b.pilot.", "A")
            assert ip.startswith("127.")
            services = dig(port, way, "_http._tcp.agent-b.pilot", "SRV")
            assert [row[2] for row in services.answers] == ["0 0 20080 agent-b.pilot."]
            text = dig(port, way, "agent-b.pilot", "TXT")
            node = agents.nodes["agent-b"].node_id
            assert [row[2] for row in text.answers] == [f'"address={address}" "node={node}"']
            nodata = dig(port, way, "agent-b.pilot", "AAAA")
            assert (nodata.status, nodata.answers, nodata.authority) == ("NOERROR", (), ("SOA",))
            nobody = dig(port, way, "nobody.pilot", "A")
            assert (nobody.status, nobody.authority) == ("NXDOMAIN", ("SOA",))
            assert dig(port, way, "example.com", "A").status == "REFUSED"
            assert [row[2] for row in dig(port, way, "-x", ip).answers] == ["agent-b.pilot."]
        # A name of the nameserver is the same agent.
        assert [row[2] for row in dig(port, "shop.example.pilot", "A").answers] == [ip]
        assert httpx.get(f"http://{ip}:20080/status").json()["protocol"] == "pilot"
        rows = gateway.ctl("list")["data"]["mappings"]
        assert [row["pilot_addr"] for row in rows] == [address]


@pytest.mark.skipif(bool(MISSING), reason=f"local IPs need {MISSING}")
def test_curl_finds_an_agent_by_its_name(agents: Network, tmp_path: Path) -> None:
    (agents.path / "gateway" / "gateway.json").unlink(missing_ok=True)
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    resolves = 'mount --bind "$0" "$(realpath /etc/resolv.conf)" && exec "$@"'
    with (
        Namespaces("names-dns") as namespaces,
        running(
            agents, "agent-a", flags=("--dns", "127.0.0.1:53"), host=namespaces.add("gateway")
        ) as gateway,
    ):
        inside = ("unshare", "--mount", "sh", "-c", resolves, str(resolver))
        shown = gateway.run(*inside, "curl", "-sS", "-m", "20", "http://agent-b.pilot/status")
        assert shown == b'{"status":"ok","protocol":"pilot","port":80}'
        assert gateway.aliases() == ["10.4.0.1"]
