"""Modules and functions of a Rust crate, read from its sources as text.

No compiler is asked, so macros stay unread. Test modules do not count: they may reach anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ModulePath = tuple[str, ...]

_NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/            # comments
    |b?r(\#*)".*?"\1                   # raw strings
    |b?"(?:\\.|[^"\\])*"               # strings
    |b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'   # characters, and no lifetimes
    """,
    re.DOTALL | re.VERBOSE,
)
_TESTS = re.compile(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod \w+ \{")
_USE = re.compile(r"(?:^|(?<=[\s;{}]))((?:pub(?:\([^)]*\))?\s+)?)use\s+([^;]+);")
_PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")
_FUNCTION = re.compile(r"\bfn\s+(\w+)")


@dataclass(frozen=True)
class Function:
    """Where a function stands, from its ``fn`` to its closing brace."""

    name: str
    line: int
    lines: int


def plain(source: str) -> str:
    """The source with comments and literals blanked, line by line as long as before."""
    return _NOISE.sub(lambda noise: re.sub(r"[^\n]", " ", noise[0]), source)


def closing(code: str, opening: int) -> int:
    """Position of the brace that closes the one at ``opening``."""
    depth = 0
    for at in range(opening, len(code)):
        depth += (code[at] == "{") - (code[at] == "}")
        if depth == 0:
            return at
    raise ValueError(f"the brace at {opening} is never closed")


def without_tests(code: str) -> str:
    """Plain code without its inline test modules."""
    while (found := _TESTS.search(code)) is not None:
        code = code[: found.start()] + code[closing(code, found.end() - 1) + 1 :]
    return code


def functions_of(source: str) -> Iterator[Function]:
    """The functions that have a body, those of test modules too."""
    code = plain(source)
    for found in _FUNCTION.finditer(code):
        depth = 0
        # A semicolon in an array type of the signature ends nothing.
        for at in range(found.end(), len(code)):
            depth += (code[at] in "([") - (code[at] in ")]")
            if depth == 0 and code[at] in "{;":
                break
        else:
            raise ValueError(f"{found[1]} has no end")
        if code[at] == "{":
            first = code.count("\n", 0, found.start()) + 1
            last = code.count("\n", 0, closing(code, at)) + 1
            yield Function(found[1], first, last - first + 1)


def flatten(tree: str) -> Iterator[tuple[str, ...]]:
    """The paths of a ``use`` tree; an ``as`` name is dropped."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        yield tuple(part.strip() for part in re.split(r"\s+as\s+", tree)[0].split("::"))
        return
    prefix = tuple(part.strip() for part in head.strip().removesuffix("::").split("::") if part)
    depth, item = 0, ""
    for char in rest[: rest.rindex("}")] + ",":
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            if item.strip():
                for path in flatten(item):
                    yield prefix + path
            item = ""
        else:
            item += char


class Crate:
    """The modules of one crate, and what each uses of the others."""

    def __init__(self, source: Path) -> None:
        self.code: dict[ModulePath, str] = {}
        for path in sorted(source.rglob("*.rs")):
            parts = path.relative_to(source).with_suffix("").parts
            if "tests" in parts:
                continue
            module = parts[:-1] if parts[-1] in {"mod", "lib", "main"} else parts
            self.code[module] = without_tests(plain(path.read_text()))
        self._exports = {
            module: {
                path[-1]: target
                for exported, tree in _USE.findall(code)
                for path in flatten(tree)
                if exported and (target := self._absolute(module, path))
            }
            for module, code in self.code.items()
        }

    def _absolute(self, module: ModulePath, path: tuple[str, ...]) -> ModulePath | None:
        """A path from the crate's root; ``None`` of what belongs to other crates."""
        at: ModulePath
        match path:
            case ("crate", *rest):
                at = ()
            case (("self" | "super"), *_):
                at, rest = module, list(path)
            case (first, *_) if (*module, first) in self.code:
                at, rest = module, list(path)
            case _:
                return None
        while rest and rest[0] in {"self", "super"}:
            if rest.pop(0) == "super":
                at = at[:-1]
        return (*at, *rest)

    def _home(self, path: ModulePath) -> ModulePath:
        """The module that a name is defined in, through the re-exports of others."""
        for _ in range(len(self.code)):
            size = len(path)
            while path[:size] not in self.code:
                size -= 1
            module, rest = path[:size], path[size:]
            if not rest or rest[0] not in self._exports[module]:
                return module
            path = (*self._exports[module][rest[0]], *rest[1:])
        raise ValueError(f"{path} is exported in a circle")

    def uses(self) -> Iterator[tuple[ModulePath, ModulePath]]:
        """Pairs of a module and one that it uses."""
        for module, code in self.code.items():
            trees = [tree for _, tree in _USE.findall(code)]
            paths = [path for tree in trees for path in flatten(tree)]
            paths += [tuple(found.split("::")) for found in _PATH.findall(_USE.sub("", code))]
            for path in paths:
                if (target := self._absolute(module, path)) is not None:
                    yield module, self._home(target)

    def siblings(self) -> dict[str, set[str]]:
        """Which modules use which of their siblings, with what stands below both.

        A module and those below it may use each other: they are one thing in several files.
        """
        graph: dict[str, set[str]] = {}
        for user, used in self.uses():
            level = 0
            while user[level : level + 1] == used[level : level + 1] != ():
                level += 1
            if level < min(len(user), len(used)):
                edge = ("::".join(module[: level + 1]) for module in (user, used))
                graph.setdefault(next(edge), set()).add(next(edge))
        return graph
