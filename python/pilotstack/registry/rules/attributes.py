"""What a node says about itself: name, visibility, tags, score."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.names import hostname_problem
from pilotstack.registry.protocol.requests.identity import (
    MAX_SCORE,
    MAX_TAG,
    MAX_TAGS,
    GetPoloScore,
    GetPoloScoreReply,
    SetHostname,
    SetHostnameReply,
    SetPoloScore,
    SetPoloScoreReply,
    SetTags,
    SetTagsReply,
    SetTaskExec,
    SetTaskExecReply,
    SetVisibility,
    SetVisibilityReply,
    UpdatePoloScore,
    UpdatePoloScoreReply,
)
from pilotstack.registry.rules.call import changed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.rules.call import Call, Handlers

_TAG: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def check_tags(tags: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Tags without duplicates and without the ``#`` that people write before them.

    Raises:
        Denied: there are too many, or one is malformed.
    """
    if len(tags) > MAX_TAGS:
        raise Denied(f"too many {what}s (max {MAX_TAGS})", Code.INVALID)
    return tuple(dict.fromkeys(_clean_tags(tags, what)))


def _clean_tags(given: Iterable[str], what: str) -> Iterable[str]:
    for tag in given:
        name = tag.removeprefix("#")
        if len(name.encode()) > MAX_TAG:
            text = f'{what} "{name[:64]}" too long (max {MAX_TAG} chars)'
            raise Denied(text, Code.INVALID)
        if not _TAG.fullmatch(name):
            raise Denied(
                f'invalid {what} "{name}": must be lowercase alphanumeric with hyphens, '
                "start/end with alphanumeric",
                Code.INVALID_NAME,
            )
        yield name


def set_hostname(call: Call[SetHostname]) -> SetHostnameReply:
    """Sets a node's hostname, or clears it."""
    name = call.request.hostname
    if name and (problem := hostname_problem(name)):
        raise Denied(f"invalid hostname: {problem.text}", problem.code)
    node = call.authorize(call.live(call.request.node_id))
    owner = call.state.by_hostname.get(name, node.node_id)
    if name and owner != node.node_id:
        raise Denied(f'hostname "{name}" already in use by node {owner}', Code.NAME_TAKEN)
    call.put_node(changed(node, hostname=name))
    return SetHostnameReply(node_id=node.node_id, hostname=name)


def set_visibility(call: Call[SetVisibility]) -> SetVisibilityReply:
    """Sets whether everybody may know a node's endpoint."""
    node = call.authorize(call.live(call.request.node_id))
    public = call.request.public
    call.put_node(changed(node, public=public))
    return SetVisibilityReply(node_id=node.node_id, visibility="public" if public else "private")


def set_tags(call: Call[SetTags]) -> SetTagsReply:
    """Sets what a node can be found by."""
    tags = check_tags(call.request.tags, "tag")
    node = call.authorize(call.live(call.request.node_id))
    call.put_node(changed(node, tags=tags))
    return SetTagsReply(node_id=node.node_id, tags=tags or None)


def set_task_exec(call: Call[SetTaskExec]) -> SetTaskExecReply:
    """Sets whether a node takes tasks."""
    node = call.authenticate(call.live(call.request.node_id))
    enabled = call.request.enabled
    call.put_node(changed(node, task_exec=enabled))
    return SetTaskExecReply(node_id=node.node_id, task_exec=enabled)


def get_polo_score(call: Call[GetPoloScore]) -> GetPoloScoreReply:
    """A node's score."""
    node = call.live(call.request.node_id)
    return GetPoloScoreReply(node_id=node.node_id, address=node.address, polo_score=node.polo_score)


def set_polo_score(call: Call[SetPoloScore]) -> SetPoloScoreReply:
    """Sets a node's score."""
    value = _score_in("set_polo_score", "polo_score", call.request.polo_score)
    node = _scored(call)
    return SetPoloScoreReply(
        node_id=node.node_id, address=node.address, polo_score=_put_score(call, node, value)
    )


def update_polo_score(call: Call[UpdatePoloScore]) -> UpdatePoloScoreReply:
    """Adds to a node's score."""
    value = _score_in("update_polo_score", "delta", call.request.delta)
    node = _scored(call)
    score = _put_score(call, node, node.polo_score + value)
    return UpdatePoloScoreReply(node_id=node.node_id, address=node.address, polo_score=score)


def _score_in(kind: str, member: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Denied(f"{kind} requires {member} field", Code.INVALID)
    return _bounded(value)


def _scored(call: Call[SetPoloScore] | Call[UpdatePoloScore]) -> Node:
    """The node whose score is changed, by the operator: these requests are not signed, and a node
    must not raise its own."""
    node = call.live(call.request.node_id)
    if not call.is_admin():
        kind = call.request.__struct_config__.tag
        raise Denied(f"{kind} requires the admin token", Code.ADMIN_TOKEN)
    return node


def _put_score(call: Call[SetPoloScore] | Call[UpdatePoloScore], node: Node, score: int) -> int:
    score = _bounded(score)
    call.put_node(changed(node, polo_score=score))
    return score


def _bounded(score: float) -> int:
    return int(max(-MAX_SCORE, min(score, MAX_SCORE)))


HANDLERS: Final[Handlers] = {
    SetHostname: set_hostname,
    SetVisibility: set_visibility,
    SetTags: set_tags,
    SetTaskExec: set_task_exec,
    GetPoloScore: get_polo_score,
    SetPoloScore: set_polo_score,
    UpdatePoloScore: update_polo_score,
}
