"""Trust pairs and the relay of handshakes.

Trust needs two consents. Reporting trust, asking for it and granting it each record "A trusts B";
only when B has said so of A as well is there a pair that gives access. One consent alone gives
none, so a forged or replayed one is worth nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pilotstack._resolving import source_of
from pilotstack.registry.model.rows import Claim, Request, Response
from pilotstack.registry.protocol.errors import Code, Denied
from pilotstack.registry.protocol.requests.trust import (
    MAX_JUSTIFICATION,
    CheckTrust,
    CheckTrustReply,
    PollHandshakes,
    PollHandshakesReply,
    Removal,
    ReportTrust,
    ReportTrustReply,
    RequestHandshake,
    RequestHandshakeReply,
    RespondHandshake,
    RespondHandshakeReply,
    RevokeTrust,
    RevokeTrustReply,
    WaitingRequest,
    WaitingResponse,
)
from pilotstack.registry.rules import gate
from pilotstack.registry.rules.paging import page

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.requests import base
    from pilotstack.registry.rules.call import Call, Handlers

#: Requests that wait for one node, and invitations. The node's own requests bound the responses.
MAX_INBOX: Final = 100
#: Nodes that one node may claim to trust.
MAX_CLAIMS: Final = 10_000
#: Seconds that a consent waits for the other side's.
CLAIM_TTL: Final = 90 * 86_400.0
#: Seconds that a request, a response or an invitation waits.
INBOX_TTL: Final = 30 * 86_400.0


def report_trust(call: Call[ReportTrust]) -> ReportTrustReply:
    """Records one side's consent."""
    node, peer_id = call.live(call.request.node_id), call.request.peer_id
    node_id = node.node_id
    call.authenticate(node)
    call.node(peer_id)
    news = call.state.responses.get((node_id, peer_id))
    if news is not None and news.revoked:
        if not call.state.deliveries.is_given("responses", node_id, peer_id):
            # The node has not heard of the revocation yet; this is about the trust that ended.
            text = f"report_trust denied: node {peer_id} has revoked its trust"
            raise Denied(text, Code.DENIED)
        call.put("responses", (node_id, peer_id), None)
    _claim(call, node_id, peer_id)
    # Consent answers the other's request, whatever becomes of a relayed response.
    call.put("requests", (node_id, peer_id), None)
    return ReportTrustReply()


def _claim(call: Call[base.Request[base.Reply]], node_id: int, peer_id: int) -> None:
    """Records that one node trusts another."""
    if node_id == peer_id:
        raise Denied("a node cannot trust itself", Code.INVALID)
    claims = call.state.claims
    if (node_id, peer_id) in claims:
        return
    if len(claims.of(node_id)) >= MAX_CLAIMS:
        text = f"too many trust claims of node {node_id} (max {MAX_CLAIMS})"
        raise Denied(text, Code.INVALID)
    counterpart = claims.get((peer_id, node_id))
    if counterpart is not None and call.now - counterpart.created > CLAIM_TTL:
        call.put("claims", (peer_id, node_id), None)
        counterpart = None
    call.put("claims", (node_id, peer_id), Claim(call.at))
    if counterpart is not None:
        call.wake(node_id, peer_id)


def revoke_trust(call: Call[RevokeTrust]) -> RevokeTrustReply:
    """Ends both consents, and requests and responses under way."""
    node, peer_id = call.live(call.request.node_id), call.request.peer_id
    node_id = node.node_id
    call.authenticate(node)
    claims = call.state.claims
    if (node_id, peer_id) not in claims and (peer_id, node_id) not in claims:
        raise Denied(f"no trust pair between {node_id} and {peer_id}", Code.NO_TRUST)
    is_pair = call.state.is_trusted(node_id, peer_id)
    for a, b in ((node_id, peer_id), (peer_id, node_id)):
        call.put("claims", (a, b), None)
        call.put("requests", (a, b), None)
        call.put("responses", (a, b), None)
    if is_pair:
        # Nodes of the first generation often fail to tell the other side. Old clients read this as
        # the refusal of a request that they did not make.
        call.put("responses", (peer_id, node_id), Response(False, call.at, revoked=True))
        call.wake(peer_id)
    return RevokeTrustReply()


