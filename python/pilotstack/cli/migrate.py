"""``pilotctl migrate``: what existing programs left behind, and what becomes of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pilotstack import _commands, wellknown
from pilotstack.cli.context import global_options, reported
from pilotstack.cli.text import members_of
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pilotstack.cli.screen import Screen
    from pilotstack.cli.settings import Settings

_COLUMNS = {"what": "what", "found": "found", "becomes": "what becomes of it", "path": "path"}
#: Files of which a copy is made: what a start of our programs writes.
_COPIED = ("config.json", "identity.json", "identity.key", "trust.json")


@_commands.command()
@click.option("--dry-run", is_flag=True, help="Copy nothing.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Snapshot of an existing rendezvous server.",
)
@global_options
@reported
def migrate(settings: Settings, dry_run: bool, store: Path | None) -> None:
    """Show what existing programs left, and what becomes of it; and copy it, unless --dry-run.

    Our programs use the files of existing ones where they are. The copies, in a folder beside them,
    are for the way back.
    """
    from pilotstack.daemon.found import look

    home = wellknown.home()
    found = look(home, store)
    copy = None if dry_run or not found else _copy(home, store)
    data: dict[str, object] = {
        "home": str(home),
        "found": [members_of(row) for row in found],
        "problems": sum(row.is_problem for row in found),
        "copy": str(copy) if copy else None,
    }

    def render(screen: Screen) -> None:
        if not found:
            screen.print(f"nothing of an existing program in {home}")
            return
        screen.rows(f"in {home}", _COLUMNS, [members_of(row) for row in found])
        if copy is not None:
            screen.print(f"copied to {copy}")

    settings.output.success(data, render)


def _copy(home: Path, store: Path | None) -> Path:
    target = home / time.strftime("before-pilotstack-%Y%m%d-%H%M%S")
    try:
        target.mkdir(mode=0o700)
        for path in [*(home / name for name in _COPIED), *([store] if store else [])]:
            if path.is_file():
                copied = shutil.copy2(path, target / path.name)
                Path(copied).chmod(0o600)
    except OSError as error:
        raise InvalidArgument(
            f"cannot copy to {target}: {error.strerror}", hint="see what there is with --dry-run"
        ) from error
    return target


COMMANDS = (migrate,)
