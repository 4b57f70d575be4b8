"""Which requests are security events, and what is told of them (``docs/reference/audit.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack import _events
from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.model.source import Source
    from pilotstack.registry.protocol.requests.base import Reply, Request

log = _events.get_logger(__name__)

#: Requests that are told whenever they change something.
AUDITED: Final = frozenset(
    {
        *("deregister", "rotate_key", "recover_identity", "enroll_recovery", "set_key_expiry"),
        *("set_visibility", "report_trust", "respond_handshake", "revoke_trust"),
        *("create_network", "delete_network", "rename_network", "join_network", "leave_network"),
        *("ban_node", "unban_node", "set_join_token"),
        *("invite_to_network", "respond_invite", "kick_member", "promote_member"),
        *("demote_member", "transfer_ownership", "set_network_policy", "set_expr_policy"),
        *("set_network_enterprise", "set_member_tags"),
    }
)
#: Why requests of every kind are told when they are refused.
SUSPICIOUS: Final = frozenset(
    {
        *(Code.ADMIN_TOKEN, Code.CREATION_DISABLED, Code.JOIN_TOKEN, Code.RECOVERY_SECRET),
        *(Code.REPLAYED, Code.ROLE, Code.SIGNATURE, Code.SIGNATURE_TIME),
    }
)
_REGISTER: Final = "register"
#: Members of requests that are told, and their names.
_MEMBERS: Final = {
    "node_id": "node",
    "requester_id": "by",
    "inviter_id": "by",
    "peer_id": "peer",
    "target_node_id": "target",
    "new_owner_id": "target",
    "network_id": "network",
    "public": "public",
    "accept": "accept",
}


def note(request: Request[Reply], source: Source, reply: Reply, changes: Sequence[Change]) -> None:
    """Tells of a request that was answered, if it is a security event."""
    name = str(request.__struct_config__.tag)
    if isinstance(reply, Refusal):
        if reply.code not in SUSPICIOUS:
            return
        event = "request_refused"
    elif name in AUDITED and changes:
        event = name
    elif name == _REGISTER and any(_is_new_node(change) for change in changes):
        event = "node_added"
    else:
        return
    told = {
        shown: value
        for member, shown in _MEMBERS.items()
        if (value := getattr(request, member, None))
    }
    if event == "request_refused":
        told |= {"request": name, "code": str(getattr(reply, "code", ""))}
    for member in ("node_id", "network_id"):
        if value := getattr(reply, member, None):
            told.setdefault(_MEMBERS[member], value)
    log.security(event, is_quiet=True, source=source.host, **told)


def _is_new_node(change: Change) -> bool:
    return change.table == "nodes" and change.before is None
