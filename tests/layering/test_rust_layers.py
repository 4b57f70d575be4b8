"""Rust crates and the modules of the core may use only what stands below them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from tests.layering.rust import plain

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "rust" / "proto" / "src"

CRATES = {
    "proto": {"aws-lc-rs", "crc32fast", "rustc-hash", "thiserror"},
    "net": {
        *("pilot-proto", "libc", "mio", "nix", "quinn-udp", "rustc-hash"),
        *("socket2", "tracing"),
        # Port mapping alone.
        *("crab_nat", "igd-next", "tokio"),
    },
    "sim": {"pilot-proto"},
    "lab": {"pilot-proto", "pilot-sim", "libc", "thiserror"},
    "py": {"pilot-proto", "pilot-net", "pilot-sim", "pyo3", "pyo3-log"},
}

# Module of the core -> modules of the core it may use.
MODULES: dict[str, set[str]] = {
    "time": set(),
    "trace": set(),
    "counters": set(),
    "config": {"time", "trace"},
    "wire": set(),
    "storage": {"wire::seq", "wire::sack", "time"},
    "crypto": {"wire"},
    "tunnel": {"crypto", "wire", "storage", "time", "config", "trace"},
    "transport": {"wire", "storage", "time", "config", "trace", "counters"},
    "node": {
        *("tunnel", "transport", "crypto", "wire", "storage", "time", "config", "trace"),
        "counters",
    },
    "beacon": {"crypto", "wire", "storage", "time", "counters"},
    "qlog": {"node", "tunnel", "transport", "crypto", "wire", "time"},
}

USE = re.compile(r"\bcrate::(\{[^;]*\}|[a-z_]+(?:::[a-z_]+)?)")


def declared_by(crate: str) -> set[str]:
    manifest = tomllib.loads((ROOT / "rust" / crate / "Cargo.toml").read_text())
    declared = set(manifest.get("dependencies", {}))
    for target in manifest.get("target", {}).values():
        declared |= set(target.get("dependencies", {}))
    return declared


@pytest.mark.parametrize("crate", CRATES)
def test_a_crate_depends_on_its_allow_list_only(crate: str) -> None:
    assert declared_by(crate) <= CRATES[crate]


@pytest.mark.parametrize("crate", CRATES)
def test_a_crate_uses_what_it_depends_on(crate: str) -> None:
    sources = (ROOT / "rust" / crate / "src").rglob("*.rs")
    code = "\n".join(plain(path.read_text()) for path in sources)
    words = set(re.findall(r"\w+", code))
    unused = {name for name in declared_by(crate) if name.replace("-", "_") not in words}
    assert not unused


def uses_of(path: Path) -> set[str]:
    source = re.sub(r"//.*", "", path.read_text())
    found: set[str] = set()
    for match in USE.findall(source):
        if match.startswith("{"):
            depth = 0
            flat = ""
            for char in match[1:-1]:
                depth += (char == "{") - (char == "}")
                flat += char if depth == 0 or char == "{" else ""
            found.update(part.strip().rstrip("{").removesuffix("::") for part in flat.split(","))
        else:
            found.add(match)
    return {name for name in found if name}


@pytest.mark.parametrize(
    "path", sorted(PROTO.rglob("*.rs")), ids=lambda p: str(p.relative_to(PROTO))
)
def test_core_modules_use_only_those_below(path: Path) -> None:
    own = path.relative_to(PROTO).with_suffix("").parts[0]
    if own == "lib":
        return
    for target in uses_of(path):
        top = target.split("::")[0]
        assert top == own or any(
            target == row or target.startswith(f"{row}::") or row == top for row in MODULES[own]
        ), f"{path.name} uses crate::{target}; {own} may use {sorted(MODULES[own])}"


def test_the_core_forbids_unsafe_code() -> None:
    assert "#![forbid(unsafe_code)]" in (PROTO / "lib.rs").read_text()
