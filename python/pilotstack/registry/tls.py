"""TLS of the registry, both sides (registry sheet 1.4): a certificate that is made once and kept,
so that what clients pinned stays true, and the two ways in which a client recognizes a registry."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pilotstack import _files
from pilotstack.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

#: Days for which a certificate of our own is good. Clients pin it, so its end only makes work.
VALID_DAYS = 3650
_FINGERPRINT_LEN = hashlib.sha256().digest_size * 2


@dataclass(frozen=True, slots=True)
class Trust:
    """How a client recognizes a registry that speaks TLS.

    Attributes:
        fingerprints: the leaf certificates that are accepted, each as the lower-case hexadecimal
            SHA-256 of its DER form; chain and name are not looked at. Empty: the system decides.
    """

    fingerprints: tuple[str, ...] = ()

    def context(self) -> ssl.SSLContext:
        """A client context, TLS 1.2 or newer."""
        if not self.fingerprints:
            context = ssl.create_default_context()
        else:
            # The pin is looked at instead, see accepts().
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def accepts(self, certificate: bytes) -> bool:
        """Whether this leaf, in DER form, is one that was pinned; always, if none is."""
        shown = fingerprint_of(certificate)
        matches = [hmac.compare_digest(shown, pinned) for pinned in self.fingerprints]
        return any(matches) or not matches


def fingerprint_of(certificate: bytes) -> str:
    """What clients pin: lower-case hexadecimal SHA-256 of a certificate in DER form."""
    return hashlib.sha256(certificate).hexdigest()


def trust_of(
    *, is_tls: bool, mode: str, fingerprints: str, prefix: str = "registry"
) -> Trust | None:
    """The trust that the flags of a client ask for; ``None`` without TLS.

    Args:
        is_tls: ``--registry-tls``.
        mode: ``pinned`` or ``system``.
        fingerprints: hexadecimal, separated by commas.
        prefix: what the flags begin with.

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
        return Trust()
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
    return Trust(pins)


def server_context(certificate: Path, key: Path) -> tuple[ssl.SSLContext, str]:
    """A server context, TLS 1.2 or newer, and the fingerprint of its leaf.

    Raises:
        InvalidArgument: the files cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"cannot use the certificate {certificate} with the key {key}: {error}",
            hint="both are PEM files, and the key belongs to the first certificate",
        ) from error
    return context, fingerprint_of(leaf.public_bytes(serialization.Encoding.DER))


def load_or_create(certificate: Path, key: Path) -> None:
    """Makes a self-signed certificate and its key unless both are there.

    Raises:
        InvalidArgument: the files cannot be written.
    """
    if certificate.exists() and key.exists():
        return
    try:
        private = ec.generate_private_key(ec.SECP256R1())
        secret = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _files.replace(key, [secret])
        shown = _self_signed(private).public_bytes(serialization.Encoding.PEM)
        _files.replace(certificate, [shown])
    except OSError as error:
        raise InvalidArgument(
            f"cannot write the certificate {certificate}: {error.strerror}",
            hint="choose a directory that this user may write, or give --tls-cert and --tls-key",
        ) from error


def _self_signed(private: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Pilot Protocol")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        # A client whose clock is a little behind must not find it in the future.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
