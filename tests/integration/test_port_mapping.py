"""A daemon behind a real NAT asks a real miniupnpd to map its port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.daemon_log import Log
from tests.support.home_router import HOST, INTERNET, OUTER, HomeRouter, why_not
from tests.support.namespaces import inside

from pilotstack import sync
from pilotstack.testing import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def rendezvous(router: HomeRouter, tmp_path: Path) -> Iterator[Process]:
    flags = ["--registry-addr", f"{INTERNET}:9000", "--beacon-addr", f"{INTERNET}:9001"]
    flags += ["--store", str(tmp_path / "registry.json")]
    process = Process("rendezvous", flags, tmp_path / "r.log", prefix=inside(router.internet))
    yield process
    process.stop()


@pytest.fixture
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HomeRouter]:
    with HomeRouter(tmp_path, request.param) as router:
        yield router


def start(place: str, name: str, directory: Path, *flags: str) -> Process:
    common = ["--registry", f"{INTERNET}:9000", "--beacon", f"{INTERNET}:9001", "--public"]
    common += ["--hostname", name, "--socket", str(directory / f"{name}.sock")]
    common += ["--log-format", "json", "--log-level", "debug"]
    return Process("daemon", [*common, *flags], directory / f"{name}.log", prefix=inside(place))


@pytest.mark.parametrize("router", ["pcp", "nat-pmp", "upnp"], indirect=True)
@pytest.mark.usefixtures("rendezvous")
def test_strangers_reach_the_mapped_port_until_the_daemon_ends(
    router: HomeRouter, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    speaks = request.node.callspec.params["router"]
    with Log(tmp_path / "home.log") as log:
        home = start(router.host, "home", tmp_path)
        try:
            mapped = log.wait_for(event="port_mapped")
            assert mapped["protocol"] == speaks
            external = mapped["endpoint"]
            host, _, port = external.rpartition(":")
            local_port = home.ready["tunnel"].rpartition(":")[2]
            assert host == OUTER
            assert router.mapped() == {int(port): f"{HOST}:{local_port}"}
            log.wait_for(event="registered", endpoint=external)
            far = start(router.internet, "far", tmp_path)
            try:
                with (
                    sync.Driver(tmp_path / "home.sock") as here,
                    here.listen(1000) as listener,
                    sync.Driver(tmp_path / "far.sock") as there,
                    there.dial("home:1000") as stream,
                    listener.accept() as accepted,
                ):
                    stream.sendall(b"hello")
                    assert accepted.recv(9) == b"hello"
                    # It was the far end that began, and not through a hole that was punched.
                    assert [peer.endpoint for peer in there.peers()] == [external]
            finally:
                far.stop()
        finally:
            assert home.stop() == 0
    assert router.mapped() == {}


@pytest.mark.parametrize("router", ["pcp"], indirect=True)
@pytest.mark.usefixtures("rendezvous")
def test_nothing_is_asked_without_permission_or_need(router: HomeRouter, tmp_path: Path) -> None:
    for name, place, flags, why in (
        ("home", router.host, ["--no-port-mapping"], "switched off by --no-port-mapping"),
        ("far", router.internet, [], "there is no default gateway for IPv4"),
    ):
        with Log(tmp_path / f"{name}.log") as log:
            process = start(place, name, tmp_path, *flags)
            try:
                log.wait_for(event="port_not_mapped", why=why)
            finally:
                process.stop()
        assert router.mapped() == {}
