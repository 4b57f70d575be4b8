"""The snapshot file: the format of existing registries with members of our own, as described in
docs/reference/registry-files.md.

Departed nodes are not in ``nodes``, where old registries would take them for live ones. Unknown
members are written again.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pilotstack.registry.model.rows import Invite, Request, Response
from pilotstack.registry.protocol import values
from pilotstack.registry.storage.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pilotstack.registry.model.rows import Change
    from pilotstack.registry.model.state import State
    from pilotstack.registry.model.tables import Pairs, R, S

#: Entries that are encoded at a time; other threads get their turn in between.
_CHUNK: Final = 128
_BACKBONE: Final = "backbone"
#: Precedes the CRC-32 of everything before it, in our files.
SUM: Final = b',"sum":"'
_CLOSE: Final = b'"}'
_END: Final = len(SUM) + 8 + len(_CLOSE)
#: Damaged bytes around the sum up to which it is still recognized as one.
_FORGIVEN: Final = 3

T = TypeVar("T", Request, Response, Invite)

_encode = msgspec.json.Encoder().encode


class View:
    """What a snapshot is made of: copies of the tables, whose rows never change.

    Args:
        state: what is copied; it may go on changing.
        unstored: changes that are not durable yet, oldest first; they are left out.
    """

    def __init__(self, state: State, unstored: Sequence[Change] = ()) -> None:
        self.rows = state.freeze()
        for change in reversed(unstored):
            self.rows.tables[change.table].assign(change.key, change.before)
        self.seen = state.seen.copy()
        self.networks_of = state.networks_of.copy()
        for change in unstored:
            if change.table == "members" and isinstance(change.key, tuple):
                self.networks_of[int(change.key[1])] = self._networks(int(change.key[1]))
        self.shadowed = state.shadowed.copy()
        self.next_node = state.next_node
        self.next_network = state.next_network
        self.created = state.created
        self.unknown = state.unknown
        self.unknown_rows = state.unknown_rows

    def _networks(self, node_id: int) -> tuple[int, ...]:
        groups = self.rows.members.groups
        return tuple(sorted(net for net, members in groups.items() if node_id in members))

    def chunks(self, **more: object) -> Iterator[bytes]:
        """The file, piece by piece.

        Args:
            more: members to add.
        """
        head = {
            "next_node": self.next_node,
            # Old registries have 16 bits for it, which do not hold "none left".
            "next_net": self.next_network & 0xFFFF,
            "next_network": self.next_network,
            **more,
        }
        crc = 0
        for chunk in self._pieces(head):
            crc = zlib.crc32(chunk, crc)
            yield chunk
        yield SUM + b"%08x" % crc + _CLOSE

    def _pieces(self, head: dict[str, object]) -> Iterator[bytes]:
        yield _encode(head | self.unknown)[:-1]
        for name, entries in self._sections():
            yield b',"%b":{' % name.encode()
            is_first = True
            chunk: list[bytes] = []
            for key, value in entries:
                chunk.append(b'"%b":%b' % (key.encode(), value))
                if len(chunk) == _CHUNK:
                    yield (b"" if is_first else b",") + b",".join(chunk)
                    is_first, chunk = False, []
            if chunk:
                yield (b"" if is_first else b",") + b",".join(chunk)
            yield b"}"
        yield b',"trust_pairs":' + _encode(self._trust_pairs())

    def _sections(self) -> Iterator[tuple[str, Iterable[tuple[str, bytes]]]]:
        rows = self.rows
        yield "nodes", self._nodes()
        yield "departed", self._departed()
        yield "networks", self._networks_section()
        yield "retired_networks", ((str(k), b"%d" % row.at) for k, row in rows.retired.items())
        yield "pub_key_idx", self._keys()
        yield "trust_claims", _flat(rows.claims, lambda row: _encode(row.created))
        yield "handshake_inbox", _grouped(rows.requests, "from_node_id")
        yield "handshake_responses", _grouped(rows.responses, "from_node_id")
        yield "invite_inbox", _grouped(rows.invites, "network_id")
        yield "used_rotations", _flat(rows.rotations, lambda row: _encode(row.timestamp))
        yield "key_info", ((str(key), _encode(row)) for key, row in rows.keys.items())
        yield (
            "recovery_commitments",
            ((str(key), _encode(row.commitment_hash)) for key, row in rows.recoveries.items()),
        )

    def _nodes(self) -> Iterator[tuple[str, bytes]]:
        times: dict[int, bytes] = {}
        for node_id, node in self.rows.nodes.items():
            if node.gone_at:
                continue
            second = int(self.seen.get(node_id, 0))
            seen = times.get(second)
            if seen is None:
                seen = times[second] = values.rfc3339(second).encode()
            networks = b",".join(b"%d" % n for n in (0, *self.networks_of.get(node_id, ())))
            more = self.unknown_rows.get(("nodes", node_id))
            yield (
                str(node_id),
                b'%b,"networks":[%b],"last_seen":"%b"%b}'
                % (_encode(node)[:-1], networks, seen, b"," + _encode(more)[1:-1] if more else b""),
            )

    def _departed(self) -> Iterator[tuple[str, bytes]]:
        for node_id, node in self.rows.nodes.items():
            if node.gone_at:
                yield str(node_id), _encode(node)

    def _keys(self) -> Iterator[tuple[str, bytes]]:
        for node_id, node in self.rows.nodes.items():
            if node_id not in self.shadowed:
                yield values.encode_base64(node.public_key), b"%d" % node_id

    def _networks_section(self) -> Iterator[tuple[str, bytes]]:
        live = [node_id for node_id, node in self.rows.nodes.items() if not node.gone_at]
        backbone = {
            "id": 0,
            "name": _BACKBONE,
            "join_rule": "open",
            "members": live,
            "created": values.rfc3339(self.created),
        }
        yield "0", _encode(backbone | self.unknown_rows.get(("networks", 0), {}))
        for network_id, network in self.rows.networks.items():
            members = self.rows.members.of(network_id)
            row: dict[str, object] = msgspec.to_builtins(network)
            row["created"] = values.rfc3339(network.created)
            row["members"] = list(members)
            row["member_roles"] = {str(key): member.role for key, member in members.items()}
            tags = {str(key): list(member.tags) for key, member in members.items() if member.tags}
            policy = {
                name: row.pop(name)
                for name in ("max_members", "allowed_ports", "description")
                if name in row
            }
            row |= {"member_tags": tags} if tags else {}
            row |= {"policy": policy} if policy else {}
            for name, text in (("rules", network.rules), ("expr_policy", network.expr_policy)):
                if text:
                    row[name] = msgspec.json.decode(text)
            more = self.unknown_rows.get(("networks", network_id), {})
            yield str(network_id), _encode(row | more)

    def _trust_pairs(self) -> list[str]:
        claims = self.rows.claims
        return [f"{a}:{b}" for (a, b), _ in claims.pairs() if a < b and (b, a) in claims]


def _flat(table: Pairs[S, R], encode: Callable[[R], bytes]) -> Iterator[tuple[str, bytes]]:
    return ((f"{a}:{b}", encode(row)) for (a, b), row in table.pairs())


def _grouped(table: Pairs[int, T], name: str) -> Iterator[tuple[str, bytes]]:
    for first, group in table.groups.items():
        rows = [
            {
                name: second,
                **msgspec.to_builtins(row),
                "timestamp": values.rfc3339(row.timestamp),
            }
            for second, row in group.items()
        ]
        yield str(first), _encode(rows)


def decode(text: bytes) -> dict[str, object]:
    """The members of a snapshot file, nodes still as JSON.

    Raises:
        ValueError: it is no snapshot, or not as it was written.
    """
    _check_sum(text.rstrip())
    try:
        rows = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {
            name: _PARTLY[name](raw) if name in _PARTLY else msgspec.json.decode(raw)
            for name, raw in rows.items()
        }
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _check_sum(text: bytes) -> None:
    """Checks the sum, if there is one: people who edit a file remove it. A damaged sum must not
    look like a missing one."""
    end = text[-_END:]
    frame, shown = end[: len(SUM)] + end[-len(_CLOSE) :], end[len(SUM) : -len(_CLOSE)]
    wrong = sum(a != b for a, b in zip(frame, SUM + _CLOSE, strict=False))
    is_ours = len(end) == _END and wrong <= _FORGIVEN
    if is_ours and (wrong or shown != b"%08x" % zlib.crc32(text[:-_END])):
        raise ValueError("its checksum is wrong: it was damaged, or changed by hand")


def load(rows: Mapping[str, object], now: float) -> State:
    """The state of a snapshot of ours or of an existing registry.

    Args:
        now: counts as the last time each node was seen.

    Raises:
        ValueError: it is no snapshot.
    """
    try:
        loader = Loader(rows, now)
        loader.load()
    except (msgspec.MsgspecError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return loader.state


#: Sections of a file that are decoded later, entry by entry or not at all.
_PARTLY: Final[dict[str, Callable[[msgspec.Raw], object]]] = {
    "nodes": msgspec.json.Decoder(dict[str, msgspec.Raw]).decode,
    "pub_key_idx": lambda raw: raw,
}
