"""A registry's state machine behind a client, without sockets, and with the faults of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilotstack.errors import ConnectionFailed
from pilotstack.registry.client import RegistryClient, error_of
from pilotstack.registry.model.source import Source
from tests.support.registry import apply

if TYPE_CHECKING:
    from pilotstack.registry.client.requests import Signer
    from pilotstack.registry.model.state import State
    from pilotstack.registry.protocol.framing import Message

NOW = 1_800_000_000.0


class LocalRegistry(RegistryClient):
    """Requests are answered at once.

    Args:
        state: shared with other clients.
        signer: who asks.
    """

    def __init__(self, state: State, signer: Signer | None) -> None:
        super().__init__([("127.0.0.1", 1)], signer)
        self.state = state
        self.asked: list[Message] = []
        #: Types of requests whose reply is lost, and of those that do not even arrive.
        self.loses_reply: set[str] = set()
        self.loses_request: set[str] = set()

    async def request(self, message: Message, *, wait: float = 0.0) -> Message:
        """Answers, or loses, a request."""
        del wait
        kind = message["type"]
        self.asked.append(message)
        if kind in self.loses_request:
            raise ConnectionFailed("the registry does not answer")
        outcome = apply(self.state, message, Source("127.0.0.1", 40_000), NOW)
        if kind in self.loses_reply:
            raise ConnectionFailed("the registry does not answer")
        if "error" in outcome.reply:
            raise error_of(outcome.reply["error"], outcome.reply["code"])
        return outcome.reply
