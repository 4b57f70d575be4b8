"""Services on well-known ports of the overlay, built on the public SDK (docs/reference/protocol).

Each is a codec, state without IO, and ``serve``. Nothing here knows the daemon or the command line.
"""
