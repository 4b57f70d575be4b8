"""Flags that several commands share. Long flags with a single dash (``-log-level debug``), as
existing programs have them, are the same as those with two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from pilotstack import wellknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_LONG = re.compile(r"-[A-Za-z][A-Za-z0-9-]+(=.*)?", re.DOTALL)


def normalize(arguments: list[str]) -> list[str]:
    """The arguments with a second dash for each long flag that has one; those after ``--`` are
    unchanged."""
    normal: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return normal + arguments[position:]
        normal.append(f"-{argument}" if _LONG.fullmatch(argument) else argument)
    return normal


class Flag:
    """A flag of several commands, defined once.

    Args:
        declarations: as of :func:`click.option`.
        is_passed_on: a command that starts another has the flag, too.
        passed_on_help: what it says of it there, if that differs.
        settings: as of :func:`click.option`.
    """

    def __init__(
        self,
        *declarations: str,
        is_passed_on: bool = True,
        passed_on_help: str = "",
        **settings: Any,
    ) -> None:
        self._declarations = declarations
        self._settings = settings
        self._passed_on_help = passed_on_help
        self.is_passed_on = is_passed_on

    @property
    def names(self) -> list[str]:
        """Its names without dashes in front, those that turn it off left out."""
        return [each.partition("/")[0].lstrip("-") for each in self._declarations]

    def option(self, **settings: Any) -> Decorator:
        """The flag of the command that heeds it; ``settings`` are added to its own."""
        return click.option(*self._declarations, **self._settings, **settings)

    def passed_on(self) -> Decorator:
        """The flag of a command that passes it on: without a default, so that the other command's
        environment and settings still count."""
        kept = ("type", "is_flag", "multiple", "hidden")
        settings = {name: self._settings[name] for name in kept if name in self._settings}
        shown = self._passed_on_help or self._settings["help"]
        return click.option(*self._declarations, default=None, help=shown, **settings)


#: Where the registry is and how it is recognized.
REGISTRY_FLAGS = (
    Flag(
        "--registry",
        multiple=True,
        default=(wellknown.LOCAL_REGISTRY,),
        envvar="PILOT_REGISTRY",
        help="Registry, host:port; several, by commas or by repeating the flag, are a primary "
        "and its standbys (PILOT_REGISTRY).",
    ),
    Flag(
        "--registry-tls/--no-registry-tls",
        default=False,
        envvar="PILOT_REGISTRY_TLS",
        help="Talk TLS to the registry.",
    ),
    Flag(
        "--registry-trust",
        type=click.Choice(["pinned", "system"]),
        default="pinned",
        show_default=True,
        envvar="PILOT_REGISTRY_TRUST",
        help="Whether its certificate is one that --registry-fingerprint names or one that the "
        "system trusts.",
    ),
    Flag(
        "--registry-fingerprint",
        default="",
        envvar="PILOT_REGISTRY_FINGERPRINT",
        help="SHA-256 of its certificate, as it prints it at its start; several by commas.",
    ),
)


def registry_options(**settings: Any) -> Decorator:
    """The flags of a client of the registry.

    Args:
        settings: what every one of these click options gets, such as a callback.
    """
    return all_of(flag.option(**settings) for flag in REGISTRY_FLAGS)


def all_of(options: Iterable[Decorator]) -> Decorator:
    """Several options of a command, in the order of its help."""
    listed = tuple(options)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(listed):
            command = option(command)
        return command

    return decorate
