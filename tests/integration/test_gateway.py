"""The gateway with real daemons, real programs, and local IPs in a network namespace."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.descriptors import descriptors, wait_for_descriptors
from tests.support.gateways import Gateway, own_subnet, running
from tests.support.site import SiteProcess

from pilotstack import sync
from pilotstack.errors import PilotError, StreamBroken
from pilotstack.gateway.mapping import Mapping
from pilotstack.gateway.store import Store
from pilotstack.testing import Network
from pilotstack.testing.internet import Host, Namespaces, missing_requirement
from pilotstack.types import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = '{"status":"ok","protocol":"pilot","port":80}'
ETH_P_IP = 0x0800
PROXY = ("--proxy", "127.0.0.1:0")
MISSING = missing_requirement("curl")
root_only = pytest.mark.skipif(bool(MISSING), reason=f"local IPs need {MISSING}")


@pytest.fixture(scope="module")
def agents() -> Iterator[Network]:
    """Three agents, of which one has a site."""
    with Network() as network:
        for name in ("agent-a", "agent-b", "agent-c"):
            network.start(name)
        with SiteProcess(network.nodes["agent-b"]):
            yield network


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with nothing but its loopback interface."""
    with Namespaces("pilotgate") as namespaces:
        yield namespaces.add("gateway")


@pytest.fixture
def fresh(agents: Network) -> Network:
    """The agents, of whom no gateway knows anything."""
    (agents.path / "gateway").mkdir(exist_ok=True)
    (agents.path / "gateway" / "gateway.json").unlink(missing_ok=True)
    return agents


@root_only
def test_curl_reaches_an_agent_through_a_local_ip(fresh: Network, host: Host) -> None:
    address = fresh.nodes["agent-b"].address
    with running(fresh, "agent-a", address, host=host) as gateway:
        (row,) = gateway.rows
        assert (row["local_ip"], row["pilot_addr"]) == ("10.4.0.1", address)
        assert list(row["ports"]) == ["7", "80", "443", "1000", "1001", "1002", "8080", "8443"]
        assert gateway.curl("http://10.4.0.1/status") == STATUS
        assert "<h1>Hello from Pilot Protocol</h1>" in gateway.curl("http://10.4.0.1/")
        before = gateway.descriptors()
        for _ in range(5):
            assert gateway.curl("http://10.4.0.1/status") == STATUS
        gateway.settle(before)
        listed = gateway.ctl("list")["data"]
        assert (listed["connections"], listed["connections_total"]) == (0, 7)
        assert gateway.aliases() == ["10.4.0.1"]
    assert gateway.process.stop() == 0
    assert gateway.aliases() == []


@root_only
def test_many_requests_leave_no_descriptor(fresh: Network, host: Host) -> None:
    with running(fresh, "agent-a", "agent-b", host=host) as gateway:
        gateway.curl("http://10.4.0.1/status?[1-20]", "-H", "Connection: close", "--parallel")
        before = gateway.descriptors()
        daemons = [(node.pid, descriptors(node.pid)) for node in fresh.nodes.values()]
        count = 500
        shown = gateway.curl("http://10.4.0.1/status?[1-500]", "-H", "Connection: close")
        assert shown.count("there is no such page") == count
        gateway.settle(before)
        for pid, was in daemons:
            wait_for_descriptors(was, pid)


def echo_of(host: Host, ip: str) -> bytes:
    """What an agent's echo service answers after our end."""
    with host.socket(socket.SOCK_STREAM) as echo:
        echo.settimeout(30)
        echo.connect((ip, 7))
        echo.sendall(b"half")
        echo.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := echo.recv(100):
            answer += chunk
    return answer


