"""What a driver asks of the daemon, as values: a frame out, a decoder in. Nothing here waits.

A :class:`Call` is one request with the decoder of its answer. A flow is a generator that yields
control requests and is sent their answers. Both drivers have a method for each flow of this module,
so names, parameters and documentation are stated once.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from pilotstack.errors import InternalError, InvalidArgument, NotFound
from pilotstack.ipc import codes, frames
from pilotstack.ipc import network_requests as n
from pilotstack.ipc import requests as r
from pilotstack.ipc.layout import U8, U16, Request
from pilotstack.types import Address, SocketAddress, parse_host

if TYPE_CHECKING:
    from pilotstack.ipc.answers import (
        ConnectionInfo,
        Info,
        PeerInfo,
        PendingHandshake,
        Resolved,
        TrustedPeer,
    )
    from pilotstack.ipc.network_answers import Invite, Member, NetworkInfo
    from pilotstack.types import JoinRule

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A", bound=msgspec.Struct)

#: Yields control requests, is sent their answers, returns what the caller wants.
Flow = Generator[Request[Any], Any, T]
#: Members are what the daemon says.
JsonObject = dict[str, Any]
#: A node id, an address or a hostname.
Peer = int | Address | str
#: Port of broadcasts unless another is named, as existing commands have it.
BROADCAST_PORT = 1000


class Opened(msgspec.Struct, frozen=True):
    """A stream that we dialled."""

    fd: int
    connection_id: int
    local: SocketAddress


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One request.

    Args:
        command: of its frame.
        body: what follows the request's id.
        read: makes the result of the answer's value.
        port: what it binds, if known: it is freed when nobody waits for the answer.
    """

    command: int
    body: bytes
    read: Callable[[Any], T_co]
    port: int = 0


def _as_is(value: T) -> T:
    return value


def open_stream(address: Address, port: int, options: int, seconds: float) -> Call[Opened]:
    """Dials.

    Args:
        options: see :func:`frames.dial_flags`.
        seconds: time that the daemon has.
    """
    milliseconds = max(1, int(seconds * 1000))
    body = frames.endpoint(address, port) + bytes((options,)) + milliseconds.to_bytes(4)
    return Call(codes.OPEN_STREAM, body, _as_is)


def listen_streams(port: int, backlog: int = 0, path: bytes = b"") -> Call[int]:
    """Binds a port; the answer is the port. With ``path``, streams are connected to it."""
    head = U16.pack(frames.port(port)) + U16.pack(frames.port(backlog))
    return Call(codes.LISTEN_STREAMS, head + path, _as_is, port)


def bind_datagrams(port: int) -> Call[int]:
    """Binds a port for datagrams; the answer is the port."""
    return Call(codes.BIND_DATAGRAMS, U16.pack(frames.port(port)), _as_is, port)


def unbind(port: int) -> Call[None]:
    """Frees a port of streams."""
    return Call(codes.REQUEST, bytes((codes.UNBIND,)) + port.to_bytes(2), _ignore)


def forward_path(endpoint: bytes, path: bytes) -> Call[None]:
    """Has the daemon dial for every connection to a Unix socket."""
    return Call(codes.FORWARD_PATH, endpoint + path, _ignore)


def sign_of_life() -> Call[None]:
    """Anything that is answered after everything sent before it."""
    return Call(codes.REQUEST, bytes((codes.CLOSE,)) + bytes(4), _ignore)


def _ignore(_: object) -> None:
    return None


def control(request: Request[A]) -> Call[A]:
    """A control verb."""
    return Call(codes.REQUEST, bytes((request.command,)) + request.pack(), request.decode)


def raw(command: int, payload: bytes) -> Call[JsonObject]:
    """A control verb by number; the answer is a JSON object."""
    return Call(codes.REQUEST, U8.pack(command, "command") + payload, json_object)


def json_object(reply: bytes) -> JsonObject:
    """The JSON object of a reply.

    Raises:
        InternalError: there is none.
    """
    try:
        return msgspec.json.decode(reply, type=JsonObject)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InternalError("the daemon sent a malformed answer") from error


def ask(request: Request[A]) -> Flow[A]:
    """Asks the control plane something: one of :mod:`pilotstack.ipc.requests` or
    :mod:`pilotstack.ipc.network_requests`.

    Raises:
        PilotError: the daemon's refusal.
        NotRunning: the daemon ended; whether it acted on the request is not known.
        TimedOut: it did not answer in time.
    """
    return cast("A", (yield request))


# This node, and names


def info() -> Flow[Info]:
    """The daemon's state."""
    return (yield from ask(r.GetInfo()))


def peers() -> Flow[tuple[PeerInfo, ...]]:
    """Nodes that the daemon has tunnels to."""
    return (yield from info()).peer_list


