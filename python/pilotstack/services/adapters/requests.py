"""requests and urllib3 to agents: adapters whose URLs name them, as ``http://agent-b/``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilotstack.errors import PilotError
from pilotstack.services.adapters._dialling import ThreadDialler
from pilotstack.services.adapters._extras import missing

try:
    import requests.adapters
    import urllib3
    import urllib3.connection
    import urllib3.connectionpool
    import urllib3.exceptions
except ModuleNotFoundError as error:
    raise missing("requests", error) from error

if TYPE_CHECKING:
    import os
    import socket

    from pilotstack import sync

__all__ = ["Adapter", "PoolManager"]


class _Connection(urllib3.connection.HTTPConnection):
    """A connection whose socket is a stream."""

    def __init__(self, *arguments: Any, dialler: ThreadDialler, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._dialler = dialler

    def _new_conn(self) -> socket.socket:
        timeout = self.timeout if isinstance(self.timeout, int | float) else None
        try:
            stream = self._dialler.dial((self.host, self.port), timeout)
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(self, str(error)) from error
        except PilotError as error:
            raise urllib3.exceptions.NewConnectionError(self, str(error)) from error
        stream.settimeout(timeout)
        return stream


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class PoolManager(urllib3.PoolManager):
    """urllib3's pools of connections to agents, for ``http`` URLs: tunnels are encrypted.

    Args:
        driver: dials; it is not closed with this. Unless given, one of its own is opened when it is
            first needed, and again after the daemon restarted.
        socket_path: the daemon for one of its own.
        settings: as of :class:`urllib3.PoolManager`.
    """

    def __init__(
        self,
        driver: sync.Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._dialler = ThreadDialler(driver, socket_path)

    def _new_pool(
        self,
        scheme: str,
        host: str,
        port: int,
        request_context: dict[str, Any] | None = None,
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        if scheme != "http":
            raise urllib3.exceptions.URLSchemeUnknown(scheme)
        settings = dict(request_context or self.connection_pool_kw)
        for name in ("scheme", "host", "port", *_TLS):
            settings.pop(name, None)
        return _Pool(host, port, **settings, dialler=self._dialler)

    def close(self) -> None:
        """Closes its connections, and a driver of its own."""
        self.clear()
        self._dialler.close()


#: Settings of TLS that :mod:`requests` gives to every pool.
_TLS = (
    *("key_file", "cert_file", "cert_reqs", "ca_certs", "ca_cert_dir", "ca_cert_data"),
    *("ssl_version", "ssl_minimum_version", "ssl_maximum_version", "ssl_context"),
    *("assert_hostname", "assert_fingerprint", "server_hostname", "key_password"),
)


class Adapter(requests.adapters.HTTPAdapter):
    """For ``session.mount("http://", Adapter())``. Arguments as of :class:`PoolManager`, settings
    as of :class:`requests.adapters.HTTPAdapter`."""

    def __init__(
        self,
        driver: sync.Driver | None = None,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        # The base class makes the pools in its own __init__.
        self._driver, self._path = driver, socket_path
        super().__init__(**settings)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **settings: Any
    ) -> None:
        """Makes the pools."""
        self.poolmanager = PoolManager(
            self._driver,
            socket_path=self._path,
            num_pools=connections,
            maxsize=maxsize,
            block=block,
            **settings,
        )

    def close(self) -> None:
        """Closes its connections, and a driver of its own."""
        super().close()
        self.poolmanager.close()
