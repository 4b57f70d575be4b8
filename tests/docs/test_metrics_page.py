"""The page of metrics and the dashboard of Grafana name what there is."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.metrics import families, labels_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"
GRAFANA = ROOT / "deploy" / "grafana" / "pilot.json"
BEGIN = "<!-- from the code: UPDATE_DOCS=1 pytest tests/docs/test_metrics_page.py -->\n"
#: What a histogram's samples are called.
PARTS = ("_bucket", "_sum", "_count")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_page_lists_every_metric() -> None:
    text = ""
    for title, found in (await families()).items():
        text += f"\n## {title}\n\n| name | type | labels | what |\n|---|---|---|---|\n"
        for metric in found:
            labels = ", ".join(f"`{label}`" for label in labels_of(metric))
            text += f"| `{name_of(metric)}` | {metric.type} | {labels} | {metric.documentation} |\n"
    head, begin, told = PAGE.read_text().partition(BEGIN)
    if "UPDATE_DOCS" in os.environ:
        PAGE.write_text(head + begin + text)
        told = text
    assert told == text


def expressions(value: object) -> Iterator[str]:
    """Every query in a dashboard."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "definition") and isinstance(inner, str):
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


async def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    known: dict[str, set[str]] = {}
    for found in (await families()).values():
        for metric in found:
            names = [name_of(metric)]
            if metric.type == "histogram":
                names = [metric.name + part for part in PARTS]
            for name in names:
                known[name] = {*labels_of(metric), "le", "instance", "job", "version", "role"}
    queries = list(expressions(json.loads(GRAFANA.read_text())))
    assert len(queries) > 15
    for query in queries:
        used = re.findall(r"\bpilot_\w+", query)
        assert used, query
        assert set(used) <= known.keys(), query
        labels = re.findall(r"\b(\w+)(?:=~|!=|=)\"", query)
        for group in re.findall(r"\bby ?\(([^)]*)\)", query):
            labels += [label.strip() for label in group.split(",")]
        allowed = set().union(*(known[name] for name in used))
        assert set(labels) <= allowed, query