@root_only
def test_an_observer_of_all_datagrams_reads_nothing_of_it(fresh: Network, host: Host) -> None:
    tunnels = {int(node.tunnel.rpartition(":")[2]) for node in fresh.nodes.values()}
    seen: list[bytes] = []
    # Daemons are on this host, the gateway and curl on another: only tunnels are seen here.
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as observer,
        running(fresh, "agent-a", "agent-b", host=host) as gateway,
    ):
        observer.bind(("lo", 0))
        observer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        observer.settimeout(30)
        body = b"a secret that nobody else may read " * 1000
        arguments = ("--data-binary", "@-", "http://10.4.0.1/echo")
        assert gateway.run("curl", "-sS", *arguments, stdin=body) == body
        while sum(map(len, seen)) < 2 * len(body):
            frame = observer.recv(1 << 17)
            if frame[23] == socket.IPPROTO_UDP and tunnels & set(ports_of(frame)):
                seen.append(frame[42:])
    assert not [data for data in seen if b"secret" in data or b"HTTP/1.1" in data]


def ports_of(frame: bytes) -> tuple[int, int]:
    """The ports of a UDP datagram in an Ethernet frame, without options of IP."""
    return int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38])


@root_only
def test_agents_are_mapped_while_it_runs(fresh: Network, host: Host) -> None:
    with running(fresh, "agent-a", "agent-b", host=host) as gateway:
        mapped = gateway.ctl("map", "agent-c", "10.4.7.7")["data"]
        assert (mapped["local_ip"], mapped["name"]) == ("10.4.7.7", "agent-c")
        assert gateway.ctl("map", "agent-b")["data"]["local_ip"] == "10.4.0.1"
        assert sorted(gateway.aliases()) == ["10.4.0.1", "10.4.7.7"]
        assert echo_of(host, "10.4.7.7") == b"half"
        assert gateway.ctl("map", "agent-c", "10.4.7.8")["code"] == "already_exists"
        assert gateway.ctl("map", "agent-a", "10.4.7.7")["message"] == "IP 10.4.7.7 already mapped"
        assert gateway.ctl("map", "agent-a", "10.5.0.1")["code"] == "invalid_argument"
        assert gateway.ctl("map", "nobody")["code"] == "not_found"
        assert gateway.ctl("unmap", "agent-c")["data"]["unmapped"] == "10.4.7.7"
        assert gateway.ctl("unmap", "10.4.7.7")["message"] == "no mapping for 10.4.7.7"
        assert gateway.aliases() == ["10.4.0.1"]
        assert [row["local_ip"] for row in gateway.ctl("list")["data"]["mappings"]] == ["10.4.0.1"]
        assert gateway.ctl("stop")["data"] == {"pid": gateway.pid}
        # It had ended when the answer came.
        assert gateway.aliases() == []
        assert gateway.ctl("list")["code"] == "not_running"


@root_only
def test_mappings_outlive_the_gateway(fresh: Network, host: Host) -> None:
    with running(fresh, "agent-a", "agent-b", "agent-c", host=host) as gateway:
        assert [row["name"] for row in gateway.rows] == ["agent-b", "agent-c"]
        gateway.ctl("unmap", "agent-b")
    with running(fresh, "agent-a", "agent-a", "agent-b", host=host) as gateway:
        found = {row["name"]: row["local_ip"] for row in gateway.rows}
        assert found == {"agent-c": "10.4.0.2", "agent-a": "10.4.0.3", "agent-b": "10.4.0.1"}


@root_only
def test_a_killed_gateway_leaves_addresses_for_a_minute_at_most(fresh: Network, host: Host) -> None:
    with running(fresh, "agent-a", "agent-b", host=host) as gateway:
        gateway.process.kill()
        shown = json.loads(gateway.run("ip", "-json", "address", "show", "lo"))
        (left,) = [row for row in shown[0]["addr_info"] if row["local"] == "10.4.0.1"]
        assert 0 < left["valid_life_time"] <= 60
    # The next one takes it up, and takes it back.
    with running(fresh, "agent-a", host=host) as gateway:
        assert gateway.curl("http://10.4.0.1/status") == STATUS
    assert gateway.aliases() == []


