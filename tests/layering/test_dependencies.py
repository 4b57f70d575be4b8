"""The crates we depend on keep to the rules of deny.toml, as far as that needs no internet.

``make audit`` checks the same with cargo-deny, and looks for known flaws.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RULES: dict[str, Any] = tomllib.loads((ROOT / "deny.toml").read_text())
LOCKS = ["Cargo.lock", "rust/fuzz/Cargo.lock", "benches/quic-peer/Cargo.lock"]
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def packages(lock: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / lock).read_text())["package"]
    return found


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether some choice of an SPDX expression takes allowed licences alone."""
    # Old manifests write OR as a slash.
    spaced = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ")
    terms = spaced.replace(" WITH ", "+WITH+").split()
    known = {name.replace(" WITH ", "+WITH+") for name in allowed}
    words = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    # Every term becomes a boolean, an operator or a parenthesis, so nothing of the text is run.
    return bool(eval(" ".join(words.get(term, str(term in known)) for term in terms)))


@pytest.mark.parametrize("lock", LOCKS)
def test_crates_come_from_the_public_registry(lock: str) -> None:
    # Packages of this repository have no source.
    sources = {package["source"] for package in packages(lock) if "source" in package}
    assert sources == {CRATES_IO}


def test_no_crate_is_there_in_two_versions() -> None:
    counts = Counter(package["name"] for package in packages("Cargo.lock"))
    twice = {name for name, count in counts.items() if count > 1}
    excused = {entry["crate"].partition("@")[0] for entry in RULES["bans"]["skip"]}
    assert twice == excused


@pytest.mark.parametrize("lock", LOCKS[:1])
def test_banned_crates_are_not_there(lock: str) -> None:
    wrappers = {row["crate"]: set(row.get("wrappers", ())) for row in RULES["bans"]["deny"]}
    present = {package["name"] for package in packages(lock)}
    for name, excused in wrappers.items():
        # A dependency reads "name", or "name version" if there are several.
        users = {
            package["name"]
            for package in packages(lock)
            if any(each.split()[0] == name for each in package.get("dependencies", ()))
        }
        assert name not in present or (users and users <= excused), name


def test_licences_are_allowed() -> None:
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in RULES["graph"]["targets"]:
        command += ["--filter-platform", target]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    allowed = set(RULES["licenses"]["allow"])
    excepted = {row["crate"]: set(row["allow"]) for row in RULES["licenses"]["exceptions"]}
    refused = {
        package["name"]: package["license"]
        for package in json.loads(asked.stdout)["packages"]
        if package["source"]
        and not is_allowed(
            package["license"] or "none", allowed | excepted.get(package["name"], set())
        )
    }
    assert refused == {}


@pytest.mark.parametrize(
    ("expression", "is_right"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT/Apache-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0 WITH Other-exception", False),
    ],
)
def test_expressions_of_licences(expression: str, is_right: bool) -> None:
    assert is_allowed(expression, {"MIT", "ISC", "Apache-2.0 WITH LLVM-exception"}) is is_right
