"""Numbers on the daemon's socket: commands, sub-commands, close reasons and flags.

The commands equal ``wire::ipc::code`` of the Rust core; a test compares the two.
"""

from __future__ import annotations

from typing import get_args

from pilotstack.types import Congestion

#: Version of the extension that starts with :data:`HELLO`.
VERSION = 1
#: Largest value of a frame's length field: the command and its payload, in bytes.
MAX_FRAME = 1 << 20
#: Bytes of the length field.
LENGTH_LEN = 4
#: Bytes of the largest datagram.
MAX_DATAGRAM = 65_435

# The dialect of existing drivers.
BIND = 0x01
BIND_OK = 0x02
DIAL = 0x03
DIAL_OK = 0x04
ACCEPT = 0x05
SEND = 0x06
RECV = 0x07
CLOSE = 0x08
CLOSE_OK = 0x09
ERROR = 0x0A
SEND_TO = 0x0B
RECV_FROM = 0x0C
CANCEL = 0x2B
UNBIND = 0x37
UNBIND_OK = 0x38
SEND_TO_CONFIRM = 0x39
SEND_TO_OK = 0x3A

# Control verbs; the reply has the next number.
INFO = 0x0D
HANDSHAKE = 0x0F
RESOLVE_HOSTNAME = 0x11
SET_HOSTNAME = 0x13
SET_VISIBILITY = 0x15
DEREGISTER = 0x17
SET_TAGS = 0x19
NETWORK = 0x1F
HEALTH = 0x21
MANAGED = 0x23
ROTATE_KEY = 0x25
BROADCAST = 0x29
PREFER_DIRECT = 0x2D
ENROLL_RECOVERY = 0x31
SIGN_ENVELOPE = 0x33
VERIFY_ENVELOPE = 0x35
REGISTER = 0x81
DISCONNECT = 0x83
PEERS = 0x85
TRACE = 0x87

# The extension: requests carry ids, and a stream is a file descriptor.
HELLO = 0x60
HELLO_OK = 0x61
REQUEST = 0x62
REPLY = 0x63
FAILURE = 0x64
OPEN_STREAM = 0x65
STREAM_OPENED = 0x66
LISTEN_STREAMS = 0x67
LISTENING = 0x68
STREAM_ACCEPTED = 0x69
BIND_DATAGRAMS = 0x6A
DATAGRAMS_BOUND = 0x6B
SEND_FROM = 0x6C
UNBIND_DATAGRAMS = 0x6D
STREAM_FAILED = 0x6E
CANCEL_REQUEST = 0x6F
FORWARD_PATH = 0x70
ABORT_STREAM = 0x71

# Sub-commands of HANDSHAKE.
HANDSHAKE_REQUEST = 0x01
HANDSHAKE_APPROVE = 0x02
HANDSHAKE_REJECT = 0x03
HANDSHAKE_PENDING = 0x04
HANDSHAKE_TRUSTED = 0x05
HANDSHAKE_REVOKE = 0x06
HANDSHAKE_WAIT = 0x07

# Sub-commands of NETWORK.
NETWORK_LIST = 0x01
NETWORK_JOIN = 0x02
NETWORK_LEAVE = 0x03
NETWORK_MEMBERS = 0x04
NETWORK_INVITE = 0x05
NETWORK_INVITES = 0x06
NETWORK_RESPOND = 0x07
NETWORK_MANAGE = 0x80

# Sub-commands of MANAGED.
MANAGED_STATUS = 0x02
MANAGED_CYCLE = 0x04
MANAGED_POLICY = 0x05
MANAGED_MEMBER_TAGS = 0x06
MANAGED_RECONCILE = 0x07

#: Reasons of STREAM_FAILED.
REASONS = {
    1: "refused",
    2: "reset",
    3: "aborted",
    4: "timeout",
    5: "idle",
    6: "peer_restarted",
    7: "unreachable",
    8: "shutdown",
}

#: Flag of OPEN_STREAM: send small writes at once.
NO_DELAY = 1
#: Congestion controllers as bits 1 to 3 of OPEN_STREAM's flags; 0 is the daemon's default.
CONGESTION = {name: number for number, name in enumerate(get_args(Congestion), 1)}