def check_trust(call: Call[CheckTrust]) -> CheckTrustReply:
    """Whether a connection between the two is welcome: daemons ask for each SYN of a stranger. Only
    the two are told; others get "no", as for nodes that do not exist."""
    node_id, peer_id = call.request.node_id, call.request.peer_id
    if call.request.signature:
        requester = call.live(call.request.requester_id)
        call.authenticate(requester)
        if requester.node_id not in (node_id, peer_id):
            raise Denied("check_trust denied: requester must be one of the two", Code.DENIED)
    state = call.state
    is_welcome = state.may_know(node_id, peer_id)
    is_own = node_id in call.source.proven
    return CheckTrustReply(
        trusted=is_welcome and gate.may_know_pair(call, node_id, peer_id),
        # Its own consent: if it gave one and it is gone, the peer has revoked. And the peer's,
        # which answers what the node may have asked the peer itself.
        claimed=(node_id, peer_id) in state.claims if is_own else UNSET,
        granted=(peer_id, node_id) in state.claims if is_own else UNSET,
    )


def request_handshake(call: Call[RequestHandshake]) -> RequestHandshakeReply:
    """Puts a request into a node's inbox; it is also the sender's consent."""
    sender, to = call.live(call.request.from_node_id), call.request.to_node_id
    sender_id = sender.node_id
    justification = call.request.justification
    length = len(justification.encode())
    if length > MAX_JUSTIFICATION:
        text = f"justification too large: {length} bytes (max {MAX_JUSTIFICATION})"
        raise Denied(text, Code.INVALID)
    _authenticate(call, sender_id, "request")
    call.node(to)
    inbox = call.state.requests.of(to)
    waiting = inbox.get(sender_id)
    if waiting is not None and waiting.justification == justification:
        return RequestHandshakeReply(status="delivered")
    if waiting is not None and not call.state.deliveries.is_given("requests", to, sender_id):
        text = f"handshake request already pending from node {sender_id}"
        raise Denied(text, Code.ALREADY)
    if waiting is None and len(inbox) >= MAX_INBOX:
        make_room(call, "requests", to, sender_id, {waiting_id: waiting_id for waiting_id in inbox})
    _claim(call, sender_id, to)
    call.put("requests", (to, sender_id), Request(justification, call.at))
    # An old response does not answer this request.
    call.put("responses", (sender_id, to), None)
    call.wake(to)
    return RequestHandshakeReply(status="delivered")


def make_room(
    call: Call[base.Request[base.Reply]],
    table: str,
    to: int,
    sender_id: int,
    waiting: dict[int, int],
) -> None:
    """Drops an entry of a full inbox: the last one of the source that has most in it, provided the
    newcomer's source has less. Many nodes at one source cannot keep others out.

    Args:
        waiting: the sender of each entry, by the second part of its key.

    Raises:
        Denied: no source has more.
    """
    nodes = call.state.nodes
    by_source: dict[str, list[int]] = {}
    for key, other_id in waiting.items():
        by_source.setdefault(_source_of_node(nodes.get(other_id)), []).append(key)
    most = max(by_source.values(), key=len)
    if len(most) <= len(by_source.get(_source_of_node(nodes.get(sender_id)), ())) + 1:
        if table == "requests":
            raise Denied(f"handshake inbox full for node {to}", Code.FULL)
        raise Denied(f"too many invites for node {to}", Code.INVALID)
    call.put(table, (to, most[-1]), None)


def _source_of_node(node: Node | None) -> str:
    host = node.endpoint.rpartition(":")[0].strip("[]") if node else ""
    try:
        return source_of(host)[0]
    except ValueError:
        return host


