"""Requests that an existing daemon has no verb for, made to the registry itself, as existing
commands make them: signed by the node's key if its file is at the default place, else with an admin
token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pilotstack import _config, wellknown
from pilotstack.errors import InvalidArgument, PilotError, Unavailable
from pilotstack.ipc import network_requests as n
from pilotstack.ipc import requests as r

if TYPE_CHECKING:
    from pilotstack.cli.session import ControlSession
    from pilotstack.daemon.identity import Identity
    from pilotstack.ipc.answers import Info
    from pilotstack.ipc.layout import Request
    from pilotstack.registry.client import RegistryClient

A = TypeVar("A", bound=msgspec.Struct)

_UNKNOWN = ("unknown command", "unknown sub-command")


def ask(session: ControlSession, request: Request[A]) -> A:
    """The daemon's answer, or, if it has no verb for the request, the registry's.

    Raises:
        PilotError: the refusal.
    """
    try:
        return session.ask(request)
    except PilotError as error:
        if not any(text in error.message for text in _UNKNOWN):
            raise
        return _ask_registry(session.ask(r.GetInfo()), request, error)


def _ask_registry(info: Info, request: Request[A], unknown: PilotError) -> A:
    import anyio

    from pilotstack.registry.client import RegistryClient, parse_addresses

    address = os.environ.get("PILOT_REGISTRY") or _config.text_of("registry")
    client = RegistryClient(parse_addresses(address or wellknown.LOCAL_REGISTRY), _signer(info))
    client.node_id = info.node_id

    async def run() -> dict[str, object]:
        try:
            return await _send(client, request, info, unknown)
        finally:
            await client.aclose()

    reply = anyio.run(run)
    return request.decode(msgspec.json.encode(reply))


def _signer(info: Info) -> Identity | None:
    """The node's identity, if its file is where ``pilotctl daemon start`` keeps it."""
    import base64

    from pilotstack.daemon import identity, lifecycle

    try:
        found = identity.load(lifecycle.identity_file())
    except (OSError, InvalidArgument):
        return None
    key = base64.b64encode(found.public_key).decode("ascii")
    return found if key == info.public_key else None


async def _send(
    client: RegistryClient, request: object, info: Info, unknown: PilotError
) -> dict[str, object]:
    match request:
        case n.CreateNetwork():
            return await client.create_network(
                request.name,
                join_rule=request.join_rule,
                token=request.token,
                admin_token=request.admin_token,
                network_admin_token=request.network_admin_token,
                enterprise=request.enterprise,
            )
        case n.DeleteNetwork(network, token):
            return await client.delete_network(network, admin_token=token)
        case n.RenameNetwork(network, name, token):
            return await client.rename_network(network, name, admin_token=token)
        case n.KickMember() | n.PromoteMember() | n.DemoteMember() | n.TransferOwnership():
            return await _send_about(client, request)
        case n.GetRole(network, node):
            return await client.get_member_role(network, node)
        case n.GetLimits(network):
            return await client.get_network_policy(network)
        case n.SetLimits():
            return await client.set_network_policy(
                request.network_id,
                max_members=request.max_members,
                allowed_ports=request.allowed_ports,
                description=request.description,
                admin_token=request.admin_token,
            )
        case r.EnrollRecovery(commitment) if client.signer is not None and commitment is not None:
            return await client.enroll_recovery(commitment)
        case r.Register() if client.signer is not None:
            done = await client.register(info.endpoint, hostname=info.hostname, owner=info.owner)
            return {
                "type": "register_ok",
                "node_id": done.node_id,
                "address": str(done.address),
                "hostname": done.hostname,
                "hostname_error": done.hostname_error,
            }
        case _:
            raise Unavailable(
                f"the daemon does not know this command ({unknown.message})",
                hint="its key must sign this, and is not in ~/.pilot: update the daemon",
            ) from unknown


async def _send_about(
    client: RegistryClient,
    request: n.KickMember | n.PromoteMember | n.DemoteMember | n.TransferOwnership,
) -> dict[str, object]:
    network, node, token = request.network_id, request.node_id, request.admin_token
    match request:
        case n.KickMember():
            return await client.kick_member(network, node, admin_token=token)
        case n.PromoteMember():
            return await client.promote_member(network, node, admin_token=token)
        case n.DemoteMember():
            return await client.demote_member(network, node, admin_token=token)
        case n.TransferOwnership():
            return await client.transfer_ownership(network, node, admin_token=token)
