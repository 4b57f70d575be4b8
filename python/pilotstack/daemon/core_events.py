"""Handles events of the core's thread. Each lookup and each request of a driver is a task."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from pilotstack import _events, _serving
from pilotstack.daemon.verbs.control import LOCAL_VERBS
from pilotstack.errors import PilotError
from pilotstack.trust.service import REFUSED_FOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from pilotstack._core import Core, _Event
    from pilotstack.daemon.peers import PeerFinder
    from pilotstack.daemon.registrar import Registrar
    from pilotstack.daemon.strangers import StrangerKeys
    from pilotstack.daemon.verbs.control import Control
    from pilotstack.trust.service import TrustService

log = _events.get_logger(__name__)

#: Concurrent lookups for our own dials, and requests of drivers; and concurrent admissions.
_AT_ONCE: Final = 256
_ADMISSIONS: Final = 16


class CoreEvents:
    """Takes the events of one core.

    Args:
        core: tells events, and takes answers.
        peers: finds whom this node dials.
        strangers: finds the keys of who calls.
        trust: decides who is let in.
        registrar: knows our networks.
        control: answers drivers.
        heard: is told the endpoint that a beacon saw.
    """

    def __init__(
        self,
        core: Core,
        peers: PeerFinder,
        strangers: StrangerKeys,
        trust: TrustService,
        registrar: Registrar,
        control: Control,
        heard: Callable[[str], None],
    ) -> None:
        self._core = core
        self._peers = peers
        self._strangers = strangers
        self._trust = trust
        self._registrar = registrar
        self._control = control
        self._heard = heard
        self._questions = anyio.CapacityLimiter(_AT_ONCE)
        self._admissions = anyio.CapacityLimiter(_ADMISSIONS)
        self._requests = anyio.CapacityLimiter(_AT_ONCE)
        #: Set when the core's thread has ended by itself.
        self.stopped = anyio.Event()
        #: Why it has.
        self.why = ""

    @property
    def waiting(self) -> dict[str, float]:
        """What waits for its turn."""
        limiters = {
            "requests": self._requests,
            "lookups": self._questions,
            "strangers": self._admissions,
        }
        return {name: each.statistics().tasks_waiting for name, each in limiters.items()}

    @_serving.endless
    async def take(self, tasks: anyio.abc.TaskGroup) -> None:
        """Takes events until the thread ends; their answers are tasks of the group."""
        fd = self._core.event_fd()
        while not self.stopped.is_set():
            # Tasks run in between: a flood of requests is taken in portions.
            await anyio.wait_readable(fd)
            for event in self._core.take_events():
                self._take(event, tasks)

    def _take(self, event: _Event, tasks: anyio.abc.TaskGroup) -> None:
        match event:
            case ("record_needed", node):
                tasks.start_soon(self._find_record, node)
            case ("key_needed", node):
                tasks.start_soon(self._strangers.name, node)
            case ("admission_needed", node, network, key):
                tasks.start_soon(self._admit, node, network, key)
            case ("policy_needed", network):
                tasks.start_soon(self._learn_policy, network)
            case ("endpoint", host, port):
                self._heard(_serving.join_address(host, port))
            case ("home", beacon):
                log.info("home_beacon_changed", beacon=beacon)
            case ("path", node, kind, endpoint):
                log.info("path_changed", node=node, path=kind)
                log.debug("path_endpoint", node=node, path=kind, endpoint=endpoint)
            case ("request", client, request_id, command, payload):
                tasks.start_soon(self._answer, client, request_id, command, payload)
            case ("stopped", why):
                self.why = why
                self.stopped.set()

    @_serving.contained
    async def _find_record(self, node: int) -> None:
        async with self._questions:
            try:
                await self._peers.find(node)
            except (PilotError, OSError, ValueError) as error:
                log.debug("no_record", node=node, error=str(error))
                self._core.on_no_record(node, f"resolve node {node}: {error}")
            except Exception:
                # Without an answer, the core would never ask again.
                self._core.on_no_record(node)
                raise

    @_serving.contained
    async def _admit(self, node: int, network: int, key: bytes) -> None:
        async with self._admissions:
            if network and not await self._registrar.may_call(network):
                self._core.on_admission(node, False, REFUSED_FOR, network=network)
            else:
                await self._trust.admit(node, network, key)

    @_serving.contained
    async def _learn_policy(self, network: int) -> None:
        async with self._questions:
            await self._registrar.policies.refresh(network)

    @_serving.contained
    async def _answer(
        self, client: int, request_id: int | None, command: int, payload: bytes
    ) -> None:
        # Local verbs do not wait for those that ask the registry.
        limiter = nullcontext() if command in LOCAL_VERBS else self._requests
        async with limiter:
            try:
                has_id = request_id is not None
                body = await self._control.answer(command, payload, has_id=has_id)
            except PilotError as error:
                self._core.fail(client, request_id, error.code, error.message, error.hint or "")
            except Exception as error:
                log.exception("control_failed", command=command)
                self._core.fail(client, request_id, "internal", str(error), "")
            else:
                self._core.reply(client, request_id, body)