def connections() -> Flow[tuple[ConnectionInfo, ...]]:
    """The daemon's connections."""
    return (yield from info()).conn_list


def resolve(name: str) -> Flow[Resolved]:
    """What a hostname stands for.

    Raises:
        InvalidArgument: it is empty or too long.
        NotFound: nobody has it.
        ConnectionFailed: the registry cannot be asked.
    """
    return (yield from ask(r.ResolveHostname(name)))


def address_of(host: Address | str) -> Flow[Address]:
    """The address of a host."""
    return host if isinstance(host, Address) else (yield from resolve(host)).address


def set_hostname(name: str) -> Flow[None]:
    """Takes a name; an empty one gives it up.

    Raises:
        AlreadyExists: another node has it.
    """
    yield from ask(r.SetHostname(name))


def set_visibility(*, public: bool) -> Flow[None]:
    """Lets everybody reach this node, or only those it trusts."""
    yield from ask(r.SetVisibility(public))


def set_tags(tags: Sequence[str]) -> Flow[None]:
    """Says what this node can be found by: at most 3 tags."""
    yield from ask(r.SetTags(cast("tuple[str, ...]", tags)))


def deregister() -> Flow[None]:
    """Takes this node off the network until it is registered again: see :meth:`register`."""
    yield from ask(r.Deregister())


def register() -> Flow[Address]:
    """Puts this node on the network again after :meth:`deregister`."""
    return (yield from ask(r.Register())).address


def rotate_key() -> Flow[str]:
    """Replaces this node's key, and returns the new public one in base64. Peers check the new key
    as soon as they hear of it, and streams under the old one end.

    Raises:
        ConnectionFailed: whether it was replaced is not known; both keys are kept.
    """
    return (yield from ask(r.RotateKey())).public_key


def enroll_recovery(secret: str) -> Flow[None]:
    """Lets whoever knows ``secret`` replace this node's key one day; an empty one takes that back.
    The registry gets only a hash of it."""
    yield from ask(r.EnrollRecovery(commitment_to(secret)))


def commitment_to(secret: str) -> str:
    """What the registry is given of a recovery secret.

    Raises:
        InvalidArgument: it is not text.
    """
    try:
        return hashlib.sha256(secret.encode()).hexdigest() if secret else ""
    except (UnicodeEncodeError, AttributeError) as error:
        raise InvalidArgument("the secret is not text") from error


# Trust


def node_of(peer: Peer) -> Flow[int]:
    """The node id of a peer.

    Raises:
        NotFound: nobody has the hostname.
    """
    if isinstance(peer, bool) or not isinstance(peer, int | Address | str):
        raise InvalidArgument(f"not a peer: {peer!r}", hint="a node id, an address or a hostname")
    host = parse_host(peer) if isinstance(peer, str) else peer
    return host if isinstance(host, int) else (yield from address_of(host)).node


def handshake(peer: Peer, justification: str = "") -> Flow[None]:
    """Asks a peer for trust, directly or through the registry; returns when the request is there.
    Asking a peer whose own request waits here approves that.

    Args:
        justification: up to 1,024 bytes that the peer's operator sees.

    Raises:
        NotFound: there is no such node.
        ConnectionFailed: neither the peer nor the registry takes the request.
        InvalidArgument: the justification is too long, or the peer is this node.
    """
    yield from ask(r.RequestTrust((yield from node_of(peer)), justification))


def pending() -> Flow[tuple[PendingHandshake, ...]]:
    """Requests that wait for an answer. Their texts come from strangers."""
    return (yield from ask(r.ListPending())).pending or ()


def approve(peer: Peer) -> Flow[None]:
    """Grants a peer's request.

    Raises:
        NotFound: none waits, and there is no trust.
    """
    node = yield from node_of(peer)
    check_found((yield from ask(r.ApproveTrust(node))).found, node)


def reject(peer: Peer, reason: str = "") -> Flow[None]:
    """Refuses a peer's request, and tells it the reason.

    Raises:
        NotFound: none waits.
    """
    node = yield from node_of(peer)
    check_found((yield from ask(r.RejectTrust(node, reason))).found, node)


def check_found(found: bool | msgspec.UnsetType, node: int) -> None:
    """Raises :exc:`NotFound` if the daemon had no such request. Older daemons do not tell."""
    if found is False:
        raise NotFound(f"no request of node {node} waits", hint="list them with: pilotctl pending")


def trusted() -> Flow[tuple[TrustedPeer, ...]]:
    """Whom this node trusts, and who trusts it; the newest first."""
    return (yield from ask(r.ListTrusted())).trusted or ()


