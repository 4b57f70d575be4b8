"""The secure channel of port 443: encryption from program to program, over any byte stream
(docs/reference/protocol/services/secure.md).

::

    async with pilotstack.dial("agent-b:443") as stream:
        channel = await secure.wrap_client(stream)
        await channel.send(b"hello")

    async with pilotstack.listen(443) as listener:
        await secure.serve(listener, handler)
"""

from pilotstack.services.secure.auth import Credentials, NonceCache
from pilotstack.services.secure.codec import SecureError, Suite
from pilotstack.services.secure.stream import (
    SecureAttribute,
    SecureStream,
    serve,
    wrap_client,
    wrap_server,
)

__all__ = [
    "Credentials",
    "NonceCache",
    "SecureAttribute",
    "SecureError",
    "SecureStream",
    "Suite",
    "serve",
    "wrap_client",
    "wrap_server",
]
