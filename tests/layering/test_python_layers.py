"""Python packages may import only what stands below them (the table of docs/architecture)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.layering.imports import imported_names, modules_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "pilotstack"
MODULES = modules_of(PACKAGE)

BASE = {
    *("errors", "types", "wellknown", "_commands", "_events", "_files", "_flags", "_interrupts"),
    *("_logs", "_paths", "_resolving", "_serving", "_streams", "_core", "ipc"),
    *("_background", "_config", "_figures", "_interfaces", "_legacy", "_netlink", "_notify"),
    *("_seats", "_settings"),
}

# What serves HTTP, and what is shown there.
SHOWN = {"http", "observe"}

# The wings of the registry that its server stands on.
REGISTRY = {
    f"registry.{wing}"
    for wing in ("protocol", "model", "rules", "storage", "replication", "server")
}

# Layer -> the other layers its modules may import. The longest matching prefix decides.
# An entry module (``*.main``) composes siblings, so it has a row of its own.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_core": set(),
    "_paths": {"errors"},
    "_resolving": {"errors"},
    "_netlink": set(),
    "_notify": set(),
    "_interfaces": {"_netlink", "_resolving"},
    "_config": {"_files", "_legacy", "_paths", "errors"},
    "_settings": {"_config", "_events", "_files", "_logs", "errors"},
    "wellknown": {"_config", "_paths"},
    "_flags": {"errors", "wellknown"},
    "_files": set(),
    "_figures": set(),
    "_seats": set(),
    "_legacy": set(),
    "_events": set(),
    "_background": {"_events", "errors"},
    "_streams": set(),
    "_logs": {"_events", "_streams"},
    "_serving": {"errors", "_commands", "_events", "_logs", "_notify", "_resolving", "_streams"},
    "types": {"errors"},
    "ipc": {"errors", "types", "_core"},
    "": {"errors", "types", "wellknown", "ipc", "client", "sync", "node"},
    **{name: {"services"} for name in ("aiohttp", "asgi", "asyncio", "httpx", "mcp", "requests")},
    "__main__": {"_entry"},
    "_interrupts": set(),
    "_commands": set(),
    "_entry": {
        *(
            "_interrupts",
            "wellknown",
            "cli.main",
            "cli.quick",
            "daemon.main",
            "registry.main",
            "beacon.main",
            "services.nameserver.main",
            "gateway.main",
            "services.adapters.main",
        ),
    },
    "http": BASE,
    "observe": BASE | {"http"},
    "client": BASE,
    "sync": BASE | {"client", "daemon.embedded"},
    "node": BASE | {"client", "daemon.embedded", "daemon.ready"},
    "services.adapters": BASE | {"client", "sync"},
    "registry": set(),
    "registry.protocol": BASE,
    "registry.client": BASE | {"registry.protocol"},
    "registry.model": BASE | {"registry.protocol"},
    "registry.rules": BASE | {"registry.protocol", "registry.model"},
    "registry.storage": BASE | {"registry.protocol", "registry.model", "registry.rules"},
    "registry.replication": BASE | REGISTRY - {"registry.server"},
    "registry.server": BASE | REGISTRY | SHOWN,
    "registry.main": BASE | REGISTRY | SHOWN | {"beacon", "registry.client", "registry.legacy"},
    "beacon": BASE | SHOWN | {"registry.client", "registry.protocol"},
    "beacon.main": BASE | SHOWN | {"beacon", "registry.client", "registry.protocol"},
    "trust": BASE | {"client", "registry.client", "registry.protocol"},
    "services": BASE | SHOWN | {"client"},
    "gateway": BASE | SHOWN | {"client", "services"},
    "daemon": BASE | SHOWN | {"client", "registry", "beacon", "trust", "services"},
    "testing": BASE | {"beacon", "registry", "daemon.embedded", "node", "sync"},
    "netcheck": BASE,
    "diagnosis": BASE | {"netcheck", "registry.client", "registry.protocol"},
    "cli": BASE
    | {
        *("client", "registry.client", "testing", "netcheck", "diagnosis"),
        *("services", "gateway"),
        *("daemon.lifecycle", "daemon.identity", "daemon.flags", "daemon.pid_file"),
        "daemon.found",
    },
}


def layer_of(name: str) -> str:
    matches = [row for row in ALLOWED if name == row or name.startswith(f"{row}.")]
    assert matches, f"{name} is in no row of the layer table"
    return max(matches, key=len)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name: str) -> None:
    own = layer_of(name)
    top = own.split(".")[0]
    for target in imported_names(MODULES[name], PACKAGE):
        is_own = layer_of(target) == own if top == "registry" else target.split(".")[0] == top
        if is_own:
            continue
        allowed = ALLOWED[own]
        assert any(target == row or target.startswith(f"{row}.") for row in allowed), (
            f"{name} imports {target}; {own} may import {sorted(allowed)}"
        )


def test_no_row_of_the_table_is_without_a_module() -> None:
    layers = {layer_of(name) for name in MODULES}
    missing = set(ALLOWED) - layers
    assert not missing, f"rows without a module: {sorted(missing)}"
