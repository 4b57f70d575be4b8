"""Attacks on the known weaknesses of existing registries in state and store. Each fails."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.registry import NAMES, READS, World, apply, identity, key_text, snapshot_of

from pilotstack.errors import InternalError
from pilotstack.registry.model.policy import Policy
from pilotstack.registry.model.source import Source
from pilotstack.registry.protocol import framing, values
from pilotstack.registry.rules.beacons import MAX_BEACONS
from pilotstack.registry.rules.call import MAX_PENDING
from pilotstack.registry.rules.reaper import UNCONFIRMED_TTL, reap
from pilotstack.registry.rules.trust import MAX_CLAIMS
from pilotstack.registry.storage import snapshot
from pilotstack.registry.storage.journal import FileStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world() -> World:
    world = World()
    world.join("alice", "bob", "mallory")
    return world


def lookup(world: World, name: str) -> dict[str, Any]:
    return world.run({"type": "lookup", "node_id": world.ids[name]}).reply


def endpoint(world: World, name: str) -> str:
    return world.state.nodes[world.ids[name]].endpoint


def sign(name: str, text: str) -> str:
    return values.encode_base64(identity(name).sign(text.encode()))


def test_an_unsigned_registration_moves_no_node() -> None:
    world = World()
    world.register("alice", sign=False)
    home = endpoint(world, "alice")
    attacker = Source("203.0.113.66", 6666)
    moved = world.register("alice", sign=False, source=attacker, listen_addr=":6666")
    assert (moved["node_id"], endpoint(world, "alice")) == (1, home)
    # Nor does it help to sign as somebody else on that connection.
    world.register("mallory")
    world.about("mallory", "heartbeat", source=attacker)
    assert endpoint(world, "alice") == home
    # Alice's own signature on her own connection proves nothing for the attacker's.
    world.about("alice", "heartbeat")
    assert endpoint(world, "alice") == home
    # Once she registered signed, no unsigned registration is taken at all, whatever was between.
    world.register("alice")
    world.about("alice", "deregister")
    world.state = snapshot.load(snapshot_of(world.state), world.now)
    assert "unsigned registration" in world.register("alice", sign=False)["error"]


def test_pending_registrations_are_bounded_per_connection() -> None:
    world, attacker = World(), Source("203.0.113.66", 6666)
    names = [f"n{number}" for number in range(MAX_PENDING + 10)]
    for name in names:
        world.register(name, sign=False)
    for name in names:
        world.register(name, sign=False, source=attacker)
    assert len(attacker.pending) == MAX_PENDING


def test_the_name_of_an_owner_neither_takes_over_a_live_node_nor_discloses_it() -> None:
    world = World(Policy(allows_owner_reclaim=True, reclaim_after=0))
    world.register("alice", owner="alice@example.com")
    reply = world.register("mallory", owner="alice@example.com")
    assert reply["node_id"] == 2
    assert lookup(world, "alice")["public_key"] == key_text("alice")
    unknown = world.register("bob", owner="nobody@example.com")
    assert set(reply) == set(unknown)


def test_a_departed_node_is_reclaimed_only_by_policy_late_and_without_a_secret() -> None:
    def claim(**policy: Any) -> int:
        world = World(Policy(**policy))
        world.register("alice", owner="alice@example.com")
        if policy.get("stale_after"):
            commitment = hashlib.sha256(b"secret").hexdigest()
            world.about("alice", "enroll_recovery", commitment=commitment)
        world.about("alice", "deregister")
        world.now += 3_000
        return int(world.register("other", owner="alice@example.com")["node_id"])

    assert claim() == 2
    assert claim(allows_owner_reclaim=True) == 2
    assert claim(allows_owner_reclaim=True, reclaim_after=2_000) == 1
    assert claim(allows_owner_reclaim=True, reclaim_after=2_000, stale_after=600.0) == 2


def test_a_key_belongs_to_one_node(world: World) -> None:
    stolen = world.about("mallory", "rotate_key", new_public_key=key_text("bob"))
    assert stolen["error"] == "public key already registered"
    assert world.register("bob")["node_id"] == world.ids["bob"]
    # Nor is a departed node's key free, nor another spelling of one.
    world.about("bob", "deregister")
    stolen = world.about("mallory", "rotate_key", new_public_key=key_text("bob"))
    assert stolen["error"] == "public key already registered"
    spelled = key_text("alice")[:10] + "\r\n" + key_text("alice")[10:]
    assert world.register("alice", public_key=spelled)["node_id"] == world.ids["alice"]


def test_a_signature_that_does_not_cover_the_new_key_is_accepted_once() -> None:
    world = World()
    world.register("alice", sign=False)
    captured = sign("alice", "rotate:1")

    def rotate(to: str, signature: str) -> dict[str, Any]:
        request = {"type": "rotate_key", "node_id": 1, "new_public_key": key_text(to)}
        return world.run(request | {"signature": signature}).reply

    assert "error" not in rotate("alice2", captured)
    assert "error" not in rotate("alice", sign("alice2", f"rotate:1:{key_text('alice')}"))
    assert "already used" in rotate("mallory", captured)["error"]
    world.state = snapshot.load(snapshot_of(world.state), world.now)
    assert "already used" in rotate("mallory", captured)["error"]
    # Who can do better must.
    world.register("bob")
    request = {"type": "rotate_key", "node_id": 2, "new_public_key": key_text("mallory")}
    reply = world.run(request | {"signature": sign("bob", "rotate:2")}).reply
    assert reply["error"] == "signature verification failed"


def test_a_signature_is_valid_for_its_own_request_and_node_only(world: World) -> None:
    heartbeat = sign("alice", "heartbeat:1")
    for kind in NAMES - READS - {"register", "heartbeat", "beacon_register"}:
        request = {"type": kind, "node_id": 1, "from_node_id": 1, "inviter_id": 1, "peer_id": 2}
        request |= {"to_node_id": 2, "target_node_id": 2, "hostname": "x", "name": "x"}
        request |= {"network_id": 1, "new_public_key": key_text("new"), "polo_score": 1}
        before = snapshot_of(world.state)
        reply = world.run(request | {"signature": heartbeat, "delta": 1}).reply
        assert "error" in reply, kind
        assert snapshot_of(world.state) == before, kind


def test_a_replayed_response_neither_restores_trust_nor_ends_it(world: World) -> None:
    world.request("mallory", "alice")
    answer = {"type": "respond_handshake", "node_id": 1, "peer_id": 3, "accept": True}
    answer["signature"] = sign("alice", "respond:1:3")
    assert "error" not in world.run(answer).reply
    # The same bytes sign the opposite answer; they end no trust that was settled.
    world.run(answer | {"accept": False})
    assert "error" not in world.resolve("mallory", "alice")
    world.about("alice", "revoke_trust", peer_id=3)
    world.run(answer)
    assert "private" in world.resolve("mallory", "alice")["error"]


def test_one_sided_trust_gives_no_access(world: World) -> None:
    for _ in range(3):
        assert world.trust("mallory", "alice") == {"type": "report_trust_ok"}
        world.request("mallory", "alice")
    assert "private" in world.resolve("mallory", "alice")["error"]
    check = {"type": "check_trust", "node_id": 1, "peer_id": 3}
    assert world.run(check).reply["trusted"] is False


def test_an_unsolicited_response_gives_no_access(world: World) -> None:
    assert "error" not in world.respond("mallory", "alice", accept=True)
    assert "private" in world.resolve("mallory", "alice")["error"]


def test_a_node_cannot_trust_itself_and_claims_are_bounded(world: World) -> None:
    assert "error" in world.trust("mallory", "mallory")
    assert "error" in world.request("mallory", "mallory")
    claims = world.state.claims
    claims.groups[3] = dict.fromkeys(range(10, 10 + MAX_CLAIMS), object())  # type: ignore[arg-type]
    assert "too many trust claims" in world.trust("mallory", "alice")["error"]


def test_punch_discloses_no_private_endpoint(world: World) -> None:
    ids: dict[str, Any] = {"node_a": 3, "node_b": 1}
    denied = world.ask("mallory", "punch", requester_id=3, **ids)
    assert denied["error"] == "punch denied: node 1 is private (establish mutual trust first)"
    assert "participant" in world.ask("bob", "punch", requester_id=2, **ids)["error"]
    world.trust("alice", "mallory")
    world.trust("mallory", "alice")
    told = world.ask("mallory", "punch", requester_id=3, **ids)
    assert told["node_b_addr"] == endpoint(world, "alice")


def test_no_public_request_discloses_a_private_endpoint(world: World) -> None:
    network = world.create("alice", "lab")
    secret = endpoint(world, "alice").encode()
    requests: list[dict[str, Any]] = [
        {"type": "lookup", "node_id": 1},
        {"type": "resolve_hostname", "hostname": "alice"},
        {"type": "list_networks"},
        {"type": "list_nodes", "network_id": network},
        {"type": "get_key_info", "node_id": 1},
        {"type": "check_trust", "node_id": 1, "peer_id": 3},
    ]
    world.about("alice", "set_hostname", hostname="alice")
    for request in requests:
        reply = world.run(request).reply
        assert "error" not in reply
        assert secret not in framing.encode(reply), request


def test_scores_take_the_admin_token_and_keep_no_node_alive() -> None:
    world = World(Policy(admin_token="root"))
    world.join("alice")
    for request, score in (
        ({"type": "set_polo_score", "polo_score": 9}, 9),
        ({"type": "update_polo_score", "delta": 9}, 18),
    ):
        world.now += 100
        about = {"node_id": 1, "signature": sign("alice", f"{request['type']}:1")}
        assert "requires the admin token" in world.run(request | about).reply["error"]
        assert world.state.seen[1] == world.now - 100
        reply = world.run(request | about | {"admin_token": "root"}).reply
        assert reply["polo_score"] == score
        assert world.state.seen[1] < world.now
        world.state.touch(1, world.now)


def test_a_beacon_registers_its_own_address_and_id_only(world: World) -> None:
    beacon, other = Source("198.51.100.50", 1), Source("203.0.113.9", 1)
    announce = {"type": "beacon_register", "beacon_id": 7, "addr": "8.8.8.8:9001"}
    assert "error" not in world.run(announce, beacon).reply
    assert "already registered" in world.run(announce, other).reply["error"]
    listed = world.run({"type": "beacon_list"}).reply["beacons"]
    assert listed == [{"id": 7, "addr": "198.51.100.50:9001"}]
    for number in range(MAX_BEACONS + 10):
        world.run(announce | {"beacon_id": 100 + number}, other)
    assert len(world.state.beacons) == MAX_BEACONS
    world.state.policy = Policy(admin_token="root")
    assert world.run(announce, beacon).reply["error"] == "invalid admin token"
    assert "error" not in world.run(announce | {"admin_token": "root"}, beacon).reply
    listed = world.run({"type": "beacon_list"}).reply["beacons"]
    assert {"id": 7, "addr": "8.8.8.8:9001"} in listed


def test_a_claimed_inviter_or_role_needs_a_signature(world: World) -> None:
    network = world.create("alice", "club", join_rule="invite")
    forged = world.about("mallory", "join_network", network_id=network, inviter_id=1)
    assert "invite-only" in forged["error"]
    invite: dict[str, Any] = {"inviter_id": 1, "network_id": network, "target_node_id": 3}
    assert "error" in world.ask("mallory", "invite_to_network", **invite)
    about = {"node_id": 1, "network_id": network, "target_node_id": 1, "name": "x"}
    for kind in ("delete_network", "rename_network", "set_network_policy", "set_expr_policy"):
        assert "signature" in world.run({"type": kind, **about}).reply["error"], kind


def test_every_heartbeat_is_verified(world: World) -> None:
    world.about("alice", "heartbeat")
    assert "error" in world.about("alice", "heartbeat", sign=False)
    assert "error" in world.about("alice", "heartbeat", sign="mallory")
    # A remembered signature is not remembered for the next key.
    world.about("alice", "rotate_key", new_public_key=key_text("alice2"))
    assert world.about("alice", "heartbeat")["error"] == "signature verification failed"
    assert "error" not in world.about("alice", "heartbeat", sign="alice2")


def test_requests_that_change_nothing_store_nothing(world: World) -> None:
    world.register("alice")
    world.about("alice", "set_hostname", hostname="alice")
    for request in (
        world.sign("alice", {"type": "set_hostname", "node_id": 1, "hostname": "alice"}),
        world.sign("alice", {"type": "set_visibility", "node_id": 1, "public": False}),
        world.sign("alice", {"type": "heartbeat", "node_id": 1}),
        world.sign("alice", {"type": "poll_handshakes", "node_id": 1}),
        world.sign(
            "alice",
            {
                "type": "register",
                "public_key": key_text("alice"),
                "listen_addr": "0.0.0.0:4000",
            },
        ),
    ):
        assert world.run(request, world.source("alice")).changes == (), request["type"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "braces"])
def test_a_damaged_store_stops_the_start_and_is_left_unchanged(
    tmp_path: Path, world: World, damage: str
) -> None:
    path = tmp_path / "registry.json"
    store = FileStore(path)
    store.load(0)
    store.rotate()
    store.fold(snapshot.View(world.state))
    store.close()
    whole = path.read_bytes()
    assert set(json.loads(whole)["nodes"]) == {"1", "2", "3"}
    place = whole.index(b"198.51.100.1")
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flip": whole[:place] + b"2" + whole[place + 1 :],
            "empty": b"",
            "foreign": b'{"hello":"world"}',
            "braces": b"{}",
        }[damage]
    )
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InternalError, match="corrupt") as error:
        FileStore(path).load(0)
    assert error.value.hint
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_journals_without_their_snapshot_stop_the_start(tmp_path: Path, world: World) -> None:
    path = tmp_path / "registry.json"
    store = FileStore(path)
    store.load(0)
    store.rotate()
    store.fold(snapshot.View(world.state))
    store.close()
    path.unlink()
    with pytest.raises(InternalError, match="missing"):
        FileStore(path).load(0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = (
    *("node_id", "peer_id", "network_id", "public_key", "new_public_key", "signature", "hostname"),
    *("from_node_id", "to_node_id", "target_node_id", "inviter_id", "requester_id", "tags"),
    *("listen_addr", "name", "rules", "expr_policy", "max_members", "allowed_ports", "polo_score"),
    *("delta", "admin_token", "commitment", "recovery_secret", "expires_at", "offset", "addr"),
    *("beacon_id", "lan_addrs", "token", "join_rule", "wait", "owner", "justification"),
)


@given(
    kind=st.sampled_from(sorted(NAMES)),
    members=st.dictionaries(st.sampled_from(MEMBERS), JSON | st.integers(0, 4)),
)
@settings(max_examples=500, deadline=None)
def test_no_request_raises_an_exception(kind: str, members: dict[str, Any]) -> None:
    world = World(Policy(admin_token="root"))
    world.join("alice", "bob")
    world.create("alice", "lab", admin_token="root")
    for admin in ({}, {"admin_token": "root"}):
        reply = world.run({"type": kind, **members, **admin}).reply
        assert reply["type"] in {f"{kind}_ok", "error"}
        framing.encode(reply)
    snapshot_of(world.state)


def test_remembered_signatures_are_bounded() -> None:
    world = World(Policy(verified_signatures=10))
    world.join("alice")
    for number in range(50):
        world.about(
            "alice",
            "rotate_key",
            new_public_key=key_text(f"alice{number}"),
            sign=("alice" if number == 0 else f"alice{number - 1}"),
        )
        assert len(world.state.verifier) <= 11


def test_an_unconfirmed_id_expires_and_is_not_reused() -> None:
    world = World()
    world.register("squatter", sign=False)
    world.register("late", sign=False)
    reap(world.state, world.now)
    for _ in range(int(UNCONFIRMED_TTL) // 30 + 1):
        world.now += 30
        world.about("late", "heartbeat")
        reap(world.state, world.now)
    assert set(world.state.nodes) == {2}
    assert world.register("squatter", sign=False)["node_id"] == 3
    assert world.state.next_node == 4


@pytest.mark.parametrize("frame", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\x10\0\1"])
def test_a_length_is_checked_before_anything_is_buffered(frame: bytes) -> None:
    framer = framing.Framer()
    framer.feed(frame)
    with pytest.raises(framing.ProtocolError):
        framer.next_body()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"NaN", b"1"])
def test_a_body_that_is_no_object_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(framing.ProtocolError):
        framing.decode(body)


def test_a_poll_whose_reply_is_lost_loses_nothing(world: World) -> None:
    world.request("bob", "alice")
    world.poll("alice")
    assert world.poll("alice", Source("198.51.100.1", 50_000)) == ([2], [])


def test_no_request_changes_a_standby() -> None:
    world = World()
    world.register("alice", sign=False)
    world.register("bob")
    world.request("bob", "alice")
    world.state.policy = Policy(is_standby=True)
    before = snapshot_of(world.state)
    for kind in READS:
        request = {"type": kind, "node_id": 1, "requester_id": 1, "hostname": "x"}
        request |= {"node_a": 1, "node_b": 2, "peer_id": 2, "network_id": 1}
        for signed in (request, world.sign("alice", request)):
            outcome = apply(world.state, signed, world.source("alice"), world.now)
            assert outcome.changes == ()
    assert snapshot_of(world.state) == before
    assert "poll_handshakes" not in READS


def test_the_store_is_private_and_has_no_token_in_clear(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    store = FileStore(path)
    world = World(Policy(admin_token="root-token", salt=b"x" * 32))
    world.state = store.load(world.now)
    world.state.policy = Policy(admin_token="root-token", salt=b"x" * 32)
    world.join("alice")
    request = {"type": "create_network", "node_id": 1, "name": "vip", "join_rule": "token"}
    request |= {"token": "join-token", "network_admin_token": "net-token"}
    store.append(world.run(request | {"admin_token": "root-token"}).changes)
    commitment = hashlib.sha256(b"recovery-secret").hexdigest()
    enroll = world.sign(
        "alice", {"type": "enroll_recovery", "node_id": 1, "commitment": commitment}
    )
    store.append(world.run(enroll).changes)
    journal = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    store.rotate()
    store.fold(snapshot.View(world.state))
    store.close()
    text = journal + b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in ("root-token", "join-token", "net-token", "recovery-secret", commitment):
        assert secret.encode() not in text
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    hashes = {world.state.networks[1].token_hash, world.state.networks[1].admin_token_hash}
    assert len({text.partition("$")[0] for text in hashes}) == 2


def test_an_endpoint_has_the_source_address_and_a_valid_port(world: World) -> None:
    for listen in ("8.8.8.8:53", "victim.example:53", "[2001:4860:4860::8888]:53"):
        world.state.policy = Policy()
        source = Source("1.2.3.4", 40_000)
        world.register("mallory", listen_addr=listen, source=source)
        assert endpoint(world, "mallory") == "1.2.3.4:53"
    for listen in ("", ":0", "1.2.3.4:0", ":70000", ":99999zz", "junk", ":٤٢"):
        world.register("mallory", listen_addr=listen, source=source)
        assert endpoint(world, "mallory") == "1.2.3.4:40000"
    # Inside a site the source address says nothing; there a signature may name a public one.
    inside = Source("10.0.0.7", 40_000)
    world.register("mallory", listen_addr="8.8.8.8:4000", source=inside)
    assert endpoint(world, "mallory") == "8.8.8.8:4000"
    world.register("eve", listen_addr="8.8.4.4:4000", source=inside, sign=False)
    assert endpoint(world, "eve") == "10.0.0.7:4000"


def test_deregistering_an_unknown_node_changes_nothing(world: World) -> None:
    outcome = world.run({"type": "deregister", "node_id": 99})
    assert (outcome.reply, outcome.changes) == ({"type": "deregister_ok"}, ())
    assert "signature required" in world.about("alice", "deregister", sign=False)["error"]


def test_refusals_have_the_words_that_daemons_search(world: World) -> None:
    unknown = world.run({"type": "heartbeat", "node_id": 9}).reply
    assert unknown["error"] == "node 9: node not found"
    forged = world.about("alice", "heartbeat", sign="mallory")
    assert forged["error"] == "signature verification failed"


def test_a_recovery_secret_works_once_and_an_owner_name_never() -> None:
    world = World(Policy(admin_token="root"))
    world.register("alice", owner="alice@example.com")
    world.about("alice", "enroll_recovery", commitment=hashlib.sha256(b"secret").hexdigest())

    def recover(key: str, *, sign: bool | str = True, **members: Any) -> dict[str, Any]:
        signer = key if sign is True else sign
        members |= {"node_id": 1, "new_public_key": key_text(key)}
        return world.ask(key, "recover_identity", sign=signer, **members)

    owner = {"owner": "alice@example.com"}
    for attempt in (owner, {}, {"recovery_secret": "guess"}, {"admin_token": "guess"}):
        assert "recovery denied" in recover("mallory", **attempt)["error"]
    rotated = world.run(
        {"type": "rotate_key", "node_id": 1, "new_public_key": key_text("mallory"), **owner}
    ).reply
    assert rotated["error"] == "rotate_key requires a valid signature"
    # The new key must be there, too, and be nobody's yet.
    assert "signature" in recover("new", recovery_secret="secret", sign=False)["error"]
    assert "signature" in recover("new", recovery_secret="secret", sign="alice")["error"]
    assert recover("new", recovery_secret="secret")["public_key"] == key_text("new")
    assert world.about("alice", "heartbeat")["error"] == "signature verification failed"
    assert "error" not in world.about("alice", "heartbeat", sign="new")
    assert "recovery denied" in recover("mallory", recovery_secret="secret")["error"]
    assert "error" not in recover("operator", admin_token="root")


def test_an_expired_key_keeps_no_node_alive(world: World) -> None:
    expiry = values.rfc3339(world.now + 3600)
    assert world.about("alice", "set_key_expiry", expires_at=expiry)["expires_at"] == expiry
    assert world.about("alice", "heartbeat")["key_expiry_warning"] is True
    world.now += 3601
    assert f"key expired at {expiry}" in world.about("alice", "heartbeat")["error"]
    info = world.run({"type": "get_key_info", "node_id": 1}).reply
    assert (info["expires_at"], info["rotate_count"]) == (expiry, 0)
    past = world.about("alice", "set_key_expiry", expires_at="1999-01-01T00:00:00Z")
    assert "past" in past["error"]
    world.about("alice", "set_key_expiry", expires_at="")
    assert "error" not in world.about("alice", "heartbeat")


def test_a_silent_node_is_marked_offline_and_keeps_everything(world: World) -> None:
    world.about("alice", "set_hostname", hostname="alice")
    world.about("alice", "set_visibility", public=True)
    for _ in range(22):
        world.now += 30
        world.about("bob", "heartbeat")
        assert reap(world.state, world.now) == ()
    assert world.state.offline == {1, 3}
    assert "not found (offline)" in world.resolve("bob", "alice")["error"]
    assert (lookup(world, "alice")["offline"], lookup(world, "alice")["hostname"]) == (
        True,
        "alice",
    )
    world.about("alice", "heartbeat")
    assert world.resolve("bob", "alice")["real_addr"] == endpoint(world, "alice")


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_jump_marks_no_node_offline(jump: float) -> None:
    world = World()
    world.join("alice")
    world.register("new", sign=False)
    reap(world.state, world.now)
    world.now += jump
    assert reap(world.state, world.now) == ()
    world.now += 11
    assert reap(world.state, world.now) == ()
    assert world.state.offline == set()
    assert set(world.state.nodes) == {1, 2}
