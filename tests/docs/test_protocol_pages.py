"""The pages on the protocol name what the code has, no less and no more."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.registry import NAMES, READS

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "docs" / "reference" / "protocol"
WIRE = ROOT / "rust" / "proto" / "src" / "wire"


def rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page."""
    lines = (PROTOCOL / f"{page}.md").read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]


def constants(file: str) -> dict[str, int]:
    found = re.findall(r"const (\w+): u8 = 0x(\w+);", (WIRE / file).read_text())
    return {name.replace("_", "").lower(): int(code, 16) for name, code in found}


def numbered(page: str) -> dict[str, int]:
    """Messages that a page lists by code and name."""
    listed = [row for row in rows(page) if re.fullmatch(r"[0-9A-F]{2}", row[0])]
    return {row[1].lower(): int(row[0], 16) for row in listed if re.fullmatch(r"[A-Z]\w+", row[1])}


def test_every_request_of_the_registry_is_described() -> None:
    described: set[str] = set()
    for table in re.findall(
        r"^\| type \|.*?\n\n", (PROTOCOL / "registry.md").read_text(), re.M | re.S
    ):
        described |= set(
            re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]*)", table, re.M)))
        )
    assert described == NAMES


def test_the_reads_of_a_standby_are_listed() -> None:
    text = (PROTOCOL / "registry.md").read_text().partition("### Other requests")[2]
    assert set(re.findall(r"`(\w+)`", text)) - {"subscribe_replication", "announce_term"} == READS


def test_commands_of_the_socket_have_the_codes_of_the_code() -> None:
    known = constants("ipc.rs")
    text = (PROTOCOL / "ipc.md").read_text()
    answers = {
        name.lower(): int(code, 16) for code, name in re.findall(r"([0-9A-F]{2}) (\w+OK)", text)
    }
    assert numbered("ipc") | answers == known


def test_messages_of_a_beacon_have_the_codes_of_the_code() -> None:
    known = {name: code for name, code in constants("beacon.rs").items() if code < 0x10}
    assert numbered("beacon") == known


def test_frames_of_the_tunnel_have_the_magics_of_the_code() -> None:
    magics = set(re.findall(r'\*b"(PIL\w)"', (WIRE / "tunnel.rs").read_text()))
    assert {row[0].strip("`") for row in rows("tunnel") if row[0][:4] == "`PIL"} >= magics


def test_every_file_of_vectors_is_listed() -> None:
    listed = {name for row in rows("README") for name in re.findall(r"`([\w-]+\.json)`", row[0])}
    assert listed == {path.name for path in (ROOT / "tests" / "vectors").iterdir()}
