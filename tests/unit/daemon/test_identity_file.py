"""Invalid identity files are refused without blocking."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotstack.daemon import identity as identities
from pilotstack.errors import InvalidArgument


def test_a_link_to_an_identity_is_one(tmp_path: Path) -> None:
    made = identities.load_or_create(tmp_path / "identity.json")
    (tmp_path / "link.json").symlink_to("identity.json")
    assert identities.load(tmp_path / "link.json").public_key == made.public_key


def test_other_state_lies_beside_the_identity() -> None:
    assert identities.beside(Path("/d/identity.json"), "peers") == Path("/d/peers.json")
    assert identities.beside(Path("/d/agent.json"), "beacons") == Path("/d/agent.beacons.json")


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "long"])
def test_files_that_are_no_keys_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case _:
            path.write_bytes(b" " * (1 << 20))
    with pytest.raises(InvalidArgument, match="cannot read the identity"):
        identities.load(path)
