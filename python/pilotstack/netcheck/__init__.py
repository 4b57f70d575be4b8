"""Finds out what stands between this host and its peers: mapping and filtering of a NAT (RFC 4787),
addresses that beacons see, IPv6, path MTU, round trips to beacons.

It uses sockets of its own and the messages of ``docs/reference/protocol/beacon.md``. It announces
no node, changes nothing at a beacon, and believes only replies to its own questions.
"""