def untrust(peer: Peer) -> Flow[None]:
    """Ends the trust of both sides. The peer's streams are reset when this returns.

    Raises:
        NotFound: it was not trusted.
    """
    yield from ask(r.RevokeTrust((yield from node_of(peer))))


def wait_for_trust(peer: Peer, timeout: float = r.MAX_WAIT) -> Flow[bool]:
    """Whether there is trust within ``timeout`` seconds, at most 30."""
    if timeout not in (0, math.inf):
        frames.seconds(timeout)
    milliseconds = int(min(timeout, r.MAX_WAIT) * 1000)
    return (yield from ask(r.AwaitTrust((yield from node_of(peer)), milliseconds))).trusted


# Networks


def networks() -> Flow[tuple[NetworkInfo, ...]]:
    """All networks of the registry that this node may see."""
    return (yield from ask(n.ListNetworks())).networks or ()


def create_network(
    name: str,
    *,
    join_rule: JoinRule = "open",
    token: str = "",
    admin_token: str = "",
    network_admin_token: str = "",
) -> Flow[int]:
    """Makes a network that this node owns, and returns its id.

    Args:
        name: 1 to 63 of a-z, 0-9 and inner hyphens.
        join_rule: who may join: everybody, whoever knows ``token``, whoever is invited.
        token: for ``join_rule="token"``.
        admin_token: the registry's, if it has one and the daemon was not told.
        network_admin_token: will stand in for the owner.

    Raises:
        InvalidArgument: the name or rule cannot be used.
        AlreadyExists: another network has the name.
        PermissionDenied: the registry wants its admin token.
    """
    request = n.CreateNetwork(name, join_rule, token, admin_token, network_admin_token)
    return (yield from ask(request)).network_id


def join_network(network: int, *, token: str = "") -> Flow[Address]:
    """Becomes a member, and returns this node's address there.

    Raises:
        NotFound: there is no such network.
        AlreadyExists: this node is a member.
        PermissionDenied: the token is wrong, or an invitation is needed.
    """
    return (yield from ask(n.JoinNetwork(network, token))).address


def leave_network(network: int) -> Flow[None]:
    """Ends this node's membership.

    Raises:
        PermissionDenied: it is not a member.
    """
    yield from ask(n.LeaveNetwork(network))


def members(network: int) -> Flow[tuple[Member, ...]]:
    """Who is in a network; for its members, or for everybody if it is open."""
    return (yield from ask(n.ListMembers(network))).nodes or ()


def invite(network: int, node: int) -> Flow[None]:
    """Lets a node accept to become a member."""
    yield from ask(n.InviteNode(network, node))


def invites() -> Flow[tuple[Invite, ...]]:
    """What this node is invited to."""
    return (yield from ask(n.ListInvites())).invites or ()


def accept_invite(network: int) -> Flow[None]:
    """Becomes a member of a network that this node was invited to.

    Raises:
        NotFound: there is no invitation.
    """
    yield from ask(n.AnswerInvite(network, True))


def reject_invite(network: int) -> Flow[None]:
    """Turns an invitation down.

    Raises:
        NotFound: there is none.
    """
    yield from ask(n.AnswerInvite(network, False))


def delete_network(network: int, *, admin_token: str = "") -> Flow[None]:
    """Ends a network that this node owns."""
    yield from ask(n.DeleteNetwork(network, admin_token))


def rename_network(network: int, name: str, *, admin_token: str = "") -> Flow[None]:
    """Gives a network of this node another name."""
    yield from ask(n.RenameNetwork(network, name, admin_token))


def kick(network: int, node: int, *, admin_token: str = "") -> Flow[None]:
    """Ends somebody else's membership."""
    yield from ask(n.KickMember(network, node, admin_token))


def broadcast(
    network: int, data: bytes, *, port: int = BROADCAST_PORT, admin_token: str = ""
) -> Flow[int]:
    """Sends one datagram to every other member that is online, each of which may be lost.

    Args:
        admin_token: needed if the daemon has one.

    Returns:
        To how many it was sent.

    Raises:
        PermissionDenied: this node is not a member.
        InvalidArgument: the datagram is empty or too large.
    """
    if frames.port(port) == 0:
        raise InvalidArgument("no such port: 0")
    return (yield from ask(n.Broadcast(network, port, admin_token, data))).members


def shape(method: Callable[..., object], flow: Callable[..., Flow[Any]]) -> None:
    """Gives a driver's method the signature of its flow, and the flow's result as its own."""
    signature = inspect.signature(flow)
    returns = str(signature.return_annotation).removeprefix("Flow[").removesuffix("]")
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(method).pop("__wrapped__", None)
    vars(method)["__signature__"] = signature.replace(
        parameters=[own, *signature.parameters.values()], return_annotation=returns
    )
    method.__annotations__ = {**flow.__annotations__, "return": returns}
