"""Messages and hints for failed connections to a registry."""

from __future__ import annotations

import socket
import ssl
from typing import NamedTuple

import anyio

from pilotstack.registry.protocol import framing

#: Certificate errors (``X509_V_ERR_*`` of OpenSSL's x509_vfy.h) and what they mean.
_CERTIFICATE = {
    9: "shows a certificate that is not valid yet",
    10: "shows a certificate that has expired",
    18: "shows a self-signed certificate that this system does not trust",
    19: "shows a certificate of an authority that this system does not trust",
    20: "shows a certificate of an authority that this system does not trust",
    62: "shows a certificate for another name (mismatch)",
    64: "shows a certificate for another address (mismatch)",
}
_RUNNING = "check that it runs and that --registry names it"
_NAME = "check the spelling of the name, and this host's name servers"
_WANTS_TLS = "it may speak TLS: give --registry-tls"
_NO_TLS = "it may speak plain TCP: leave --registry-tls out"
_TRUST = "pin it with --registry-fingerprint, or mend the certificate or this host's clock"


class Cause(NamedTuple):
    """A predicate for "the registry at ..." and a hint."""

    text: str
    hint: str


def cause_of(error: BaseException, *, is_tls: bool) -> Cause:
    """The cause behind an error of a connection attempt or an exchange.

    Args:
        is_tls: the client speaks TLS.
    """
    match error:
        case ssl.SSLCertVerificationError():
            text = _CERTIFICATE.get(
                error.verify_code,
                f"shows a certificate that is refused: {error.verify_message}",
            )
            return Cause(text, _TRUST)
        case ssl.SSLError():
            return Cause("does not speak TLS on that port", _NO_TLS)
        case socket.gaierror() | UnicodeError():
            return Cause("cannot be resolved: no such host name", _NAME)
        case ConnectionRefusedError():
            return Cause("refused the connection: nothing listens there", _RUNNING)
        case TimeoutError():
            hint = _RUNNING if is_tls else f"{_RUNNING}; {_WANTS_TLS}"
            return Cause("does not answer in time", hint)
        case framing.ProtocolError():
            return Cause(
                "does not speak the registry's protocol", _RUNNING if is_tls else _WANTS_TLS
            )
        case anyio.EndOfStream() | anyio.BrokenResourceError() | ConnectionError():
            text = "closed the connection without an answer"
            return Cause(text, _NO_TLS if is_tls else _WANTS_TLS)
        case OSError() if isinstance(error.__cause__, OSError):
            # anyio reports several attempts as one.
            return cause_of(error.__cause__, is_tls=is_tls)
        case OSError() if isinstance(error.__cause__, BaseExceptionGroup):
            return cause_of(error.__cause__.exceptions[0], is_tls=is_tls)
        case OSError():
            return Cause(f"cannot be reached: {error.strerror or error}", _RUNNING)
        case _:
            return Cause(f"cannot be reached: {error}", _RUNNING)
