"""The numbers of the daemon's socket are the same in Python and Rust."""

from __future__ import annotations

import re
from pathlib import Path

from pilotstack.ipc import codes

WIRE = Path(__file__).parents[3] / "rust" / "proto" / "src" / "wire" / "ipc.rs"
CODE = re.compile(r"pub const ([A-Z_]+): u8 = 0x([0-9a-f]{2});")
#: Everything in the module that is not the number of a command.
OTHERS = re.compile(r"HANDSHAKE_.+|NETWORK_.+|MANAGED_.+|VERSION|LENGTH_LEN|MAX_.+|NO_DELAY")


def test_commands() -> None:
    rust = {name: int(code, 16) for name, code in CODE.findall(WIRE.read_text())}
    assert len(rust) > 50
    python = {
        name: value
        for name, value in vars(codes).items()
        if isinstance(value, int) and not OTHERS.fullmatch(name)
    }
    assert python == rust


def test_congestion_controllers() -> None:
    config = (WIRE.parents[1] / "config.rs").read_text()
    listed = re.search(r"pub const ALL: \[Self; \d\] = \[(.*?)\];", config)
    assert listed is not None
    names = re.findall(r"Self::(\w+)", listed[1])
    assert [name.lower() for name in names] == list(codes.CONGESTION)
    assert list(codes.CONGESTION.values()) == [*range(1, len(names) + 1)]


def test_limits() -> None:
    source = WIRE.read_text()
    assert f"pub const VERSION: u16 = {codes.VERSION};" in source
    assert f"pub const LENGTH_LEN: usize = {codes.LENGTH_LEN};" in source
    assert "pub const MAX_FRAME: usize = 1 << 20;" in source
    assert codes.MAX_FRAME == 1 << 20
