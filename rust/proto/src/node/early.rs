//! Stream packets of peers whose transport is not known yet, bounded for each peer and in all.

use std::collections::BTreeMap;

use crate::wire::addr::NodeId;

/// Packets and bytes of one peer, and bytes of all. A proven peer may still be hostile.
const MAX_PACKETS: usize = 32;
const MAX_BYTES_PER_PEER: usize = 256 << 10;
const MAX_BYTES: usize = 8 << 20;

/// Packets in the order of their arrival, by peer.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: BTreeMap<NodeId, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Early {
    /// Keeps a packet. `false` when there is no room for it.
    pub(super) fn keep(&mut self, node: NodeId, packet: &[u8]) -> bool {
        let (count, held) = self.waiting.get(&node).map_or((0, 0), |held| (held.len(), sum(held)));
        let has_room = count < MAX_PACKETS
            && held + packet.len() <= MAX_BYTES_PER_PEER
            && self.bytes + packet.len() <= MAX_BYTES;
        if has_room {
            self.bytes += packet.len();
            self.waiting.entry(node).or_default().push(packet.to_vec());
        }
        has_room
    }

    /// What waited for a peer; nothing does any more.
    pub(super) fn take(&mut self, node: NodeId) -> Vec<Vec<u8>> {
        let taken = self.waiting.remove(&node).unwrap_or_default();
        self.bytes -= sum(&taken);
        taken
    }

    /// Forgets the packets of peers that are gone.
    pub(super) fn retain(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.waiting.retain(|node, _| is_known(*node));
        self.bytes = self.waiting.values().map(|held| sum(held)).sum();
    }
}

fn sum(packets: &[Vec<u8>]) -> usize {
    packets.iter().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(early: &mut Early, node: u32, len: usize) -> usize {
        (0..1000).take_while(|_| early.keep(NodeId(node), &vec![0; len])).count()
    }

    #[test]
    fn packets_are_bounded_for_each_peer_and_in_all() {
        let mut early = Early::default();
        assert_eq!(kept(&mut early, 1, 1), MAX_PACKETS);
        assert_eq!(kept(&mut early, 2, 60_000), 4);
        assert_eq!(early.take(NodeId(2)).len(), 4);
        assert_eq!(early.bytes, MAX_PACKETS);
        for node in 3..1000 {
            kept(&mut early, node, 60_000);
        }
        assert!(early.bytes <= MAX_BYTES && early.bytes > MAX_BYTES - 60_000);
        early.retain(|node| node == NodeId(1));
        assert_eq!(early.bytes, MAX_PACKETS);
        assert_eq!((early.take(NodeId(1)).len(), early.bytes), (MAX_PACKETS, 0));
        assert_eq!(early.take(NodeId(1)), Vec::<Vec<u8>>::new());
    }
}
