"""The global options of ``pilotctl``, and the connections that they configure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pilotstack import _config, wellknown
from pilotstack.cli.output import Output
from pilotstack.cli.session import ControlSession

if TYPE_CHECKING:
    from pilotstack.client import Driver
    from pilotstack.registry.client import RegistryClient, Signer


class Settings:
    """The global options.

    Args:
        socket: the daemon's; the default place unless given.
        is_json: ``None`` means JSON unless stdout is a terminal.
    """

    def __init__(self, socket: Path | None = None, is_json: bool | None = None) -> None:
        self.socket = socket
        self.is_json = is_json
        #: The file of settings that was named.
        self.config = _config.environment_file()
        self.registry: tuple[str, ...] = ()
        self.registry_tls = False
        self.registry_trust = "pinned"
        self.registry_fingerprint = ""

    @property
    def output(self) -> Output:
        """The printer."""
        return Output(self.is_json)

    @property
    def socket_path(self) -> Path:
        """The daemon's socket: that of the flag, else of the environment, else of the file of
        settings, else the default place.

        Raises:
            InvalidArgument: the file cannot be read.
        """
        if self.socket is not None:
            return self.socket
        if self.config is not None and not os.environ.get("PILOT_SOCKET"):
            named = _config.text_of("socket", self.config)
            if named:
                return Path(named)
        return wellknown.default_socket()

    def session(self) -> ControlSession:
        """A session with the daemon for a question or two, to be entered.

        Raises:
            NotRunning: no daemon answers.
        """
        output = self.output
        return ControlSession(
            self.socket_path, waiting=lambda: output.waiting("waiting for the daemon")
        )

    def driver(self, *, reconnect: bool = False) -> Driver:
        """The SDK, to be entered."""
        from pilotstack.client import Driver

        return Driver(self.socket_path, reconnect=reconnect)

    def registry_client(self, signer: Signer | None = None) -> RegistryClient:
        """A client of the registry that ``--registry`` and its kin name; the caller closes it.

        Raises:
            InvalidArgument: they make no sense.
        """
        from pilotstack.registry.client import RegistryClient, parse_addresses, trust_of

        trust = trust_of(
            is_tls=self.registry_tls,
            mode=self.registry_trust,
            fingerprints=self.registry_fingerprint,
        )
        return RegistryClient(parse_addresses(self.registry), signer, tls=trust)
