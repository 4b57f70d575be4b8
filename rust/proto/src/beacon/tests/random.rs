//! Whatever arrives: nothing panics, and no address that has proven nothing is sent more than it may be.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A small generator of numbers; its seed is in every message of a failure.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn node(&mut self) -> u32 {
        u32::try_from(self.below(8)).unwrap()
    }

    fn endpoint(&mut self) -> SocketAddr {
        at(u8::try_from(1 + self.below(6)).unwrap(), u16::try_from(4000 + self.below(2)).unwrap())
    }

    fn message(&mut self) -> Vec<u8> {
        let (node, other) = (self.node(), self.node());
        let key = (self.below(2) == 0).then(|| identity(u8::try_from(1 + node % 3).unwrap()).public_key());
        let mut bytes = match self.below(8) {
            0..=2 => discover(node, key),
            3 => request(node, other),
            4 | 5 => relay(node, other, &vec![0x50; usize::try_from(self.below(1400)).unwrap()]),
            6 => emitted(&Message::Sync { beacon: 9, nodes: &node.to_be_bytes() }),
            _ => (0..self.below(120)).map(|_| self.byte()).collect(),
        };
        if self.below(4) == 0 {
            bytes.extend(b"PILV");
            bytes.extend([self.byte(); 72]);
        }
        if self.below(8) == 0 && !bytes.is_empty() {
            let at = usize::try_from(self.below(bytes.len() as u64)).unwrap();
            bytes[at] ^= 1 << self.below(8);
        }
        bytes
    }
}

#[test]
fn nobody_is_sent_more_than_it_sent_unless_it_proved_its_address() {
    for seed in 1..=30 {
        let (mut random, mut fixture) = (Random(seed), Fixture::new());
        let mut credit = BTreeMap::<SocketAddr, i64>::new();
        let mut proven = BTreeSet::new();
        let begin = fixture.now;
        for _ in 0..3000 {
            fixture.now += Duration::from_millis(random.below(40));
            let from = random.endpoint();
            // Some nodes are ours, and return cookies.
            if random.below(50) == 0 {
                let node = random.node();
                fixture.announce(
                    node.max(1),
                    from,
                    u8::try_from(1 + node % 3).unwrap(),
                    random.below(2) == 0,
                );
                proven.insert(from);
            }
            let bytes = random.message();
            *credit.entry(from).or_default() += i64::try_from(bytes.len()).unwrap() + 28;
            for (to, sent) in fixture.send(from, &bytes) {
                // What a reply is longer than the shortest Discover.
                let excess = if sent[0] == 0x02 { 3 } else { 0 };
                *credit.entry(to).or_default() += excess - i64::try_from(sent.len()).unwrap() - 28;
            }
        }
        let challenges = 2 + i64::try_from(fixture.now.saturating_since(begin).as_secs() / 20).unwrap();
        for (address, left) in credit.into_iter().filter(|(address, _)| !proven.contains(address)) {
            // Each of the eight ids may be claimed at an address.
            assert!(left >= -36 * 8 * challenges, "seed {seed}: {address} has {left}");
        }
    }
}
