"""The network as tools of an LLM agent: an MCP server on the public SDK (docs/how-to/mcp.md).

It must not let a model do what its operator would have to answer for without asking the operator
(:mod:`consent`), and what it returns is bounded (:mod:`bounds`). What peers said is data: the tools
say so.
"""
