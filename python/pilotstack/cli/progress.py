"""Progress bars, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from pilotstack.cli.output import Output


def bar(output: Output) -> Progress:
    """A progress bar on stderr, if that is a terminal."""
    from rich import progress

    return progress.Progress(
        # A file may be called anything.
        progress.TextColumn("{task.description}", style="bold", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=output.progress,
        disable=not output.progress.is_terminal,
        transient=True,
    )
