"""The daemon's Unix socket, described once: command numbers, layouts and JSON answers.

Daemon, SDK and ``pilotctl`` use the same types, so none of them spells a number, a field or a
member of its own. Nothing here does I/O or decides anything. ``docs/reference/protocol/ipc.md`` is the
reference; ``rust/proto/src/wire/ipc.rs`` is the same for the IO thread.
"""
