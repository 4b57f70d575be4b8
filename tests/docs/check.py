"""Checks of the documents that need nothing but their text: ``python -m tests.docs.check``.

Links and anchors exist, snippets parse, terms are in the glossary, and sources cite only documents
that are in the repository. Snippets that can run are run by the other tests of this directory.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

#: Words of our own that a reader cannot know. Each needs an entry in the glossary.
TERMS = frozenset(
    {
        *("address", "admission", "backbone", "beacon", "boot id", "bridge", "candidate"),
        *("capabilities", "challenge", "cluster", "consent", "control plane", "cookie", "daemon"),
        *("design", "dialect", "driver", "endpoint", "epoch", "G1, G2", "handshake", "identity"),
        *("inbox", "IO thread", "join rule", "journal", "latch", "ledger", "native", "network"),
        *("node", "operator", "packet", "peer", "poll", "prefix", "primary"),
        *("private node", "public node", "punch", "record", "registry", "re-key", "relay"),
        *("rendezvous", "retired", "seat", "session", "settled", "slot", "snapshot", "source"),
        *("standby", "stranger", "stream", "suite", "term", "trust", "tunnel", "unauthenticated"),
        *("verdict", "verb"),
    }
)
#: Names of documents that readers do not have, and where the first may be named as the origin.
ABSENT = re.compile(r"\bwhitepaper\b|\bsheets?\b|\bWP \d|\bspec/\w+|\bissue #?\d", re.IGNORECASE)
ORIGIN = frozenset({"README.md", "docs/explanation/architecture.md", "docs/glossary.md"})
#: Texts of others, and this directory.
UNCHECKED = ("tests/vectors/", "rust/fuzz/corpus/", "tests/docs/")
_CITATION = re.compile(r"(?<![\w/.])((?:docs|tests/vectors)/[\w/.-]+\.(?:md|json))(?:#([\w-]+))?")
_PATH = re.compile(r"`((?:rust|python|tests|docs|benches|examples)/[\w/.{},-]*)`")
_PLACEHOLDER = re.compile(r"[A-Z]{4}")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """All documents."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("examples/*.md")])


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The anchors of a document."""
    return {slug(h) for h in re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)}


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def links(root: Path) -> Iterator[str]:
    """Links to files or headings that do not exist."""
    for page in pages(root):
        for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
            if re.match(r"https?:", target):
                continue
            file, _, anchor = target.partition("#")
            to = page.parent / file if file else page
            if not to.exists():
                yield f"{page.relative_to(root)}: there is no {file}"
            elif anchor and anchor not in anchors(to):
                yield f"{page.relative_to(root)}: there is no heading for {target}"


def orphans(root: Path) -> Iterator[str]:
    """Pages of ``docs`` that no other page links to."""
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in pages(root)
        for target in re.findall(r"\]\(([^)\s#]+)", _prose(page))
        if (page.parent / target).resolve() != page.resolve()
    }
    for page in sorted(root.glob("docs/**/*.md")):
        if page.resolve() not in linked:
            yield f"{page.relative_to(root)}: no page links to it"


def snippets(root: Path) -> Iterator[str]:
    """Snippets that are no Python, or no JSON."""
    for page in pages(root):
        for language, text in _FENCE.findall(page.read_text()):
            try:
                if language == "python":
                    compile(text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                elif language == "json":
                    _read_json(text)
            except (SyntaxError, ValueError) as error:
                yield f"{page.relative_to(root)}: {error}: {text.splitlines()[0]}"


def _read_json(text: str) -> None:
    rest = text.strip()
    while rest:
        _, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()


def glossary(root: Path) -> dict[str, str]:
    """What the glossary defines."""
    text = (root / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \| (.+?) \|$", text, re.MULTILINE)
    # The first row is the heading.
    return dict(rows[1:])


def terms(root: Path) -> Iterator[str]:
    """Terms that are not defined, defined twice or out of order, or defined for nobody."""
    defined = list(glossary(root))
    for term in sorted(TERMS - set(defined)):
        yield f"docs/glossary.md does not define {term!r}"
    if defined != sorted(defined, key=str.lower):
        yield "docs/glossary.md is not in alphabetical order"
    prose = "\n".join(_prose(page) for page in pages(root) if page.name != "glossary.md").lower()
    code = "\n".join(path.read_text() for path in tracked(root, "rust", "python")).lower()
    for term in defined:
        words = term.lower().split(", ")
        if not any(re.search(rf"\b{re.escape(word)}", prose + code) for word in words):
            yield f"docs/glossary.md defines {term!r}, which nothing uses"


def tracked(root: Path, *under: str) -> list[Path]:
    """Text files of the repository."""
    command = ["git", "grep", "-lI", "", "--", *under]
    found = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    if found.stderr:
        raise RuntimeError(found.stderr)
    names = [name for name in found.stdout.splitlines() if not name.startswith(UNCHECKED)]
    return [root / name for name in names]


def citations(root: Path) -> Iterator[str]:
    """Citations of documents, or of their headings, that are not in the repository."""
    for path in tracked(root):
        name = str(path.relative_to(root))
        for number, line in enumerate(path.read_text().splitlines(), 1):
            absent = ABSENT.search(line)
            if absent and not (name in ORIGIN and absent[0].lower() == "whitepaper"):
                yield f"{name}:{number}: cites {absent[0]!r}"
            for file, anchor in _CITATION.findall(line):
                if not (root / file).exists():
                    yield f"{name}:{number}: there is no {file}"
                elif anchor and anchor not in anchors(root / file):
                    yield f"{name}:{number}: {file} has no heading {anchor}"


def paths(root: Path) -> Iterator[str]:
    """Files and make targets that documents name and that do not exist."""
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in pages(root):
        name, text = page.relative_to(root), page.read_text()
        for path in sorted({p for named in _PATH.findall(text) for p in _expanded(named)}):
            if not _PLACEHOLDER.search(path) and not (root / path).exists():
                yield f"{name}: there is no {path}"
        for target in sorted({*re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)} - targets):
            yield f"{name}: there is no make {target}"


def _expanded(path: str) -> list[str]:
    """A path with each of its alternatives in braces."""
    if (group := re.search(r"\{([^}]*)\}", path)) is None:
        return [path]
    before, after = path[: group.start()], path[group.end() :]
    return [found for part in group[1].split(",") for found in _expanded(before + part + after)]


CHECKS = (links, orphans, snippets, terms, paths, citations)


def main() -> int:
    """Prints what is wrong; the exit status is 1 if anything is."""
    problems = [problem for check in CHECKS for problem in check(ROOT)]
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
