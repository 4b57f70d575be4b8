"""The HTTP of our own servers: one small server, and what several of them show.

It is loaded only if ``--http`` is given (``docs/decisions/0034-one-small-http-server.md``).
"""
