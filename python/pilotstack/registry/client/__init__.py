"""The registry's client: typed requests of one identity, over one connection at a time."""

from pilotstack.registry.client.client import Record, Registration, RegistryClient
from pilotstack.registry.client.connection import parse_addresses
from pilotstack.registry.client.refusals import error_of
from pilotstack.registry.client.requests import Signer
from pilotstack.registry.protocol.tls import TlsTrust, trust_of

__all__ = [
    "Record",
    "Registration",
    "RegistryClient",
    "Signer",
    "TlsTrust",
    "error_of",
    "parse_addresses",
    "trust_of",
]
