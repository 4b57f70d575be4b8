"""Long lists are read page by page, and each page fits one reply."""

from __future__ import annotations

from tests.support.registry import World

from pilotstack.registry.model.rows import Network
from pilotstack.registry.protocol import framing
from pilotstack.registry.rules.paging import MAX_LISTED, MAX_REPLY, page


def test_lists_are_paged_by_bytes() -> None:
    world = World()
    world.join("a", "b")
    rules = {"links": 1, "x": "y" * 60_000}
    for number in range(60):
        world.create("a", f"n{number}", rules=rules, description="d" * 200)
    for name in ("a", "b"):
        reply = world.ask(name, "list_networks", requester_id=world.ids[name])
        assert len(framing.encode(reply)) <= MAX_REPLY
        # Nobody's rules crowd out another's network.
        assert len(reply["networks"]) == 61


def test_a_page_names_the_offset_of_the_next() -> None:
    world = World()
    world.join("a", "b")
    for number in range(1, 4000):
        row = Network(network_id=number, name=f"n{number}", description="d" * 200)
        world.state.put("networks", number, row)
    seen, offset = [], 0
    while True:
        request = {"type": "list_networks", "offset": offset}
        reply = world.run(request).reply
        assert len(framing.encode(reply)) < MAX_REPLY + 1000
        seen += [row["id"] for row in reply["networks"]]
        if not (offset := reply.get("next_offset", 0)):
            break
    assert seen == list(range(4000))


def test_a_row_longer_than_a_page_is_a_page_of_its_own() -> None:
    assert page(["x" * 100, "y"], room=10) == (["x" * 100], True)
    assert page([], room=0) == ([], False)
    assert page(range(MAX_LISTED + 1))[1] is True


def test_member_tags_are_paged() -> None:
    world = World()
    world.join("a")
    network = world.create("a", "lab")
    tags = tuple(f"{'t' * 30}-{number}" for number in range(10))
    member = world.state.members.of(network)[1]
    for node_id in range(2, 3000):
        world.state.put("members", (network, node_id), type(member)("member", tags))
    about = {"type": "get_member_tags", "network_id": network, "target_node_id": 0}
    found: dict[str, object] = {}
    offset = 0
    while True:
        reply = world.run(about | {"offset": offset}).reply
        assert len(framing.encode(reply)) < MAX_REPLY * 2
        found |= reply["members"]
        if not (offset := reply.get("next_offset", 0)):
            break
    assert len(found) == 2998
