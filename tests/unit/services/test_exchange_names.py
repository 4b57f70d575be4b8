"""Names that peers choose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotstack.services.data_exchange import names
from pilotstack.services.data_exchange.names import NoName


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("zpráva.txt", "zpráva.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("a\\b.txt", "b.txt"),
        ("C:\\x\\y.txt", "y.txt"),
        ("a\nb.txt", "ab.txt"),
        ("a\0b", "ab"),
        ("a\x1b[31mb", "a[31mb"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        (".bashrc", "_bashrc"),
        ("-rf", "_rf"),
        (".partial", "_partial"),
        (".arrivals", "_arrivals"),
        ("...a", "_a"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("console.txt", "console.txt"),
        ("a:b|c?.txt", "a_b_c_.txt"),
        ("trailing. ", "trailing"),
        ("x" * 300 + ".tar", "x" * 196 + ".tar"),
        ("é" * 200, "é" * 100),
    ],
)
def test_a_name_becomes_one_safe_component(raw: str, safe: str) -> None:
    assert names.safe_name(raw) == safe
    assert names.safe_name(raw.encode()) == safe


@pytest.mark.parametrize(
    "raw", [b"", b".", b"..", b"a/..", b"a/", b"\0", b"\xff\xfe", b". .", b"  "]
)
def test_what_is_no_name_is_refused(raw: bytes) -> None:
    with pytest.raises(NoName):
        names.safe_name(raw)


@given(st.one_of(st.text(max_size=400), st.binary(max_size=400)))
def test_no_name_leads_out_of_the_folder(raw: str | bytes) -> None:
    try:
        name = names.safe_name(raw)
    except NoName:
        return
    assert name
    assert "/" not in name
    assert "\\" not in name
    assert name.isprintable()
    assert name[0] not in ".-"
    stored = names.stored_name(name, 1_800_000_000.5, 7)
    assert len(stored.encode()) <= 255


@pytest.mark.parametrize("raw", ["", "a//b", "../b", "a/../b", "/a", "a/.", "/".join("a" * 33)])
def test_paths_that_leave_their_folder_are_refused(raw: str) -> None:
    with pytest.raises(NoName):
        names.safe_path(raw)


def test_a_path_is_made_of_safe_names() -> None:
    assert names.safe_path("a/b.txt") == ("a", "b.txt")
    assert names.safe_path("a\\.ssh/b\n") == ("a", "_ssh", "b")


def test_stored_names_keep_the_extension_before_time_and_number() -> None:
    pattern = r"\d{8}-\d{6}\.500-000007"
    for name, expected in (
        ("report.txt", rf"report-{pattern}\.txt"),
        ("README", rf"README-{pattern}"),
        ("a.tar.gz", rf"a.tar-{pattern}\.gz"),
        ("a." + "x" * 40, rf"a\.x{{40}}-{pattern}"),
    ):
        assert re.fullmatch(expected, names.stored_name(name, 1_800_000_000.5, 7))
