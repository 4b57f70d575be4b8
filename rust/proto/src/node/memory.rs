//! What the node holds for readers that have not read it, and for gaps that are not filled: bounded in
//! all and for each peer, so that nobody who fills windows without end harms others.

use std::collections::HashMap;

use crate::{transport::Supply, wire::addr::NodeId};

/// Octets that a connection's count may be off, so that not every packet is accounted for.
const GRAIN: usize = 16 * 1024;

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Memory {
    total: usize,
    by_peer: HashMap<NodeId, usize>,
}

impl Memory {
    /// Octets held.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// A connection with `peer` that was `known` to hold so much now holds `held`.
    pub(super) fn update(&mut self, peer: NodeId, known: &mut usize, held: usize) {
        if known.abs_diff(held) < GRAIN && held > 0 || *known == held {
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

    /// What a connection with `peer` may still take of `limit` octets, of which a peer gets a quarter.
    /// Windows stop growing halfway.
    pub(super) fn supply(&self, peer: NodeId, limit: usize) -> Supply {
        if self.total < limit / 8 {
            return Supply::Ample;
        }
        let of_peer = self.by_peer.get(&peer).copied().unwrap_or(0);
        if self.total >= limit || of_peer >= limit / 4 {
            Supply::Exhausted
        } else if self.total >= limit / 2 || of_peer >= limit / 8 {
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

    #[test]
    fn a_peer_gets_a_quarter_and_all_together_the_whole() {
        let mut memory = Memory::default();
        let mut known = [0; 8];
        for (n, (held, expected)) in [
            (LIMIT / 8 - 1, Supply::Ample),
            (LIMIT / 8, Supply::Scarce),
            (LIMIT / 4 - 1, Supply::Scarce),
            (LIMIT / 4, Supply::Exhausted),
        ]
        .into_iter()
        .enumerate()
        {
            known[0] = 0;
            memory = Memory::default();
            memory.update(NodeId(1), &mut known[0], held);
            assert_eq!(memory.supply(NodeId(1), LIMIT), expected, "{n}");
            assert_eq!(memory.supply(NodeId(2), LIMIT), Supply::Ample, "{n}");
        }
        for peer in 2..5 {
            memory.update(NodeId(peer), &mut known[peer as usize], LIMIT / 4);
        }
        assert_eq!(memory.supply(NodeId(9), LIMIT), Supply::Exhausted);
        for peer in 1..5 {
            let known = if peer == 1 { &mut known[0] } else { &mut known[peer as usize] };
            memory.update(NodeId(peer), known, 0);
        }
        assert_eq!((memory.total(), memory.by_peer.len()), (0, 0));
    }

    #[test]
    fn small_changes_are_not_accounted_for_but_the_end_is() {
        let mut memory = Memory::default();
        let mut known = 0;
        memory.update(NodeId(1), &mut known, GRAIN - 1);
        assert_eq!(memory.total(), 0);
        memory.update(NodeId(1), &mut known, GRAIN);
        memory.update(NodeId(1), &mut known, 1);
        assert_eq!(memory.total(), GRAIN);
        memory.update(NodeId(1), &mut known, 0);
        assert_eq!(memory.total(), 0);
    }
}
