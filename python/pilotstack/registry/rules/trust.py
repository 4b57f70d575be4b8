"""Trust pairs and the handshake relay (sheet 3.6, 3.7; whitepaper 4.1).

Trust needs two consents. Reporting it, asking for it and granting it each say "A trusts B"; only
when B has said so of A, too, is there a pair that opens anything. One side alone gains nothing, so
a forged or replayed consent of one side is worth nothing, either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pilotstack.registry.model.auth import Denied
from pilotstack.registry.model.rows import Claim, Request, Response
from pilotstack.registry.model.source import source_of
from pilotstack.registry.rules import gate
from pilotstack.registry.rules.paging import page

if TYPE_CHECKING:
    from pilotstack.registry.model.rows import Node
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.framing import Message
    from pilotstack.registry.rules.call import Call, Handler

#: Requests that wait for one node, and invitations that do. Answers are bounded by what the node
#: asked for.
MAX_INBOX: Final = 100
#: Octets of a justification.
MAX_JUSTIFICATION: Final = 1024
#: Nodes that one node may claim to trust.
MAX_CLAIMS: Final = 10_000
#: Seconds that a consent waits for its counterpart.
CLAIM_TTL: Final = 90 * 86_400.0
#: Seconds that a request, an answer or an invitation waits.
INBOX_TTL: Final = 30 * 86_400.0


def report_trust(call: Call) -> Message:
    """One side's consent."""
    node, peer_id = call.live(), call.number("peer_id")
    node_id = node.node_id
    call.authenticate(node, f"report_trust:{node_id}:{peer_id}")
    call.node(peer_id)
    news = call.state.responses.get((node_id, peer_id))
    if news is not None and news.revoked:
        if not call.state.offers.is_given("responses", node_id, peer_id):
            # It cannot have heard yet; this is about the trust that has ended.
            raise Denied(f"report_trust denied: node {peer_id} has revoked its trust")
        call.put("responses", (node_id, peer_id), None)
    _claim(call, node_id, peer_id)
    # Granting answers the other's question, whatever comes of the relayed answer.
    call.put("requests", (node_id, peer_id), None)
    return {}


def _claim(call: Call, node_id: int, peer_id: int) -> None:
    """Notes that one node trusts another."""
    if node_id == peer_id:
        raise Denied("a node cannot trust itself")
    claims = call.state.claims
    if (node_id, peer_id) in claims:
        return
    if len(claims.of(node_id)) >= MAX_CLAIMS:
        raise Denied(f"too many trust claims of node {node_id} (max {MAX_CLAIMS})")
    counterpart = claims.get((peer_id, node_id))
    if counterpart is not None and call.now - counterpart.created > CLAIM_TTL:
        call.put("claims", (peer_id, node_id), None)
        counterpart = None
    call.put("claims", (node_id, peer_id), Claim(call.at))
    if counterpart is not None:
        call.wake(node_id, peer_id)


def revoke_trust(call: Call) -> Message:
    """Either side ends both consents, and whatever of them is under way."""
    node, peer_id = call.live(), call.number("peer_id")
    node_id = node.node_id
    call.authenticate(node, f"revoke_trust:{node_id}:{peer_id}")
    claims = call.state.claims
    if (node_id, peer_id) not in claims and (peer_id, node_id) not in claims:
        raise Denied(f"no trust pair between {node_id} and {peer_id}")
    is_pair = call.state.is_trusted(node_id, peer_id)
    for a, b in ((node_id, peer_id), (peer_id, node_id)):
        call.put("claims", (a, b), None)
        call.put("requests", (a, b), None)
        call.put("responses", (a, b), None)
    if is_pair:
        # First-generation nodes often fail to tell the other side. To old clients this is the
        # refusal of a request that they did not make.
        call.put("responses", (peer_id, node_id), Response(False, call.at, revoked=True))
        call.wake(peer_id)
    return {}


def check_trust(call: Call) -> Message:
    """Whether a connection between the two is welcome: daemons ask for each stranger's SYN. Nobody
    else is told; an answer that may not be given is "no", as for nodes that do not exist."""
    node_id, peer_id = call.number("node_id"), call.number("peer_id")
    if call.text("signature"):
        requester = call.live("requester_id")
        call.authenticate(requester, f"check_trust:{node_id}:{peer_id}")
        if requester.node_id not in (node_id, peer_id):
            raise Denied("check_trust denied: requester must be one of the two")
    is_welcome = call.state.may_know(node_id, peer_id)
    reply: Message = {"trusted": is_welcome and gate.may_know_pair(call, node_id, peer_id)}
    if node_id in call.source.proven:
        # Its own word: when that is gone though it gave it, the peer has revoked. And the other's,
        # which answers what it may have asked the other itself.
        reply["claimed"] = (node_id, peer_id) in call.state.claims
        reply["granted"] = (peer_id, node_id) in call.state.claims
    return reply


