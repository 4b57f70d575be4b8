"""Flags that several commands share. Long flags with a single dash (``-log-level debug``), as
existing programs have them, are the same as those with two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from pilotstack import wellknown

if TYPE_CHECKING:
    from collections.abc import Callable

_LONG = re.compile(r"-[A-Za-z][A-Za-z0-9-]+(=.*)?", re.DOTALL)


def normalize(arguments: list[str]) -> list[str]:
    """Gives every single-dash flag of more than one letter its second dash; what follows ``--``
    is left alone."""
    normal: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return normal + arguments[position:]
        normal.append(f"-{argument}" if _LONG.fullmatch(argument) else argument)
    return normal


def registry_options(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags of a client of the registry: where it is and how it is recognized.

    Args:
        settings: what every one of these click options gets, such as a callback.
    """
    options = (
        click.option(
            "--registry",
            multiple=True,
            default=(wellknown.LOCAL_REGISTRY,),
            envvar="PILOT_REGISTRY",
            help="Registry, host:port; several, by commas or by repeating the flag, are a primary "
            "and its standbys (PILOT_REGISTRY).",
            **settings,
        ),
        click.option(
            "--registry-tls/--no-registry-tls",
            default=False,
            envvar="PILOT_REGISTRY_TLS",
            help="Talk TLS to the registry.",
            **settings,
        ),
        click.option(
            "--registry-trust",
            type=click.Choice(["pinned", "system"]),
            default="pinned",
            show_default=True,
            envvar="PILOT_REGISTRY_TRUST",
            help="Whether its certificate is one that --registry-fingerprint names or one that the "
            "system trusts.",
            **settings,
        ),
        click.option(
            "--registry-fingerprint",
            default="",
            envvar="PILOT_REGISTRY_FINGERPRINT",
            help="SHA-256 of its certificate, as it prints it at its start; several by commas.",
            **settings,
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
