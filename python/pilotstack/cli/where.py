"""Which registry a command asks: the one that flags or environment name, else the daemon's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pilotstack.registry.client import TlsTrust, parse_addresses, trust_of

if TYPE_CHECKING:
    from pilotstack.cli.settings import Settings
    from pilotstack.ipc.answers import Info

#: Hosts and ports, and how the registry is recognized.
Where = tuple[tuple[tuple[str, int], ...], TlsTrust | None]


def registry_of(settings: Settings, info: Info | None) -> Where:
    """Addresses and trust.

    Args:
        info: of the daemon, if one answers.

    Raises:
        InvalidArgument: the flags make no sense.
    """
    source = click.get_current_context().get_parameter_source("registry")
    is_given = source is not click.core.ParameterSource.DEFAULT
    if info is not None and info.registry.address and not is_given:
        own = info.registry
        return parse_addresses(own.address), TlsTrust(own.fingerprints) if own.tls else None
    trust = trust_of(
        is_tls=settings.registry_tls,
        mode=settings.registry_trust,
        fingerprints=settings.registry_fingerprint,
    )
    return parse_addresses(settings.registry), trust
