"""A home router that maps ports for whoever asks: miniupnpd, by PCP, NAT-PMP and UPnP."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack.testing.internet.nat import INSIDE, OUTSIDE

if TYPE_CHECKING:
    from contextlib import ExitStack

    from pilotstack.testing.internet import Host

_CONFIG = f"""
ext_ifname={OUTSIDE}
listening_ip={INSIDE}
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
min_lifetime=60
max_lifetime=86400
upnp_table_name=mapper
upnp_nat_table_name=mapper
uuid=00000000-0000-4000-8000-000000000000
allow 1024-65535 0.0.0.0/0 1024-65535
"""
#: The chains that it fills.
_CHAINS = """
table inet mapper {
    chain miniupnpd {}
    chain prerouting_miniupnpd {}
    chain postrouting_miniupnpd {}
    chain forward {
        type filter hook forward priority filter - 10
        jump miniupnpd
    }
    chain prerouting {
        type nat hook prerouting priority dstnat - 10
        jump prerouting_miniupnpd
    }
    chain postrouting {
        type nat hook postrouting priority srcnat - 10
        jump postrouting_miniupnpd
    }
}
"""


def start(stack: ExitStack, router: Host) -> None:
    """Makes a router map ports until the stack is closed."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mapper-")))
    file = path / "miniupnpd.conf"
    file.write_text(_CONFIG)
    router.nft(_CHAINS)
    process = subprocess.Popen(
        router.command("miniupnpd", "-d", "-f", str(file), "-P", str(path / "pid")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    stack.callback(_stop, process)
    assert process.stdout is not None
    said = b""
    while b"Listening for NAT-PMP" not in said:
        data = process.stdout.read(65_536)
        if not data:
            raise OSError(f"miniupnpd ended: {said[-300:]!r}")
        said += data


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
