//! Accounting of buffered data: unread, out of order, or unacknowledged. It is bounded in total and per peer,
//! so that a peer that fills windows or never acknowledges cannot starve others.

use std::collections::HashMap;

use crate::{transport::Supply, wire::addr::NodeId};

/// A peer may hold at most 1/SHARE of the free memory. A single peer then gets at most a quarter of the
/// total, `n` peers get `n / (n + 3)` of it, and a new peer always finds room.
const SHARE: usize = 3;

/// Bytes held, in total and per peer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    total: usize,
    by_peer: HashMap<NodeId, usize>,
}

impl Memory {
    /// Bytes held.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Updates the bytes held by a connection with `peer` from `known` to `held`.
    pub(super) fn update(&mut self, peer: NodeId, known: &mut usize, held: usize) {
        if *known == held {
            return;
        }
        self.total = self.total - *known + held;
        let of_peer = self.by_peer.entry(peer).or_default();
        *of_peer = *of_peer - *known + held;
        if *of_peer == 0 {
            self.by_peer.remove(&peer);
        }
        *known = held;
    }

    /// Whether a connection with `peer` may hold more of `limit` bytes. Windows and buffers stop growing at
    /// half of the peer's share.
    pub(super) fn supply(&self, peer: NodeId, limit: usize) -> Supply {
        if self.total < limit / 8 {
            return Supply::Ample;
        }
        let of_peer = self.by_peer.get(&peer).copied().unwrap_or(0);
        let free = limit.saturating_sub(self.total);
        if SHARE * of_peer >= free {
            Supply::Exhausted
        } else if 2 * SHARE * of_peer >= free {
            Supply::Scarce
        } else {
            Supply::Ample
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    /// Bytes held by a peer that takes 1,000 bytes whenever it may, and bytes held when memory became scarce.
    fn fill(memory: &mut Memory, peer: u32) -> (usize, usize) {
        let (mut known, mut scarce) = (0, 0);
        loop {
            match memory.supply(NodeId(peer), LIMIT) {
                Supply::Exhausted => return (known, scarce),
                Supply::Scarce if scarce == 0 => scarce = known,
                Supply::Scarce | Supply::Ample => {}
            }
            let held = known + 1000;
            memory.update(NodeId(peer), &mut known, held);
        }
    }

    #[test]
    fn a_peer_gets_a_third_of_the_free_memory_and_a_new_peer_finds_room() {
        let mut memory = Memory::default();
        let (held, scarce) = fill(&mut memory, 1);
        assert!((LIMIT / 4..LIMIT / 4 + 1000).contains(&held), "{held}");
        assert!((LIMIT / 7..LIMIT / 7 + 1000).contains(&scarce), "{scarce}");
        for peer in 2..20 {
            assert!(fill(&mut memory, peer).0 > 0, "{peer}");
        }
        assert!(memory.total() < LIMIT);
        assert_eq!(memory.supply(NodeId(99), LIMIT), Supply::Ample);
    }

    #[test]
    fn released_memory_leaves_no_entries() {
        let mut memory = Memory::default();
        let mut known = 0;
        for held in [1, 70_000, 3, 0] {
            memory.update(NodeId(1), &mut known, held);
            assert_eq!((memory.total(), known), (held, held));
        }
        assert!(memory.by_peer.is_empty());
    }
}