def _authenticate(
    call: Call[RequestHandshake] | Call[RespondHandshake], node_id: int, what: str
) -> None:
    if not call.request.signature:
        raise Denied(f"handshake {what} requires signature", Code.SIGNATURE)
    try:
        call.authenticate(call.node(node_id))
    except Denied as denied:
        raise Denied(f"handshake {what} {denied}", denied.code) from denied


def poll_handshakes(call: Call[PollHandshakes]) -> PollHandshakesReply:
    """What waits for a node. Requests stay until they are answered, responses until their delivery
    is past doubt. Each is given once, and again on another connection if the reply may be lost."""
    node = call.live(call.request.node_id)
    node_id = node.node_id
    call.authenticate(node)
    state, source, now = call.state, call.source, call.now
    for sender_id in state.responses.of(node_id):
        if state.deliveries.is_over("responses", node_id, sender_id, now):
            call.put("responses", (node_id, sender_id), None)
    requests = tuple(
        WaitingRequest(sender_id, request.justification, request.timestamp)
        for sender_id, request in state.requests.of(node_id).items()
        if state.deliveries.take("requests", node_id, sender_id, source, now)
    )
    # As many as a reply has room for; the next poll gets the rest.
    due = [
        WaitingResponse(sender_id, row.accept, row.timestamp, row.revoked)
        for sender_id, row in state.responses.of(node_id).items()
        if state.deliveries.is_due("responses", node_id, sender_id, source, now)
    ]
    responses, _ = page(due)
    for response in responses:
        state.deliveries.take("responses", node_id, response.from_node_id, source, now)
    may_hold = call.request.wait is not UNSET
    removals = state.removals.take(node_id) if may_hold else ()
    return PollHandshakesReply(
        requests=requests,
        responses=tuple(responses),
        waited=may_hold,
        invites=len(state.invites.of(node_id)) if may_hold else UNSET,
        removals=tuple(Removal(*each) for each in removals) if removals else UNSET,
    )


def respond_handshake(call: Call[RespondHandshake]) -> RespondHandshakeReply:
    """Answers a request. Accepting is one side's consent; it binds nobody who did not ask."""
    node, peer = call.live(call.request.node_id), call.live(call.request.peer_id)
    node_id, peer_id, accept = node.node_id, peer.node_id, call.request.accept
    _authenticate(call, node_id, "response")
    if accept:
        _claim(call, node_id, peer_id)
    elif (node_id, peer_id) in call.state.requests:
        # Both answers have the same signature, so a rejection ends the request that it answers, and
        # no trust that was settled before.
        call.put("claims", (peer_id, node_id), None)
    call.put("requests", (node_id, peer_id), None)
    reply = RespondHandshakeReply(accept=accept, peer_id=peer_id)
    if (peer_id, node_id) not in call.state.claims:
        # Nobody asked here, so only the consent is kept; a peer that asked on port 444 finds it.
        if accept:
            call.wake(peer_id)
        return reply
    previous = call.state.responses.of(peer_id).get(node_id)
    is_repeated = previous is not None and previous.accept == accept
    if not is_repeated or call.state.deliveries.is_given("responses", peer_id, node_id):
        call.put("responses", (peer_id, node_id), Response(accept, call.at))
    call.wake(peer_id)
    return reply


def waiting_for(state: State, node_id: int) -> bool:
    """Whether a poll of this node would find something that was not given out yet."""
    deliveries = state.deliveries
    return state.removals.waits_for(node_id) or any(
        not deliveries.is_given(table, node_id, sender_id)
        for table, rows in (("requests", state.requests), ("responses", state.responses))
        for sender_id in rows.of(node_id)
    )


HANDLERS: Final[Handlers] = {
    ReportTrust: report_trust,
    RevokeTrust: revoke_trust,
    CheckTrust: check_trust,
    RequestHandshake: request_handshake,
    PollHandshakes: poll_handshakes,
    RespondHandshake: respond_handshake,
}
