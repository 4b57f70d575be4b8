"""Python packages may import only what stands below them (the table of docs/architecture)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "pilotstack"

BASE = {
    *("errors", "types", "wellknown", "_files", "_flags", "_logs", "_paths", "_resolving"),
    *("_serving", "_core"),
}

# Layer -> the other layers its modules may import. The longest matching prefix decides.
# An entry module (``*.main``) composes siblings, so it has a row of its own.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_paths": {"errors"},
    "_resolving": {"errors"},
    "wellknown": {"_paths"},
    "_flags": {"errors", "wellknown"},
    "_files": set(),
    "_logs": set(),
    "_serving": {"errors", "_logs", "_resolving"},
    "types": {"errors"},
    "__init__": {"errors", "types", "wellknown", "client", "sync"},
    "__main__": {"cli.main"},
    "client": BASE,
    "sync": BASE | {"client"},
    "registry": BASE,
    "registry.main": BASE | {"beacon"},
    "beacon": BASE,
    "trust": BASE | {"client", "registry.client", "registry.messages", "registry.requests_trust"},
    "daemon": BASE | {"client", "registry", "beacon", "trust"},
    "testing": {"errors", "_core"},
    "cli": BASE | {"client", "registry.client", "daemon.lifecycle", "daemon.identity", "testing"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] in {"__init__", "__main__"} and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def layer_of(name: str) -> str:
    matches = [row for row in ALLOWED if name == row or name.startswith(f"{row}.")]
    assert matches, f"{name} is in no row of the layer table"
    return max(matches, key=len)


def imports_of(path: Path) -> set[str]:
    """Names below ``pilotstack`` that this module imports, at any depth of its code."""
    found: set[str] = set()
    package = ["pilotstack", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    return {name.removeprefix("pilotstack.") for name in found if name.startswith("pilotstack.")}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    name = name_of(path)
    own = layer_of(name)
    top = own.split(".")[0]
    for target in imports_of(path):
        if target.split(".")[0] == top:
            continue
        allowed = ALLOWED[own]
        assert any(target == row or target.startswith(f"{row}.") for row in allowed), (
            f"{name} imports {target}; {own} may import {sorted(allowed)}"
        )


def test_no_row_of_the_table_is_without_a_module() -> None:
    layers = {layer_of(name_of(path)) for path in modules()}
    missing = set(ALLOWED) - layers
    assert not missing, f"rows without a module: {sorted(missing)}"
