"""Durations on the command line: ``500ms``, ``30s``, ``2m`` or plain seconds."""

from __future__ import annotations

import re

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Click's type of durations; the value is a float in seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parses the text."""
        if isinstance(value, float | int):
            return float(value)
        match = _DURATION.fullmatch(str(value))
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is not a duration; write 500ms, 30s, 2m or seconds", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]
