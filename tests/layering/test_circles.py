"""No two modules import each other, by whatever way and wherever the import stands.

A circle means that neither module can be read, tested or moved without the other.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.layering.imports import circle_in, graph_of
from tests.layering.rust import Crate

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "pilotstack"
CRATES = sorted(path.parent.name for path in (ROOT / "rust").glob("*/src"))


def told(circle: list[str]) -> str:
    return " -> ".join(circle)


def test_no_modules_of_the_package_import_each_other() -> None:
    circle = circle_in(graph_of(PACKAGE))
    assert not circle, told(circle)


@pytest.mark.parametrize("folder", ["tests", "benches"])
def test_no_modules_of_tests_and_benches_import_each_other(folder: str) -> None:
    circle = circle_in(graph_of(ROOT / folder))
    assert not circle, told(circle)


@pytest.mark.parametrize("crate", CRATES)
def test_no_sibling_modules_of_a_crate_use_each_other(crate: str) -> None:
    circle = circle_in(Crate(ROOT / "rust" / crate / "src").siblings())
    assert not circle, told(circle)


# The guards themselves: each way to put a circle back.


def python_tree(directory: Path, modules: Mapping[str, str]) -> dict[str, set[str]]:
    package = directory / "fake"
    for name, source in {"__init__.py": "", "low/__init__.py": "", **modules}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return graph_of(package)


DOWNWARDS = {
    "top.py": "from fake.low import middle\nfrom fake.low.bottom import thing\n",
    "low/middle.py": "from . import bottom\nimport os\n",
    "low/bottom.py": "thing = 1\n",
}


def test_imports_that_point_downwards_are_no_circle(tmp_path: Path) -> None:
    graph = python_tree(tmp_path, DOWNWARDS)
    assert graph["top"] == {"low.middle", "low.bottom"}
    assert graph["low.middle"] == {"low.bottom"}
    assert circle_in(graph) == []


@pytest.mark.parametrize(
    "upwards",
    [
        "from fake.top import name\n",
        "import fake.top\n",
        "import fake.top as other\n",
        "from fake import top\n",
        "from .. import top\n",
        "from ..top import name\n",
        "def late():\n    from fake.top import name\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fake.top import name\n",
    ],
)
def test_an_import_put_back_is_a_circle(tmp_path: Path, upwards: str) -> None:
    graph = python_tree(tmp_path, DOWNWARDS | {"low/bottom.py": f"thing = 1\n{upwards}"})
    circle = circle_in(graph)
    assert circle[0] == circle[-1]
    assert all(after in graph[before] for before, after in pairwise(circle))
    assert {"top", "low.bottom"} <= set(circle)


def test_who_imports_the_package_itself_is_in_a_circle_with_what_it_offers(tmp_path: Path) -> None:
    offered = DOWNWARDS | {"__init__.py": "from fake.low.bottom import thing\n"}
    assert circle_in(python_tree(tmp_path, offered)) == []
    for upwards in ("import fake\n", "from fake import thing\n"):
        assert circle_in(python_tree(tmp_path, offered | {"low/bottom.py": upwards}))


def rust_tree(directory: Path, modules: Mapping[str, str]) -> dict[str, set[str]]:
    source = directory / "src"
    for name, text in modules.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Crate(source).siblings()


LAYERED = {
    "lib.rs": "pub mod low;\npub mod top;\n",
    "top.rs": "use crate::{low::{Exported, bottom::Thing}, low};\nuse std::io;\n",
    "low/mod.rs": "mod bottom;\nmod middle;\npub use self::middle::Exported;\n",
    "low/middle.rs": 'use super::bottom::Thing; // crate::top\nconst A: &str = "crate::top::B";\n',
    "low/bottom.rs": "use super::Parent;\n#[cfg(test)]\nmod tests {\n    use crate::top;\n}\n",
}


def test_modules_that_use_those_below_and_their_parents_are_no_circle(tmp_path: Path) -> None:
    graph = rust_tree(tmp_path, LAYERED)
    assert graph == {"top": {"low"}, "low::middle": {"low::bottom"}}
    assert circle_in(graph) == []


@pytest.mark.parametrize(
    ("name", "upwards"),
    [
        ("low/bottom.rs", "use crate::top::Name;\n"),
        ("low/bottom.rs", "use crate::{low, top::{self, Name}};\n"),
        ("low/bottom.rs", "fn f() { crate::top::call(); }\n"),
        ("low/bottom.rs", "use super::super::top;\n"),
        ("low/bottom.rs", "use super::middle::Thing;\n"),
        ("low/bottom.rs", "use super::Exported as Other;\n"),
        ("low/mod.rs", "mod bottom;\nfn f(x: super::top::Name) {}\n"),
    ],
)
def test_a_use_put_back_is_a_circle(tmp_path: Path, name: str, upwards: str) -> None:
    assert circle_in(rust_tree(tmp_path, LAYERED | {name: upwards}))
