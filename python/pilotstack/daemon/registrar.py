"""Registers a node, and carries out what a change of its registration means for the daemon."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from pilotstack import _events, wellknown
from pilotstack.daemon.policies import Policies
from pilotstack.daemon.replies import answer_of
from pilotstack.errors import PilotError
from pilotstack.ipc import answers as a

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack.daemon.identity import Identity
    from pilotstack.daemon.public_endpoint import Announced
    from pilotstack.daemon.records import Records
    from pilotstack.daemon.rotation import Rotation
    from pilotstack.daemon.state import NodeState
    from pilotstack.registry.client import RegistryClient

log = _events.get_logger(__name__)

#: Seconds to deregister when the daemon stops.
FAREWELL: Final = 2.0
#: Seconds within which our networks are not asked for again because of what peers send.
_NETWORKS_FLOOR: Final = 1.0


class Node(Protocol):
    """The part of the core that knows who we are."""

    def set_address(self, network: int, node: int) -> None:
        """Our address."""

    def set_identity(self, seed: bytes) -> None:
        """Our key."""

    def set_private(self, is_private: bool) -> None:
        """Whether strangers may reach us."""

    def set_networks(self, networks: list[int]) -> None:
        """Networks that we are in, without the backbone."""

    def set_network_policy(self, network: int, ports: list[int]) -> None:
        """Ports that a network allows, or every port if there are none."""


class Followers(Protocol):
    """What else depends on who this node is."""

    def identity_changed(self, identity: Identity) -> None:
        """This node has another key."""

    def id_known(self, node_id: int, *, is_new: bool) -> None:
        """The registry gave this node an id, ``is_new`` if it is another one than before."""

    def networks_changed(self, networks: frozenset[int]) -> None:
        """This node is in these networks."""

    def registered(self) -> None:
        """The registration is complete."""


class Registrar:
    """Registers one node, and changes what the registry knows of it.

    Args:
        state: what to register; changed by what the registry answers.
        registry: signs with the node's key.
        core: is told who the node is.
        records: what the registry says about nodes.
        rotation: replaces the key.
        where: where the node is, when it is asked.
        followers: are told of every change.
    """

    def __init__(
        self,
        state: NodeState,
        registry: RegistryClient,
        core: Node,
        records: Records,
        rotation: Rotation,
        where: Callable[[], Announced],
        followers: Followers,
    ) -> None:
        self.state = state
        self.where = where
        self._registry = registry
        self._core = core
        self._records = records
        self._rotation = rotation
        self._followers = followers
        #: What our networks allow.
        self.policies = Policies(registry, core)
        self._changing_key = anyio.Lock()
        self._registering = anyio.Lock()
        self._has_asked = False
        #: When the registry took our registration; 0 if it does not tell.
        self._announced_at = 0
        #: Our key has registered elsewhere since.
        self._has_rival = False
        #: When we last learned which networks we are in.
        self._learned_at = -_NETWORKS_FLOOR

    def endpoint(self) -> str:
        """Where the registry sends peers."""
        return self.where().endpoint

    async def enter(self) -> None:
        """Registers for the first time.

        Raises:
            PilotError: the registry refuses, or does not answer.
        """
        self._use(await self._rotation.settle(self.state.identity, self.endpoint()))
        await self.register()

    async def register(self) -> str:
        """Registers this node; harmless when it is registered.

        Returns:
            Why the hostname was refused, or an empty text.
        """
        async with self._registering:
            return await self._register()

    async def _register(self) -> str:
        state = self.state
        self._has_asked = True
        where = self.where()
        registration = await self._registry.register(
            where.endpoint,
            hostname=state.hostname,
            owner=state.owner,
            version=wellknown.VERSION,
            lan_addrs=where.lan_addrs,
            relay_only=where.relay_only,
            ephemeral=state.is_ephemeral,
        )
        self._announced_at = registration.announced_at
        self._has_rival = False
        is_new = registration.node_id != state.node_id
        state.node_id, state.address = registration.node_id, registration.address
        self._core.set_address(state.address.network, state.address.node)
        state.hostname_error = registration.hostname_error
        if registration.hostname_error:
            log.warning("hostname_refused", error=registration.hostname_error)
            state.hostname = ""
        await self.set_visibility(public=state.public)
        self._followers.id_known(state.node_id, is_new=is_new)
        if is_new and state.tags:
            await self._registry.set_tags(list(state.tags))
        await self.refresh_networks()
        state.is_registered = True
        self._followers.registered()
        return registration.hostname_error

    async def heartbeat(self) -> None:
        """Says that this node is alive. If its key has registered elsewhere since, as when the
        same identity was started on another machine, that one has taken over.

        Raises:
            NotFound: the registry does not know it, or another by its id.
            ConnectionFailed: no registry answers.
        """
        # Both as of the same registration, which an answer on the way may outrun.
        async with self._registering:
            latest = await self._registry.heartbeat()
        if 0 < self._announced_at < latest and not self._has_rival:
            self._has_rival = True
            log.security(
                "identity_used_elsewhere",
                level=logging.WARNING,
                hint="stop one of the daemons that have it",
            )

    async def deregister(self) -> a.Deregistered:
        """Takes this node off the network until it is registered again."""
        # Before the request, so that no heartbeat in between takes it for a loss.
        self.state.is_registered = False
        reply = answer_of(a.Deregistered, await self._registry.deregister())
        self._set_networks(frozenset())
        return reply

    async def rotate_key(self) -> a.KeyRotated:
        """Replaces this node's key.

        Raises:
            PilotError: see :meth:`Rotation.rotate`.
        """
        async with self._changing_key:
            identity, reply = await self._rotation.rotate()
            self._use(identity)
        log.security("key_rotated", public_key=reply.get("public_key"))
        return answer_of(a.KeyRotated, reply)

    async def set_hostname(self, name: str) -> a.HostnameSet:
        """Takes a name, or gives it up if it is empty."""
        reply = answer_of(a.HostnameSet, await self._registry.set_hostname(name))
        self.state.hostname = name
        return reply

    async def set_visibility(self, *, public: bool) -> a.VisibilitySet:
        """Lets everybody reach this node, or only those whom it trusts and its networks."""
        # Before the registry knows when it closes, after it knows when it opens.
        if not public:
            self._core.set_private(True)
        reply = await self._registry.set_visibility(public=public)
        self._core.set_private(not public)
        if public != self.state.public:
            log.security("visibility_changed", public=public)
        self.state.public = public
        return answer_of(a.VisibilitySet, reply)

    async def set_tags(self, tags: tuple[str, ...]) -> a.TagsSet:
        """Says what this node can be found by."""
        reply = answer_of(a.TagsSet, await self._registry.set_tags(list(tags)))
        self.state.tags = tags
        return reply

    async def enroll_recovery(self, commitment: str) -> a.RecoveryEnrolled:
        """Leaves a commitment to a secret with the registry, or takes it back if it is empty."""
        return answer_of(a.RecoveryEnrolled, await self._registry.enroll_recovery(commitment))

    async def refresh_networks(self) -> None:
        """Learns from the registry which networks we are in; whoever changes that calls this."""
        self._learned_at = time.monotonic()
        self._records.forget(self.state.node_id)
        with suppress(PilotError):
            record = await self._records.profile(self.state.node_id)
            # Before the core lets anybody in there.
            await self.policies.learn(record.networks)
            self._set_networks(record.networks)

    async def is_member(self, network: int) -> bool:
        """Whether we are in a network. A membership made without us, at the registry, counts at
        once."""
        if network not in self.state.networks and self._is_stale():
            await self.refresh_networks()
        return network in self.state.networks

    def _is_stale(self) -> bool:
        return time.monotonic() - self._learned_at >= _NETWORKS_FLOOR

    async def may_call(self, network: int) -> bool:
        """Whether a peer may call our address on a network; its policy is learned anew."""
        if not await self.is_member(network):
            return False
        await self.policies.refresh(network)
        return True

    def _set_networks(self, networks: frozenset[int]) -> None:
        self.state.networks = networks
        self._followers.networks_changed(networks)
        self._core.set_networks(self.state.memberships)

    def _use(self, identity: Identity) -> None:
        if identity is not self.state.identity:
            self.state.identity = identity
            self._followers.identity_changed(identity)
            self._core.set_identity(identity.seed)

    async def leave(self) -> None:
        """Deregisters when the daemon stops. If the registry does not answer in time, it notices
        the missing heartbeats."""
        with anyio.move_on_after(FAREWELL, shield=True), suppress(PilotError):
            if self._has_asked and not self.state.node_id:
                # No answer arrived, so the registration may have been made.
                await self._registry.register(self.endpoint(), ephemeral=self.state.is_ephemeral)
            # A successor with the same identity stays registered.
            if self._announced_at:
                await self.heartbeat()
            if self._has_asked and not self._has_rival:
                await self._registry.deregister(keep_memberships=not self.state.is_ephemeral)
