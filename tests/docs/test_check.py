"""The documents pass their checks, and the checks notice what they are for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.docs import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GLOSSARY = "# Glossary\n\n| term | meaning |\n|---|---|\n"


@pytest.mark.parametrize("problems_of", check.CHECKS)
def test_the_documents_pass(problems_of: Callable[[Path], Iterator[str]]) -> None:
    assert list(problems_of(check.ROOT)) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a page and a glossary in which every term is defined."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "Makefile").write_text("all: some\n\ntrue\n")
    rows = sorted(check.TERMS, key=str.lower)
    (tmp_path / "docs" / "glossary.md").write_text(
        GLOSSARY + "".join(f"| {term} | it |\n" for term in rows)
    )
    (tmp_path / "docs" / "page.md").write_text("# One `two`\n" + "\n".join(rows).replace(",", "\n"))
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def add(repository: Path, name: str, text: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    subprocess.run(["git", "add", "."], cwd=repository, check=True)


def test_nothing_is_wrong_where_nothing_is(repository: Path) -> None:
    add(repository, "README.md", "[here](docs/page.md#one-two) [words](docs/glossary.md)")
    add(repository, "CHANGELOG.md", "[there](https://example.org/x)")
    add(repository, "rust/a.rs", "//! See `docs/page.md#one-two`.")
    assert [problem for problems in check.CHECKS for problem in problems(repository)] == []


@pytest.mark.parametrize("target", ["docs/none.md", "docs/page.md#three", "#four"])
def test_a_broken_link_is_noticed(repository: Path, target: str) -> None:
    add(repository, "README.md", f"[here]({target})")
    assert len(list(check.links(repository))) == 1


def test_a_page_that_nothing_links_to_is_noticed(repository: Path) -> None:
    add(repository, "README.md", "[words](docs/glossary.md)")
    add(repository, "docs/page.md", "[myself](page.md) [here](#one-two)")
    assert list(check.orphans(repository)) == ["docs/page.md: no page links to it"]


@pytest.mark.parametrize("text", ["\n```python\nx = (\n```\n", "\n```json\n{'a': 1}\n```\n"])
def test_a_snippet_that_cannot_be_read_is_noticed(repository: Path, text: str) -> None:
    add(repository, "docs/page.md", text)
    assert len(list(check.snippets(repository))) == 1


def test_a_missing_term_is_noticed(repository: Path) -> None:
    path = repository / "docs" / "glossary.md"
    path.write_text(path.read_text().replace("| seat | it |\n", ""))
    assert list(check.terms(repository)) == ["docs/glossary.md does not define 'seat'"]


def test_a_term_that_nothing_uses_is_noticed(repository: Path) -> None:
    add(repository, "docs/glossary.md", "| zyzzyva | it |\n")
    assert list(check.terms(repository)) == [
        "docs/glossary.md defines 'zyzzyva', which nothing uses"
    ]


@pytest.mark.parametrize("text", ["`docs/{page,none}.md`", "`rust/none.rs`", "`make none`"])
def test_a_file_or_target_that_is_not_there_is_noticed(repository: Path, text: str) -> None:
    add(repository, "README.md", f"{text}, but `docs/page.md`, `docs/NAME.md` and `make all`")
    assert len(list(check.paths(repository))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "the whitepaper says so",
        "as in sheet 4.2",
        "(services sheet)",
        "WP 4.3 has it",
        "see spec/registry.md",
        "for issue 7",
        "see docs/none.md",
        "see `docs/page.md#three`",
        "captured in tests/vectors/none.json",
    ],
)
def test_a_citation_of_what_is_not_there_is_noticed(repository: Path, text: str) -> None:
    add(repository, "python/a.py", f"# {text}\n")
    assert len(list(check.citations(repository))) == 1


def test_only_the_origin_may_name_the_design(repository: Path) -> None:
    add(repository, "README.md", "after the whitepaper\n")
    assert list(check.citations(repository)) == []
    add(repository, "README.md", "after sheet 4\n")
    assert len(list(check.citations(repository))) == 1
