//! Keys that nodes have proven, and what the registry says of them.

use super::*;

const OWNER: u8 = 2;
const THIEF: u8 = 6;
const NONE: [u32; 0] = [];

fn home() -> SocketAddr {
    at(2, 4000)
}

fn lair() -> SocketAddr {
    at(6, 6666)
}

impl Fixture {
    fn questions(&mut self) -> Vec<u32> {
        self.beacon.take_unconfirmed(usize::MAX).iter().map(|node| node.0).collect()
    }

    fn answer(&mut self, node: u32, key: Option<u8>) {
        let key = key.map(|n| identity(n).public_key());
        self.beacon.on_registry_key(self.now, NodeId(node), key);
    }
}

/// Who proves a key first has the id, until the registry says whose it is.
#[test]
fn who_came_first_with_a_key_of_its_own_loses_the_id_to_its_owner() {
    let mut fixture = Fixture::new();
    fixture.announce(2, lair(), THIEF, true);
    fixture.announce(2, home(), OWNER, true);
    assert_eq!(fixture.place(2), Some(lair()));
    assert_eq!(fixture.questions(), [2]);
    fixture.answer(2, Some(OWNER));
    assert_eq!(fixture.place(2), None);
    fixture.announce(2, lair(), THIEF, true);
    assert_eq!(fixture.place(2), None);
    fixture.announce(2, home(), OWNER, true);
    assert_eq!(fixture.place(2), Some(home()));
    fixture.announce(2, lair(), THIEF, true);
    assert_eq!(fixture.place(2), Some(home()));
}

#[test]
fn the_registry_is_asked_once_until_its_answer_is_old() {
    let mut fixture = Fixture::new();
    fixture.announce(1, at(1, 4000), 1, false);
    fixture.send(at(3, 4000), &discover(3, None));
    assert_eq!(fixture.questions(), NONE, "without a proven key there is nothing to ask");
    fixture.announce(2, home(), OWNER, true);
    assert_eq!(fixture.questions(), [2]);
    fixture.answer(2, Some(OWNER));
    let again = |fixture: &mut Fixture| {
        fixture.send(home(), &discover(2, Some(identity(OWNER).public_key())));
        fixture.questions()
    };
    for _ in 0..19 {
        fixture.wait(30);
        fixture.announce(2, home(), OWNER, true);
        assert_eq!(again(&mut fixture), NONE);
    }
    fixture.wait(31);
    assert_eq!(again(&mut fixture), [2]);
    assert_eq!(fixture.place(2), Some(home()), "no answer changes nothing");
}

/// A node with another key than the registry named may have got it meanwhile.
#[test]
fn the_registry_is_asked_anew_about_a_node_that_proves_another_key() {
    let mut fixture = Fixture::new();
    fixture.announce(2, home(), OWNER, true);
    fixture.questions();
    fixture.answer(2, Some(OWNER));
    fixture.announce(2, lair(), 7, true);
    assert_eq!(fixture.questions(), NONE, "it has just answered");
    fixture.wait(10);
    fixture.announce(2, lair(), 7, false);
    assert_eq!(fixture.questions(), NONE, "a key that is not proven is no reason to ask");
    fixture.announce(2, lair(), 7, true);
    assert_eq!(fixture.questions(), [2]);
    fixture.answer(2, Some(7));
    assert_eq!(fixture.place(2), None);
    fixture.announce(2, lair(), 7, true);
    assert_eq!(fixture.place(2), Some(lair()));
}

#[test]
fn a_node_that_the_registry_does_not_know_keeps_what_it_proved_first() {
    let mut fixture = Fixture::new();
    fixture.announce(2, home(), OWNER, true);
    fixture.questions();
    fixture.answer(2, None);
    fixture.announce(2, lair(), THIEF, true);
    assert_eq!(fixture.place(2), Some(home()));
    assert_eq!(fixture.questions(), NONE);
    fixture.wait(10);
    fixture.announce(2, lair(), THIEF, true);
    assert_eq!(fixture.questions(), [2], "it may know by now");
    fixture.answer(2, None);
    fixture.wait(60);
    fixture.send(home(), &discover(2, Some(identity(OWNER).public_key())));
    assert_eq!(fixture.questions(), [2]);
}

#[test]
fn questions_are_bounded() {
    let mut fixture = Fixture::new();
    for node in 1..6000_u32 {
        fixture.wait(1);
        fixture.announce(node, at(1, 4000), 1, true);
    }
    let found = fixture.questions();
    assert_eq!(found.len(), 4096);
    assert_eq!(fixture.questions(), NONE);
}
