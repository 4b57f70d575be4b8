"""What CONTRIBUTING says about a release holds."""

from __future__ import annotations

import re
import tomllib

from tests.docs.check import ROOT

from pilotstack import __version__


def test_the_version_is_the_same_everywhere() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert cargo["workspace"]["package"]["version"] == package["project"]["version"] == __version__


def test_the_changelog_begins_with_what_is_unreleased_or_this_version() -> None:
    first = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] in {"Unreleased", __version__}
