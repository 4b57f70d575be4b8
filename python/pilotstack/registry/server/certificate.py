"""The registry's certificate: made once and kept, so that clients' pins stay valid."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pilotstack import _files
from pilotstack.errors import InvalidArgument
from pilotstack.registry.protocol.tls import fingerprint_of

if TYPE_CHECKING:
    from pathlib import Path

#: Days of validity. Clients pin the certificate, so its expiry would only cause work.
VALID_DAYS = 3650


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