@root_only
def test_what_fails_is_said(fresh: Network, host: Host) -> None:
    host.ip("address add 10.4.0.1/32 dev lo")
    taken = host.socket(socket.SOCK_STREAM)
    with taken:
        taken.bind(("10.4.0.1", 80))
        taken.listen()
        with running(fresh, "agent-a", "agent-b", "nobody", host=host) as gateway:
            (row,) = gateway.rows
            assert row["failed"] == {"80": "TCP port 80 is in use: 10.4.0.1:80"}
            assert "80" not in row["ports"]
            assert [each["code"] for each in gateway.ready["failed"]] == ["not_found"]
            with pytest.raises(PilotError, match="a gateway runs already"):
                Gateway(fresh, fresh.nodes["agent-a"], host=host)
            assert echo_of(host, "10.4.0.1") == b"half"
    # It was somebody else's before.
    assert gateway.aliases() == ["10.4.0.1"]


@root_only
def test_no_other_host_reaches_a_local_ip(fresh: Network) -> None:
    with Namespaces("pilotgate") as namespaces:
        inner, outer = namespaces.add("inner"), namespaces.add("outer")
        inner.ip(f"link add out type veth peer name in netns {outer.name}")
        inner.ip("address add 10.99.0.1/24 dev out", "link set out up")
        outer.ip("address add 10.99.0.2/24 dev in", "link set in up")
        outer.ip("route add 10.4.0.0/16 via 10.99.0.1")
        with running(fresh, "agent-a", "agent-b", host=inner) as gateway:
            assert gateway.curl("http://10.4.0.1/status") == STATUS
            stranger = outer.socket(socket.SOCK_STREAM)
            stranger.settimeout(10)
            with stranger, pytest.raises(ConnectionRefusedError):
                stranger.connect(("10.4.0.1", 80))


def test_without_privileges_local_ips_are_of_127(fresh: Network) -> None:
    flags = ("--unprivileged", "--ports", "7,80,8080")
    with running(fresh, "agent-a", "agent-b", flags=flags) as gateway:
        (row,) = gateway.rows
        ip, ports = row["local_ip"], row["ports"]
        assert ip.startswith("127.")
        assert ports["8080"] == 8080
        assert ports["80"] in {80, 20_080}
        assert httpx.get(f"http://{ip}:{ports['80']}/status").text == STATUS
        with socket.create_connection((ip, ports["7"]), timeout=30) as echo:
            echo.sendall(b"half")
            echo.shutdown(socket.SHUT_WR)
            assert (echo.recv(10), echo.recv(10)) == (b"half", b"")


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_ends_in_order(fresh: Network, signal_: signal.Signals) -> None:
    with running(fresh, "agent-a", flags=("--unprivileged", *PROXY)) as gateway:
        assert gateway.process.stop(signal_) == 0
        assert not gateway.control.exists()


def test_it_needs_a_daemon_and_a_subnet(fresh: Network) -> None:
    for flags, message in (
        (("--subnet", "x"), "invalid CIDR"),
        (("--unprivileged", "--subnet", "10.4.0.0/16"), "not part of 127"),
        (("--proxy", "nowhere"), "not an address"),
        (("--socket", "/nowhere/pilot.sock", "--unprivileged"), "daemon"),
    ):
        with pytest.raises(PilotError, match=message):
            Gateway(fresh, fresh.nodes["agent-a"], flags=flags, host=None)


@root_only
def test_ips_may_be_of_ipv6(fresh: Network, host: Host) -> None:
    flags = ("--subnet", "fd00:4::/64", "--ports", "80")
    with running(fresh, "agent-a", "agent-b", flags=flags, host=host) as gateway:
        assert gateway.rows[0]["local_ip"] == "fd00:4::1"
        assert gateway.curl("http://[fd00:4::1]/status") == STATUS
    assert gateway.aliases() == []