def request_handshake(call: Call) -> Message:
    """Puts a request in the inbox of a node, which is as good as a consent of who asks."""
    sender, to = call.live("from_node_id"), call.number("to_node_id")
    sender_id = sender.node_id
    justification = call.text("justification")
    length = len(justification.encode())
    if length > MAX_JUSTIFICATION:
        raise Denied(f"justification too large: {length} bytes (max {MAX_JUSTIFICATION})")
    _authenticate(call, "request", sender_id, f"handshake:{sender_id}:{to}")
    call.node(to)
    inbox = call.state.requests.of(to)
    waiting = inbox.get(sender_id)
    if waiting is not None and waiting.justification == justification:
        return {"status": "delivered"}
    if waiting is not None and not call.state.offers.is_given("requests", to, sender_id):
        raise Denied(f"handshake request already pending from node {sender_id}")
    if waiting is None and len(inbox) >= MAX_INBOX:
        make_room(call, "requests", to, sender_id, {waiting_id: waiting_id for waiting_id in inbox})
    _claim(call, sender_id, to)
    call.put("requests", (to, sender_id), Request(justification, call.at))
    # An old answer is not the answer to this.
    call.put("responses", (sender_id, to), None)
    call.wake(to)
    return {"status": "delivered"}


def make_room(call: Call, table: str, to: int, sender_id: int, waiting: dict[int, int]) -> None:
    """Gives up an entry of the source whose nodes have most of a full inbox, if the newcomer's has
    less: whoever has many nodes keeps nobody else out.

    Args:
        waiting: who sent each entry, by the second part of its key.

    Raises:
        Denied: no source has more.
    """
    nodes = call.state.nodes
    by_source: dict[str, list[int]] = {}
    for key, other_id in waiting.items():
        by_source.setdefault(_home(nodes.get(other_id)), []).append(key)
    most = max(by_source.values(), key=len)
    if len(most) <= len(by_source.get(_home(nodes.get(sender_id)), ())) + 1:
        what = "handshake inbox full" if table == "requests" else "too many invites"
        raise Denied(f"{what} for node {to}")
    # The one that came last.
    call.put(table, (to, most[-1]), None)


def _home(node: Node | None) -> str:
    """What a node's source is, as limits have it."""
    host = node.endpoint.rpartition(":")[0].strip("[]") if node else ""
    try:
        return source_of(host)[0]
    except ValueError:
        return host


def _authenticate(call: Call, what: str, node_id: int, challenge: str) -> None:
    if not call.text("signature"):
        raise Denied(f"handshake {what} requires signature")
    try:
        call.authenticate(call.node(node_id), challenge)
    except Denied as denied:
        raise Denied(f"handshake {what} {denied}") from denied


def poll_handshakes(call: Call) -> Message:
    """What waits for a node. Requests stay until they are answered, answers until their poll is
    past doubt; each is given once, and again if the reply may have been lost."""
    node = call.live()
    node_id = node.node_id
    call.authenticate(node, f"poll_handshakes:{node_id}")
    state, source, now = call.state, call.source, call.now
    for sender_id in state.responses.of(node_id):
        if state.offers.is_over("responses", node_id, sender_id, now):
            call.put("responses", (node_id, sender_id), None)
    requests = [
        {
            "from_node_id": sender_id,
            "justification": request.justification,
            "timestamp": request.timestamp,
        }
        for sender_id, request in state.requests.of(node_id).items()
        if state.offers.take("requests", node_id, sender_id, source, now)
    ]
    # As many as one reply has room for; the rest waits for the next.
    answers = [
        {"from_node_id": sender_id, "accept": row.accept, "timestamp": row.timestamp}
        | ({"revoked": True} if row.revoked else {})
        for sender_id, row in state.responses.of(node_id).items()
        if state.offers.is_due("responses", node_id, sender_id, source, now)
    ]
    responses, _ = page(answers)
    for row in responses:
        state.offers.take("responses", node_id, int(row["from_node_id"]), source, now)
    reply: Message = {"requests": requests, "responses": responses}
    if "wait" in call.message:
        reply |= {"waited": True, "invites": len(state.invites.of(node_id))}
    return reply


def respond_handshake(call: Call) -> Message:
    """Answers a request. Accepting is one side's consent; whoever never asked is not bound."""
    node, peer = call.live(), call.live("peer_id")
    node_id, peer_id = node.node_id, peer.node_id
    accept = call.flag("accept")
    _authenticate(call, "response", node_id, f"respond:{node_id}:{peer_id}")
    if accept:
        _claim(call, node_id, peer_id)
    elif (node_id, peer_id) in call.state.requests:
        # The signature is the same for both answers, so a rejection ends what it answers and no
        # trust that was settled before.
        call.put("claims", (peer_id, node_id), None)
    call.put("requests", (node_id, peer_id), None)
    outbox = call.state.responses.of(peer_id)
    if (peer_id, node_id) not in call.state.claims:
        # Nobody asked here, so nothing is kept but the consent. Who asked on port 444 looks for it.
        if accept:
            call.wake(peer_id)
        return {"accept": accept, "peer_id": peer_id}
    previous = outbox.get(node_id)
    is_repeated = previous is not None and previous.accept == accept
    if not is_repeated or call.state.offers.is_given("responses", peer_id, node_id):
        call.put("responses", (peer_id, node_id), Response(accept, call.at))
    call.wake(peer_id)
    return {"accept": accept, "peer_id": peer_id}


def waiting_for(state: State, node_id: int) -> bool:
    """Whether a poll of this node would find something that nobody was given yet."""
    offers = state.offers
    return any(
        not offers.is_given(table, node_id, sender_id)
        for table, rows in (("requests", state.requests), ("responses", state.responses))
        for sender_id in rows.of(node_id)
    )


HANDLERS: Final[dict[str, Handler]] = {
    "report_trust": report_trust,
    "revoke_trust": revoke_trust,
    "check_trust": check_trust,
    "request_handshake": request_handshake,
    "poll_handshakes": poll_handshakes,
    "respond_handshake": respond_handshake,
}
