"""Control verbs of the daemon's socket: numbers, arguments and answers.

A request is a value: ``pack`` makes the payload of its frame, ``decode`` reads its answer. The
daemon gets the same value back from :func:`pilotstack.ipc.verbs.parse`.
"""

from __future__ import annotations

from pilotstack.ipc import answers as a
from pilotstack.ipc import codes
from pilotstack.ipc.layout import (
    U32,
    Flag,
    JsonRequest,
    Request,
    Strings,
    Text,
    Unsigned,
)

#: Bytes of the longest hostname (RFC 1035 section 2.3.4); the registry takes fewer.
MAX_NAME = 253
#: Bytes of the longest justification or reason.
MAX_TEXT = 1024
#: Seconds of the longest wait for trust.
MAX_WAIT = 30.0
#: Seconds that the answer to a request or wait for trust may take.
TRUST_PATIENCE = 60.0
#: Seconds that an envelope's time may be off unless the caller says otherwise.
MAX_SKEW = 300

_NODE = Unsigned(4, least=1)
#: 0 stands for all.
_ANY_NODE = Unsigned(4)
_NOTE = Text(MAX_TEXT, may_be_empty=True, lenient=True)


class GetInfo(Request[a.Info], frozen=True):
    """The daemon's state."""

    command = codes.INFO


class GetHealth(Request[a.Health], frozen=True):
    """Whether the daemon works."""

    command = codes.HEALTH


class ResolveHostname(Request[a.Resolved], frozen=True):
    """What a hostname stands for."""

    command = codes.RESOLVE_HOSTNAME
    verb = "resolve_hostname"
    layout = (Text(MAX_NAME),)

    hostname: str


class SetHostname(Request[a.HostnameSet], frozen=True):
    """Takes a hostname; an empty one gives it up."""

    command = codes.SET_HOSTNAME
    verb = "set_hostname"
    layout = (Text(MAX_NAME, may_be_empty=True, lenient=True),)

    hostname: str


class SetVisibility(Request[a.VisibilitySet], frozen=True):
    """Lets everybody reach this node, or only those it trusts."""

    command = codes.SET_VISIBILITY
    verb = "set_visibility"
    layout = (Flag("value"),)

    public: bool


class Deregister(Request[a.Deregistered], frozen=True):
    """Takes this node off the network until :class:`Register`."""

    command = codes.DEREGISTER


class Register(Request[a.Registered], frozen=True):
    """Puts this node on the network again."""

    command = codes.REGISTER


class SetTags(Request[a.TagsSet], frozen=True):
    """Says what this node can be found by."""

    command = codes.SET_TAGS
    verb = "set_tags"
    layout = (Strings(),)

    tags: tuple[str, ...]


class RotateKey(Request[a.KeyRotated], frozen=True):
    """Replaces this node's key."""

    command = codes.ROTATE_KEY


class EnrollRecovery(JsonRequest[a.RecoveryEnrolled], frozen=True):
    """Leaves a commitment to a secret with the registry: the SHA-256 of it in hexadecimal digits;
    an empty one takes it back."""

    command = codes.ENROLL_RECOVERY
    verb = "enroll_recovery"

    #: ``None`` from drivers that enroll in another way.
    commitment: str | None = None


class Disconnect(Request[a.Disconnected], frozen=True):
    """Ends any connection of the daemon."""

    command = codes.DISCONNECT
    verb = "disconnect"
    layout = (U32,)

    connection: int


class PreferDirect(Request[a.DirectPreferred], frozen=True):
    """Asks the registry anew where a node is."""

    command = codes.PREFER_DIRECT
    verb = "prefer_direct"
    layout = (U32,)

    node_id: int


class ListPeers(Request[a.Peers], frozen=True):
    """Peers, with the ways to them that were considered."""

    command = codes.PEERS
    verb = "peers"
    layout = (_ANY_NODE,)

    #: One, or 0 for all.
    node_id: int = 0


class Trace(Request[a.Traced], frozen=True):
    """Sets up a tunnel to a node, and tells how long each step took."""

    command = codes.TRACE
    verb = "trace"
    layout = (_NODE,)

    node_id: int


class SignEnvelope(JsonRequest[a.EnvelopeSigned], frozen=True):
    """Signs a request envelope of this node. The body is given by its hash, or in base64."""

    command = codes.SIGN_ENVELOPE
    verb = "sign_envelope"

    audience: str
    body_hash: str = ""
    body_b64: str = ""
    nonce: str = ""


class VerifyEnvelope(JsonRequest[a.EnvelopeVerified], frozen=True):
    """Checks an envelope of any node."""

    command = codes.VERIFY_ENVELOPE
    verb = "verify_envelope"

    envelope: str
    signature: str
    #: Ask the registry about the node's membership and last sign of life, too.
    check_standing: bool = False
    max_skew_secs: int = MAX_SKEW


# Trust: forms of one verb


class RequestTrust(Request[a.HandshakeStatus], frozen=True):
    """Asks a node for trust."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_REQUEST
    verb = "handshake request"
    layout = (_NODE, _NOTE)
    patience = TRUST_PATIENCE

    node_id: int
    text: str = ""


class ApproveTrust(Request[a.HandshakeStatus], frozen=True):
    """Grants a node's request."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_APPROVE
    verb = "handshake approve"
    layout = (_NODE,)

    node_id: int


class RejectTrust(Request[a.HandshakeStatus], frozen=True):
    """Refuses a node's request."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_REJECT
    verb = "handshake reject"
    layout = (_NODE, _NOTE)

    node_id: int
    text: str = ""


class ListPending(Request[a.PendingHandshakes], frozen=True):
    """Requests that wait for an answer."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_PENDING


class ListTrusted(Request[a.TrustedPeers], frozen=True):
    """Whom this node trusts."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_TRUSTED


class RevokeTrust(Request[a.HandshakeStatus], frozen=True):
    """Ends the trust of both sides."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_REVOKE
    verb = "handshake revoke"
    layout = (_NODE,)

    node_id: int


class AwaitTrust(Request[a.TrustAwaited], frozen=True):
    """Waits until there is trust."""

    command = codes.HANDSHAKE
    sub = codes.HANDSHAKE_WAIT
    verb = "handshake wait"
    layout = (_NODE, U32)
    patience = TRUST_PATIENCE

    node_id: int
    #: Milliseconds.
    timeout: int
