//! Stream packets held until their peer's dialect is known, bounded per peer and in total.

use std::collections::BTreeMap;

use crate::wire::addr::NodeId;

/// Packets and bytes per peer, and bytes in total. Even an authenticated peer may be hostile.
const MAX_PACKETS: usize = 32;
const MAX_BYTES_PER_PEER: usize = 256 << 10;
const MAX_BYTES: usize = 8 << 20;

/// Held packets by peer, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: BTreeMap<NodeId, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Early {
    /// Holds a packet. `false` when there is no room.
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

    /// Removes and returns the packets of a peer.
    pub(super) fn take(&mut self, node: NodeId) -> Vec<Vec<u8>> {
        let taken = self.waiting.remove(&node).unwrap_or_default();
        self.bytes -= sum(&taken);
        taken
    }

    /// Drops the packets of removed peers.
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
    fn packets_are_bounded_per_peer_and_in_total() {
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
