"""The table of commands, and what Ctrl-C does before a command runs."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys

import pytest

from pilotstack import _entry
from pilotstack.cli.main import COMMANDS, pilotctl

#: Interrupts the process in the middle of the imports of a command.
_INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from pilotstack import _entry
_entry.{entry}()
"""


@pytest.mark.parametrize("module", COMMANDS)
def test_the_table_has_every_command_of_a_module_with_the_first_sentence_of_its_help(
    module: str,
) -> None:
    found = {
        command.name: " ".join(command.help.split("\n\n")[0].split())
        for command in importlib.import_module(f"pilotstack.cli.{module}").COMMANDS
    }
    assert found == COMMANDS[module]
    assert set(found) <= set(pilotctl.commands)


@pytest.mark.parametrize(
    "entry",
    [
        *("pilotctl", "pilot_daemon", "pilot_rendezvous", "pilot_registry", "pilot_beacon"),
        "pilot_nameserver",
        "pilot_gateway",
    ],
)
def test_an_interruption_while_a_command_imports_ends_it_quietly(entry: str) -> None:
    assert callable(getattr(_entry, entry))
    result = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED.format(entry=entry)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")
