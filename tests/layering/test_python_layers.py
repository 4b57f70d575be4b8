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

# The wings of the registry that its server stands on.
REGISTRY = {
    f"registry.{wing}"
    for wing in ("protocol", "model", "rules", "storage", "replication", "server")
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
    "registry": set(),
    "registry.protocol": BASE,
    "registry.client": BASE | {"registry.protocol"},
    "registry.model": BASE | {"registry.protocol"},
    "registry.rules": BASE | {"registry.protocol", "registry.model"},
    "registry.storage": BASE | {"registry.protocol", "registry.model", "registry.rules"},
    "registry.replication": BASE | REGISTRY - {"registry.server"},
    "registry.server": BASE | REGISTRY,
    "registry.main": BASE | REGISTRY | {"beacon"},
    "beacon": BASE,
    "trust": BASE | {"client", "registry.client", "registry.protocol"},
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
        is_own = layer_of(target) == own if top == "registry" else target.split(".")[0] == top
        if is_own:
            continue
        allowed = ALLOWED[own]
        assert any(target == row or target.startswith(f"{row}.") for row in allowed), (
            f"{name} imports {target}; {own} may import {sorted(allowed)}"
        )


def test_no_row_of_the_table_is_without_a_module() -> None:
    layers = {layer_of(name_of(path)) for path in modules()}
    missing = set(ALLOWED) - layers
    assert not missing, f"rows without a module: {sorted(missing)}"


def graph(package: str) -> dict[str, set[str]]:
    """What each module of a package imports of it, also for types alone."""
    names = {name_of(path): path for path in modules() if name_of(path).startswith(f"{package}.")}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        targets = imports_of(path)
        found[name] = {
            module
            for target in targets
            if (module := target if target in names else target.rpartition(".")[0]) in names
        } - {name}
    return found


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    done: set[str] = set()

    def walk(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        for target in sorted(arrows.get(name, ())):
            if found := walk(target, [*above, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := walk(name, []))), [])


def test_no_modules_of_the_registry_import_each_other_in_a_circle() -> None:
    assert circle_in(graph("registry")) == []


def test_a_circle_is_found() -> None:
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}
    assert circle_in(arrows) == ["b", "c", "d", "b"]
    assert circle_in(arrows | {"d": set()}) == []
