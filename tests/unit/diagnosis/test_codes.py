"""The page of reference lists every code that a finding can have, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
GROUPS = "registry tls clock udp beacon nat mtu buffers descriptors disk permissions home identity"
LEFT = "pid socket daemon"
CODE = re.compile(rf"^({'|'.join((GROUPS + ' ' + LEFT).split())})(_file)?_[a-z_]+$")


def codes_of(path: Path) -> set[str]:
    """Texts in the source that look like codes."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value)
    }


def test_the_page_has_them_all() -> None:
    package = ROOT / "python" / "pilotstack" / "diagnosis"
    made: set[str] = set()
    for name in ("registry", "network", "host", "doctor"):
        made |= codes_of(package / f"{name}.py")
    page = (ROOT / "docs" / "reference" / "pilotctl.md").read_text()
    section = page.partition("\n## Doctor\n")[2].partition("\n## ")[0]
    table = section.partition("|---|---|\n")[2]
    assert set(re.findall(r"`([a-z_]+)`", table)) == made
