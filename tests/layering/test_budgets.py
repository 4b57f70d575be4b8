"""Sources stay readable: no file outgrows the hard limit, and tests wait for events."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
from tests.layering.rust import functions_of

ROOT = Path(__file__).parents[2]
FILE_LINES = 700
FUNCTION_LINES = 80


def sources(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *(f"*{suffix}" for suffix in suffixes)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


@pytest.mark.parametrize(
    "path", sources(".rs", ".py", ".pyi"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_is_one_thing(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", sources(".py"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_is_one_thing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", sources(".rs"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_rust_function_is_one_thing(path: Path) -> None:
    for function in functions_of(path.read_text()):
        assert function.lines <= FUNCTION_LINES, (
            f"{function.name} at line {function.line} has {function.lines} lines"
        )


RUST = """
/// fn in_a_comment() {
impl<'a> Thing<'a> {
    fn short(&self) -> [u8; 2] { *b"{;" }
    pub(crate) async fn generic<T: Into<[u8; 4]>>(
        value: T,
    ) -> Result<T, ()>
    where
        T: 'static,
    {
        let brace = ('{', '\\'', '\\u{7b}', r#"{ " {"#); /* { */
        fn inner() {
        }
    }
    fn declared(&self) -> [u8; 2];
}
"""


def test_lines_of_rust_functions_are_counted() -> None:
    found = {function.name: (function.line, function.lines) for function in functions_of(RUST)}
    assert found == {"short": (4, 1), "generic": (5, 10), "inner": (12, 2)}


@pytest.mark.parametrize(
    "path",
    [p for p in sources(".py") if "tests" in p.relative_to(ROOT).parts],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_tests_wait_for_events_not_for_time(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name == "sleep" and node.args:
                is_zero = isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
                assert is_zero, f"sleep at line {node.lineno}"
