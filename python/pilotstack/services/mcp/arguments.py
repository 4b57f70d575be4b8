"""What a model is told that called a tool wrongly: which argument is wrong, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from pydantic import ValidationError

from pilotstack.services.mcp.bounds import short

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context
    from mcp_types import CallToolResult, InputRequiredResult, Tool

__all__ = ["Server"]

#: Errors of one call that are told.
_MAX_ERRORS: Final = 5


class Server(MCPServer[Any]):
    """A server whose errors begin with a code of ours, and say how a tool is called."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Calls a tool.

        Raises:
            ToolError: there is none, the arguments are wrong, or it failed.
        """
        tools = {tool.name: tool for tool in await self.list_tools()}
        tool = tools.get(name)
        if tool is None:
            known = ", ".join(sorted(tools))
            raise ToolError(f"not_found: there is no tool {short(name)!r} (there are {known})")
        wrong = [f"{short(each)!r} is unknown" for each in arguments if each not in _known(tool)]
        if wrong:
            raise _wrong(tool, wrong)
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError:
            raise
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                raise _wrong(tool, [_line(each) for each in cause.errors()]) from cause
            if isinstance(cause, ToolError):
                # Without the words that the library puts before it.
                raise cause from cause.__cause__
            raise


def _known(tool: Tool) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = tool.input_schema.get("properties", {})
    return found


def _line(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "arguments"
    return f"{short(where)}: {error['msg']}"


def _wrong(tool: Tool, errors: list[str]) -> ToolError:
    required = tool.input_schema.get("required", ())
    takes = [_argument(name, told, name in required) for name, told in _known(tool).items()]
    hint = f"{tool.name} takes {', '.join(takes) or 'no arguments'}"
    return ToolError(f"invalid_argument: {'; '.join(errors[:_MAX_ERRORS])} ({hint})")


def _argument(name: str, told: dict[str, Any], is_required: bool) -> str:
    choices = told.get("enum")
    kind = "|".join(map(str, choices)) if choices else told.get("type", "value")
    return f"{name}: {kind}" if is_required else f"{name}: {kind} = {told.get('default')!r}"
