"""Requests by which a node registers, stays alive and says what it is."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from msgspec import UNSET, Meta, UnsetType

from pilotstack.registry.protocol.errors import Code
from pilotstack.registry.protocol.requests.base import (
    NodeId,
    OptionalFlag,
    OptionalText,
    R,
    Reply,
    Request,
)

#: Addresses of a node in its own network, and characters of each.
MAX_LAN_ADDRESSES: Final = 16
MAX_LAN_ADDRESS: Final = 64
#: Characters of an owner's name, and of a version.
MAX_OWNER: Final = 256
MAX_VERSION: Final = 64
#: Tags of a node or of a member, and bytes of each.
MAX_TAGS: Final = 10
MAX_TAG: Final = 32
#: Bounds of a score, wide enough for every one that old registries keep.
MAX_SCORE: Final = (1 << 53) - 1

SIGNED: Final = frozenset({Code.NODE_NOT_FOUND, Code.SIGNATURE})


class RegisterReply(Reply, frozen=True, tag="register_ok"):
    """Who and where the node is now."""

    node_id: NodeId
    network_id: int
    address: str
    public_key: str
    #: ``host:port`` that the request came from.
    observed_addr: str
    protocol_version: int
    hostname: str = ""
    #: Why the node does not have the hostname that it asked for.
    hostname_error: str = ""
    #: Unix seconds of this registration, for one that is signed; see :class:`HeartbeatReply`.
    announced_at: int | UnsetType = UNSET


class Register(Request[RegisterReply], frozen=True, kw_only=True, tag="register"):
    """Registers a key; a known one keeps its id."""

    errors: ClassVar[frozenset[Code]] = frozenset(
        {Code.DENIED, Code.INVALID, Code.SIGNATURE, Code.FULL}
    )

    #: 32 bytes in base64.
    public_key: str = ""
    #: ``host:port`` where tunnels are taken.
    listen_addr: str = ""
    hostname: str = ""
    owner: Annotated[str, Meta(max_length=MAX_OWNER)] = ""
    version: Annotated[str, Meta(max_length=MAX_VERSION)] = ""
    lan_addrs: Annotated[
        tuple[str, ...], Meta(max_length=MAX_LAN_ADDRESSES, extra={"optional": True})
    ] = ()
    #: Tunnels go through a beacon only.
    relay_only: OptionalFlag = False
    #: The node is to be gone when it stops. Only a new key can ask for that.
    ephemeral: OptionalFlag = False

    def challenge(self) -> str:
        """``register:LISTEN_ADDR:PUBLIC_KEY``."""
        return f"register:{self.listen_addr}:{self.public_key}"


class AboutNode(Request[R], frozen=True, kw_only=True):
    """A request of a node about itself."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {Code.ADMIN_TOKEN, Code.RATE_LIMITED}

    node_id: NodeId = 0

    def challenge(self) -> str:
        """``TYPE:NODE``."""
        return f"{self.__struct_config__.tag}:{self.node_id}"


class HeartbeatReply(Reply, frozen=True, tag="heartbeat_ok"):
    """The registry's wall clock, in Unix seconds."""

    time: int
    #: The node's key expires within a week.
    key_expiry_warning: bool = False
    #: Unix seconds of the last signed registration that this process answered. If it is a later one
    #: than the node's own, its key has registered elsewhere since.
    announced_at: int | UnsetType = UNSET


class Heartbeat(AboutNode[HeartbeatReply], frozen=True, kw_only=True, tag="heartbeat"):
    """The node is alive."""

    errors: ClassVar[frozenset[Code]] = SIGNED | {Code.EXPIRED}

    #: The node's key; a registry that was emptied may have given the id to another.
    public_key: OptionalText = ""


class DeregisterReply(Reply, frozen=True, tag="deregister_ok"):
    """Done."""


class Deregister(AboutNode[DeregisterReply], frozen=True, kw_only=True, tag="deregister"):
    """Ends a registration; the id stays bound to the key."""

    #: The node only stops for a while, and stays in its networks.
    keep_memberships: OptionalFlag = False


class SetHostnameReply(Reply, frozen=True, tag="set_hostname_ok"):
    """The name, which may be empty."""

    node_id: NodeId
    hostname: str


class SetHostname(AboutNode[SetHostnameReply], frozen=True, kw_only=True, tag="set_hostname"):
    """Takes a hostname; an empty one gives it up."""

    errors: ClassVar[frozenset[Code]] = AboutNode.errors | {
        *(Code.INVALID, Code.INVALID_NAME, Code.NAME_TAKEN),
    }

    hostname: str = ""


class SetVisibilityReply(Reply, frozen=True, tag="set_visibility_ok"):
    """``public`` or ``private``."""

    node_id: NodeId
    visibility: str


class SetVisibility(AboutNode[SetVisibilityReply], frozen=True, kw_only=True, tag="set_visibility"):
    """Whether everybody may know the node's endpoint."""

    public: bool = False


class SetTagsReply(Reply, frozen=True, tag="set_tags_ok"):
    """The tags; ``null`` if there are none."""

    node_id: NodeId
    tags: tuple[str, ...] | None


class SetTags(AboutNode[SetTagsReply], frozen=True, kw_only=True, tag="set_tags"):
    """What the node can be found by."""

    errors: ClassVar[frozenset[Code]] = AboutNode.errors | {Code.INVALID, Code.INVALID_NAME}

    tags: tuple[str, ...] = ()


class SetTaskExecReply(Reply, frozen=True, tag="set_task_exec_ok"):
    """As it is now."""

    node_id: NodeId
    task_exec: bool


class SetTaskExec(AboutNode[SetTaskExecReply], frozen=True, kw_only=True, tag="set_task_exec"):
    """Whether the node takes tasks; asked by the first generation of clients only."""

    errors: ClassVar[frozenset[Code]] = SIGNED

    enabled: bool = False


class ScoreReply(Reply, frozen=True):
    """A score that clients of the first generation show."""

    node_id: NodeId
    address: str
    polo_score: int


class GetPoloScoreReply(ScoreReply, frozen=True, tag="get_polo_score_ok"):
    """The score."""


class SetPoloScoreReply(ScoreReply, frozen=True, tag="set_polo_score_ok"):
    """The new score."""


class UpdatePoloScoreReply(ScoreReply, frozen=True, tag="update_polo_score_ok"):
    """The new score."""


class GetPoloScore(AboutNode[GetPoloScoreReply], frozen=True, kw_only=True, tag="get_polo_score"):
    """Asks for a score."""

    is_read: ClassVar[bool] = True
    is_lookup: ClassVar[bool] = True
    errors: ClassVar[frozenset[Code]] = frozenset({Code.NODE_NOT_FOUND})


class SetPoloScore(AboutNode[SetPoloScoreReply], frozen=True, kw_only=True, tag="set_polo_score"):
    """Sets a score; for the operator."""

    errors: ClassVar[frozenset[Code]] = AboutNode.errors | {Code.INVALID}

    #: A number; anything else is refused.
    polo_score: object = UNSET


class UpdatePoloScore(
    AboutNode[UpdatePoloScoreReply], frozen=True, kw_only=True, tag="update_polo_score"
):
    """Adds to a score; for the operator."""

    errors: ClassVar[frozenset[Code]] = AboutNode.errors | {Code.INVALID}

    #: A number; anything else is refused.
    delta: object = UNSET


REQUESTS: Final = (
    Register,
    Heartbeat,
    Deregister,
    SetHostname,
    SetVisibility,
    SetTags,
    SetTaskExec,
    GetPoloScore,
    SetPoloScore,
    UpdatePoloScore,
)