@root_only
def test_a_gateway_without_descriptors_goes_on(fresh: Network, host: Host) -> None:
    files = 96
    prefix = ["prlimit", f"--nofile={files}:{files}"]
    flags = ("--limit", "1000")
    with running(fresh, "agent-a", "agent-b", flags=flags, host=host, prefix=prefix) as gateway:
        clients = []
        for _ in range(200):
            client = host.socket(socket.SOCK_STREAM)
            client.settimeout(30)
            client.connect(("10.4.0.1", 7))
            clients.append(client)
        for client in clients:
            client.close()
        while True:
            try:
                assert gateway.curl("http://10.4.0.1/status") == STATUS
                break
            except AssertionError:
                # Those that were closed wait to be accepted still.
                assert gateway.process.is_running
        assert "Traceback" not in gateway.log.read_text()


@root_only
def test_only_some_users_may_connect(fresh: Network) -> None:
    flags = ("--unprivileged", "--ports", "8080,7", *PROXY, "--allow-uid", "0,4242")
    with running(fresh, "agent-a", "agent-b", flags=flags) as gateway:
        at = gateway.rows[0]["local_ip"], gateway.rows[0]["ports"]["7"]
        assert half_closed(at) == b"half"
        for command in (
            ("curl", "-sS", f"http://{at[0]}:{at[1]}/"),
            ("curl", "-sS", "--socks5-hostname", gateway.proxy, "http://agent-b/status"),
        ):
            as_user = ("setpriv", "--reuid", "4243", "--clear-groups", "--", *command)
            result = subprocess.run(as_user, capture_output=True, check=False, timeout=60)
            assert result.returncode != 0
        assert gateway.ctl("list")["data"]["refused"]["uid"] == 2
        as_user = ("setpriv", "--reuid", "4242", "--clear-groups", "--", *command)
        assert gateway.run(*as_user).decode() == STATUS


def test_many_agents_are_mapped_at_once(fresh: Network) -> None:
    count = 600
    subnet = own_subnet().replace("0/24", "0/20")
    mapping = Mapping(subnet)
    for number in range(count):
        mapping.map(Address(0, 1_000_000 + number))
    Store(fresh.path / "gateway" / "gateway.json").save(mapping)
    flags = ("--unprivileged", "--subnet", subnet, "--ports", "7,8080")
    with running(fresh, "agent-a", "agent-b", flags=flags) as gateway:
        assert gateway.ready["total"] == count + 1
        assert len(gateway.rows) < count
        listed = gateway.ctl("list")["data"]
        assert listed["total"] == count + 1
        (row,) = [each for each in listed["mappings"] if each.get("name") == "agent-b"]
        assert half_closed((row["local_ip"], row["ports"]["7"])) == b"half"


def test_unmapping_resets_what_is_open(fresh: Network) -> None:
    flags = ("--unprivileged", "--ports", "8080")
    node = fresh.nodes["agent-b"]
    with (
        sync.Driver(node.socket) as driver,
        driver.listen(8080) as listener,
        running(fresh, "agent-a", "agent-b", flags=flags) as gateway,
        socket.create_connection((gateway.rows[0]["local_ip"], 8080), timeout=30) as client,
        listener.accept() as stream,
    ):
        client.sendall(b"x")
        assert stream.recv(10) == b"x"
        gateway.ctl("unmap", "agent-b")
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        with pytest.raises(StreamBroken):
            stream.recv(10)


def test_a_gateway_finds_a_daemon_that_was_restarted(network: Network) -> None:
    a, _ = network.start("agent-a"), network.start("agent-b")
    flags = ("--unprivileged", "--ports", "7", *PROXY)
    with running(network, "agent-a", "agent-b", flags=flags) as gateway:
        assert not gateway.ready["failed"]
        at = gateway.rows[0]["local_ip"], gateway.rows[0]["ports"]["7"]
        assert half_closed(at) == b"half"
        a.process.stop()
        network.start("agent-a")
        # The gateway has reconnected some time later.
        while half_closed(at) != b"half":
            assert gateway.process.is_running


def half_closed(at: tuple[str, int]) -> bytes:
    """What the echo service answers to half a conversation; nothing if it is reset."""
    with socket.create_connection(at, timeout=30) as echo:
        try:
            echo.sendall(b"half")
            echo.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: echo.recv(100), b""))
        except ConnectionError:
            return b""
