"""Whether a model may do what its operator answers for: trust peers, and send files.

By default the operator is asked, through the client (elicitation). A client that cannot ask gets a
refusal that says what the operator can type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context, ElicitationResult

#: ``ask`` the operator each time; ``always`` and ``never`` are answers given beforehand.
Rule = Literal["ask", "always", "never"]


class Answer(BaseModel):
    """What the operator is asked for."""

    agree: bool = Field(description="Whether this may be done.")


class Consent:
    """The operator's rule.

    Args:
        rule: see :data:`Rule`.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def question(self, context: Context[Any], what: str, command: str) -> Answer | Elicit[Answer]:
        """The answer that was given beforehand, or what the operator is asked.

        Args:
            context: of the call.
            what: what is to be done, for people.
            command: how the operator does it by hand.

        Raises:
            ToolError: the operator does not allow it, or cannot be asked.
        """
        if self._rule == "always":
            return Answer(agree=True)
        by_hand = f"the operator can do it by hand: {command}"
        if self._rule == "never":
            raise ToolError(f"permission_denied: the operator does not allow it; {by_hand}")
        capabilities = context.client_capabilities
        if capabilities is None or capabilities.elicitation is None:
            raise ToolError(
                "permission_denied: the operator has to agree, and this client cannot ask; "
                f"{by_hand}, or start this server with --consent always"
            )
        return Elicit(f"An agent wants to {what}. Is that all right?", Answer)

    @staticmethod
    def check(result: ElicitationResult[Answer]) -> None:
        """Returns if the operator agreed.

        Raises:
            ToolError: the operator did not.
        """
        if not isinstance(result, AcceptedElicitation) or not result.data.agree:
            raise ToolError("permission_denied: the operator did not agree")
