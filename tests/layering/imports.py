"""Who imports whom in a Python package, read from its sources.

Every import statement counts, at any depth: one that stands in a function or behind
``TYPE_CHECKING`` couples two modules as much as one at the top.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted names below a package (``""`` is the package itself) and their files.

    Stubs of extension modules stand for what they describe.
    """
    found = {}
    for suffix in (".pyi", ".py"):
        for path in sorted(package.rglob(f"*{suffix}")):
            parts = path.relative_to(package).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(path: Path, package: Path) -> set[str]:
    """Dotted names below the package that a module imports from, as it spells them."""
    root = package.name
    within = [root, *path.relative_to(package).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = within[: len(within) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{stem}.{alias.name}" for alias in node.names)
    below = (name.partition(".") for name in found)
    return {rest for first, _, rest in below if first == root}


def graph_of(package: Path) -> dict[str, set[str]]:
    """The modules that each module imports from: of ``a.b.name``, the longest that exists."""
    modules = modules_of(package)
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for target in imported_names(path, package):
            parts = target.split(".")
            while parts and ".".join(parts) not in modules:
                parts.pop()
            graph[name].add(".".join(parts))
        graph[name].discard(name)
    return graph


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle, in which each imports the next and the last is the first; empty if none is."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return []
