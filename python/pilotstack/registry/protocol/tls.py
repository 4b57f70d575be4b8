"""Connections to registries, and how their certificates are checked: by pins or by the system."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute, TLSStream

from pilotstack import _resolving, _serving
from pilotstack.errors import InvalidArgument, PermissionDenied

_FINGERPRINT_LEN = hashlib.sha256().digest_size * 2


@dataclass(frozen=True, slots=True)
class TlsTrust:
    """How a client authenticates a registry over TLS.

    Attributes:
        fingerprints: the accepted leaf certificates, each as the lower-case hexadecimal SHA-256 of
            its DER form; chain and name are not checked. Empty: the system's trust store decides.
    """

    fingerprints: tuple[str, ...] = ()

    def context(self) -> ssl.SSLContext:
        """A client context, TLS 1.2 or newer."""
        if not self.fingerprints:
            context = ssl.create_default_context()
        else:
            # The pin is checked instead, see accepts().
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def accepts(self, certificate: bytes) -> bool:
        """Whether a leaf, in DER form, is pinned; always true without pins."""
        shown = fingerprint_of(certificate)
        matches = [hmac.compare_digest(shown, pinned) for pinned in self.fingerprints]
        return any(matches) or not matches


def fingerprint_of(certificate: bytes) -> str:
    """The pin of a certificate in DER form: its SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def trust_of(
    *, is_tls: bool, mode: str, fingerprints: str, prefix: str = "registry"
) -> TlsTrust | None:
    """The trust that a client's flags ask for; ``None`` without TLS.

    Args:
        is_tls: ``--registry-tls``.
        mode: ``pinned`` or ``system``.
        fingerprints: hexadecimal, separated by commas.
        prefix: of the flags.

    Raises:
        InvalidArgument: a fingerprint is missing, superfluous or none.
    """
    pins = tuple(pin.strip() for pin in fingerprints.split(",") if pin.strip())
    if not is_tls:
        if pins or mode == "system":
            raise InvalidArgument(
                "a registry can be recognized only over TLS", hint=f"add --{prefix}-tls"
            )
        return None
    if mode == "system":
        if pins:
            raise InvalidArgument(
                f"--{prefix}-fingerprint pins, --{prefix}-trust system does not",
                hint="choose one of them",
            )
        return TlsTrust()
    for pin in pins:
        if len(pin) != _FINGERPRINT_LEN or set(pin) - set("0123456789abcdef"):
            raise InvalidArgument(
                f"not a fingerprint: {pin!r}",
                hint="64 lower-case hexadecimal digits, as the registry prints them at its start",
            )
    if not pins:
        raise InvalidArgument(
            f"--{prefix}-tls needs to know the registry's certificate",
            hint=f"add --{prefix}-fingerprint, or --{prefix}-trust system for a public one",
        )
    return TlsTrust(pins)


async def open_stream(host: str, port: int, trust: TlsTrust | None) -> anyio.abc.ByteStream:
    """A connection to a registry, over TLS if a trust is given.

    Raises:
        OSError: it cannot be reached.
        ssl.SSLError: the system does not trust its certificate, or it speaks no TLS.
        PermissionDenied: its certificate is not the pinned one.
    """
    plain = await _resolving.connect_tcp(host, port)
    if trust is None:
        return plain
    try:
        stream = await TLSStream.wrap(
            plain, hostname=host, ssl_context=trust.context(), standard_compatible=False
        )
        if trust.accepts(stream.extra(TLSAttribute.peer_certificate_binary, None) or b""):
            return stream
        raise PermissionDenied(
            f"the registry at {_serving.join_address(host, port)} shows another certificate than "
            "the pinned one",
            hint="compare --registry-fingerprint with what the registry prints at its start",
        )
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(plain)
        raise
