"""Checks of a registry: reached, recognized, and at the same time of day."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final

from pilotstack.diagnosis.findings import Finding, error, fine, note, warning
from pilotstack.errors import PermissionDenied
from pilotstack.registry.client.causes import cause_of
from pilotstack.registry.protocol import framing

#: Certificate errors of OpenSSL (x509_vfy.h).
_NOT_YET, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64
_CERTIFICATES: Final = {
    _NOT_YET: "tls_not_yet_valid",
    _EXPIRED: "tls_expired",
    _WRONG_NAME: "tls_wrong_name",
    _WRONG_ADDRESS: "tls_wrong_name",
}
#: Seconds by which a signature's time may differ from the registry's clock: beyond, requests are
#: refused (docs/reference/protocol/registry.md). Below the other, nobody notices.
_CLOCK_REFUSED: Final = 300
_CLOCK_FINE: Final = 30
#: Seconds before its end in which a certificate should be renewed.
_RENEW: Final = 14 * 86_400
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Contact:
    """An attempt to talk to a registry. Times are Unix seconds of this host's clock."""

    address: str
    is_tls: bool = False
    #: Its certificate is pinned: name and dates do not matter.
    is_pinned: bool = False
    #: Why there was no answer.
    failure: Exception | None = None
    #: Seconds to connect and to get an answer.
    took: float = 0.0
    #: The end of its certificate; 0 if that is not known.
    expires: float = 0.0
    #: When it answered, and its clock then; 0 if it does not tell.
    at: float = 0.0
    clock: float = 0.0


def reachable(contact: Contact) -> Finding:
    """Whether a registry answers, and why not."""
    name = f"the registry at {contact.address}"
    if contact.failure is None:
        return fine(
            "registry_reached", f"{name} answers in {1000 * contact.took:.0f} ms.".capitalize()
        )
    cause = cause_of(contact.failure, is_tls=contact.is_tls)
    text, fix = cause.text, cause.hint
    root = root_of(contact.failure)
    if isinstance(root, PermissionDenied):
        text, fix = "shows another certificate than the pinned one", root.hint or fix
    return error(
        _code_of(root, is_tls=contact.is_tls), f"The registry at {contact.address} {text}.", fix
    )


def root_of(failure: BaseException) -> BaseException:
    """The first error behind one that stands for several attempts."""
    cause = failure.__cause__
    if isinstance(failure, OSError) and not isinstance(failure, PermissionDenied):
        if isinstance(cause, BaseExceptionGroup):
            return root_of(cause.exceptions[0])
        if isinstance(cause, OSError):
            return root_of(cause)
    return failure


def _code_of(root: BaseException, *, is_tls: bool) -> str:
    match root:
        case PermissionDenied():
            return "tls_wrong_fingerprint"
        case ssl.SSLCertVerificationError():
            return _CERTIFICATES.get(root.verify_code, "tls_untrusted")
        case ssl.SSLError():
            return "tls_not_spoken"
        case socket.gaierror() | UnicodeError():
            return "registry_unresolved"
        case ConnectionRefusedError():
            return "registry_refused"
        case TimeoutError():
            return "registry_silent"
        case framing.ProtocolError():
            return "registry_other_protocol"
        case _ if not is_tls and not isinstance(root, OSError):
            # It closed the connection: what a server of TLS does with plain text.
            return "registry_closed"
        case _:
            return "registry_unreachable"


def certificate(contact: Contact, now: float) -> Finding:
    """Whether TLS protects what is said, and for how long."""
    if not contact.is_tls:
        return note(
            "tls_off",
            "Without TLS, whoever is on the path to the registry can read, and name wrong keys.",
            "start the registry with --tls, and daemons with --registry-tls --registry-fingerprint",
        )
    if contact.is_pinned:
        return fine("tls_pinned", "The registry shows the pinned certificate.")
    left = contact.expires - now
    if contact.expires and left < _RENEW:
        return warning(
            "tls_expires_soon",
            f"The registry's certificate ends in {max(0, int(left // _DAY))} days.",
            "renew it, and restart the registry",
        )
    return fine("tls_trusted", "The system trusts the registry's certificate.")


def clock(contact: Contact) -> Finding:
    """Whether this host's clock agrees with the registry's."""
    if not contact.clock:
        return note("clock_unknown", "The registry does not tell its time: it is an older one.")
    # The registry tells whole seconds.
    ahead = contact.at - contact.clock - 0.5
    way = "ahead of" if ahead > 0 else "behind"
    text = f"This host's clock is {abs(ahead):.0f} s {way} the registry's"
    fix = "set the clock: timedatectl set-ntp true"
    if abs(ahead) > _CLOCK_REFUSED:
        return error("clock_wrong", f"{text}, which refuses what is signed with that time.", fix)
    if abs(ahead) > _CLOCK_FINE:
        return warning("clock_off", f"{text}.", fix)
    return fine("clock_right", "This host's clock agrees with the registry's.")
