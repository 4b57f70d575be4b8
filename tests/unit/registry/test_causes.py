"""Messages and hints for registries that cannot be reached."""

from __future__ import annotations

import socket
import ssl

import anyio
import pytest

from pilotstack.registry.client.causes import cause_of
from pilotstack.registry.protocol.framing import ProtocolError


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    error.verify_message = "as OpenSSL has it"
    return error


def caused_by(cause: BaseException) -> OSError:
    error = OSError("All connection attempts failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (certificate_error(10), "expired"),
        (certificate_error(62), "another name"),
        (certificate_error(64), "another address"),
        (certificate_error(20), "authority"),
        (certificate_error(77), "as OpenSSL has it"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "does not speak TLS"),
        (socket.gaierror(-2, "Name or service not known"), "resolved"),
        (UnicodeError("label too long"), "resolved"),
        (caused_by(ConnectionRefusedError()), "refused"),
        (caused_by(ExceptionGroup("", [TimeoutError()])), "in time"),
        (OSError(101, "Network is unreachable"), "unreachable"),
        (anyio.EndOfStream(), "closed"),
        (ProtocolError("a frame of 352518400 bytes"), "protocol"),
    ],
)
def test_the_message_names_the_cause(error: BaseException, word: str) -> None:
    assert word in cause_of(error, is_tls=True).text


def test_the_hint_suggests_the_other_of_tls_and_plain_tcp() -> None:
    assert "give --registry-tls" in cause_of(anyio.EndOfStream(), is_tls=False).hint
    assert "leave --registry-tls out" in cause_of(anyio.EndOfStream(), is_tls=True).hint
