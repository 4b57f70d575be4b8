"""What a node says about itself (sheet 3.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.protocol.names import check_hostname
from pilotstack.registry.rules.call import changed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

MAX_TAGS: Final = 10
MAX_TAG: Final = 32
_TAG: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
#: Bounds of a score, wide enough for every one that old registries keep.
_MAX_SCORE: Final = (1 << 53) - 1


def read_tags(call: Call, what: str) -> tuple[str, ...]:
    """The ``tags`` of a request, each once, without the ``#`` that people write before them.

    Raises:
        Denied: there are too many, or one is no tag.
    """
    value = call.message.get("tags")
    given = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    if len(given) > MAX_TAGS:
        raise Denied(f"too many {what}s (max {MAX_TAGS})")
    return tuple(dict.fromkeys(_clean_tags(given, what)))


def _clean_tags(given: Iterable[str], what: str) -> Iterable[str]:
    for tag in given:
        name = tag.removeprefix("#")
        if len(name.encode()) > MAX_TAG:
            raise Denied(f'{what} "{name[:64]}" too long (max {MAX_TAG} chars)')
        if not _TAG.fullmatch(name):
            raise Denied(
                f'invalid {what} "{name}": must be lowercase alphanumeric with hyphens, '
                "start/end with alphanumeric"
            )
        yield name


def set_hostname(call: Call) -> Message:
    """An empty name clears."""
    name = call.text("hostname")
    if name and (problem := check_hostname(name)):
        raise Denied(f"invalid hostname: {problem}")
    node = call.live()
    node = call.authorize(node, f"set_hostname:{node.node_id}")
    owner = call.state.by_hostname.get(name, node.node_id)
    if name and owner != node.node_id:
        raise Denied(f'hostname "{name}" already in use by node {owner}')
    call.put_node(changed(node, hostname=name))
    return {"node_id": node.node_id, "hostname": name}


def set_visibility(call: Call) -> Message:
    """Whether everybody may know the endpoint."""
    node = call.live()
    node = call.authorize(node, f"set_visibility:{node.node_id}")
    public = call.flag("public")
    call.put_node(changed(node, public=public))
    return {"node_id": node.node_id, "visibility": "public" if public else "private"}


def set_tags(call: Call) -> Message:
    """What the node can be found by."""
    tags = read_tags(call, "tag")
    node = call.live()
    node = call.authorize(node, f"set_tags:{node.node_id}")
    call.put_node(changed(node, tags=tags))
    return {"node_id": node.node_id, "tags": list(tags) or None}


def set_task_exec(call: Call) -> Message:
    """Whether the node takes tasks; asked by the first generation of clients only."""
    node = call.live()
    node = call.authenticate(node, f"set_task_exec:{node.node_id}")
    enabled = call.flag("enabled")
    call.put_node(changed(node, task_exec=enabled))
    return {"node_id": node.node_id, "task_exec": enabled}


def get_polo_score(call: Call) -> Message:
    """A score that first-generation clients show."""
    node = call.live()
    return {"node_id": node.node_id, "address": node.address, "polo_score": node.polo_score}


def set_polo_score(call: Call) -> Message:
    """Sets the score."""
    return _score(call, "polo_score", is_relative=False)


def update_polo_score(call: Call) -> Message:
    """Adds to the score."""
    return _score(call, "delta", is_relative=True)


def _score(call: Call, member: str, *, is_relative: bool) -> Message:
    # Nobody signs these. A node must not raise its own score, so only the operator may.
    kind = call.text("type")
    value = call.message.get(member)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Denied(f"{kind} requires {member} field")
    node = call.live()
    if not call.is_admin():
        raise Denied(f"{kind} requires the admin token")
    score = _bounded(value) + (node.polo_score if is_relative else 0)
    node = changed(node, polo_score=_bounded(score))
    call.put_node(node)
    return {"node_id": node.node_id, "address": node.address, "polo_score": node.polo_score}


def _bounded(score: float) -> int:
    return int(max(-_MAX_SCORE, min(score, _MAX_SCORE)))


HANDLERS: Final[dict[str, Handler]] = {
    "set_hostname": set_hostname,
    "set_visibility": set_visibility,
    "set_tags": set_tags,
    "set_task_exec": set_task_exec,
    "get_polo_score": get_polo_score,
    "set_polo_score": set_polo_score,
    "update_polo_score": update_polo_score,
}
