"""The daemon's Unix socket, described once: command numbers, layouts and JSON answers.

Daemon, SDK and ``pilotctl`` use the same types, so none of them spells a number, a field or a
member of its own. Nothing here does I/O or decides anything. The reference is
``docs/reference/protocol/ipc.md``; ``rust/proto/src/wire/ipc.rs`` is the same for the IO thread.
"""
