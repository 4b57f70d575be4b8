//! Selective acknowledgement, carried as the payload of a pure ACK
//! (`docs/reference/protocol/packet.md#sack`).
//!
//! ```text
//!  0      4       5          9           13
//! +------+-------+----------+-----------+ ...
//! |"SACK"| count | left u32 | right u32 |      count 1..4, right exclusive
//! +------+-------+----------+-----------+ ...
//! ```
//!
//! Nothing in the header distinguishes such a payload from data, so data that looks like SACK must be split
//! before it is sent ([`look_alike_len`]), and an arriving payload counts as SACK only when its length is
//! exact and every block covers sent data ([`parse_exact`]).

use super::{ParseError, seq::SeqNumber};

/// Upper bound of blocks in one acknowledgement.
pub const MAX_BLOCKS: usize = 4;
/// Longest encoding, bytes.
pub const MAX_LEN: usize = PREFIX_LEN + MAX_BLOCKS * BLOCK_LEN;

const MAGIC: [u8; 4] = *b"SACK";
const PREFIX_LEN: usize = 5;
const BLOCK_LEN: usize = 8;

/// A range of sequence numbers that the receiver holds beyond the cumulative acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlock {
    /// First sequence number held.
    pub left_edge: SeqNumber,
    /// The sequence number after the last one held.
    pub right_edge: SeqNumber,
}

/// Up to four blocks, without allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; MAX_BLOCKS],
    len: usize,
}

impl SackBlocks {
    /// Appends a block; a fifth one is ignored.
    pub fn push(&mut self, block: SackBlock) {
        if let Some(slot) = self.blocks.get_mut(self.len) {
            *slot = block;
            self.len += 1;
        }
    }

    /// The blocks in order.
    pub fn as_slice(&self) -> &[SackBlock] {
        &self.blocks[..self.len]
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The four highest of ascending, disjoint `ranges`.
    pub fn highest<I>(ranges: I) -> Self
    where
        I: DoubleEndedIterator<Item = SackBlock>,
    {
        let mut kept = Self::default();
        for block in ranges.rev().take(MAX_BLOCKS) {
            kept.push(block);
        }
        kept.blocks[..kept.len].reverse();
        kept
    }

    /// Length of the encoding, bytes.
    pub fn buffer_len(&self) -> usize {
        PREFIX_LEN + self.len * BLOCK_LEN
    }

    /// Writes the encoding to the front of `bytes` and returns its length; `None` when there is no
    /// block or too little room.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<usize> {
        let len = self.buffer_len();
        let out = bytes.get_mut(..len)?;
        if self.is_empty() {
            return None;
        }
        let (prefix, blocks) = out.split_at_mut(PREFIX_LEN);
        prefix[..4].copy_from_slice(&MAGIC);
        prefix[4] = u8::try_from(self.len).ok()?;
        for (slot, block) in blocks.chunks_exact_mut(BLOCK_LEN).zip(self.as_slice()) {
            slot[..4].copy_from_slice(&block.left_edge.value().to_be_bytes());
            slot[4..].copy_from_slice(&block.right_edge.value().to_be_bytes());
        }
        Some(len)
    }

    /// Parses blocks as leniently as legacy receivers: trailing bytes are ignored and edges are not checked.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], [`ParseError::UnknownType`] without the magic, or
    /// [`ParseError::Invalid`] for a count outside 1..=4.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
            return Err(ParseError::Truncated);
        };
        if prefix[..4] != MAGIC {
            return Err(ParseError::UnknownType);
        }
        let count = usize::from(prefix[4]);
        if count == 0 || count > MAX_BLOCKS {
            return Err(ParseError::Invalid);
        }
        let bytes = rest.get(..count * BLOCK_LEN).ok_or(ParseError::Truncated)?;
        let mut blocks = Self::default();
        for block in bytes.chunks_exact(BLOCK_LEN) {
            let number = |at: usize| {
                SeqNumber::new(u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]))
            };
            blocks.push(SackBlock { left_edge: number(0), right_edge: number(4) });
        }
        Ok(blocks)
    }
}

/// The blocks of `payload` if it is SACK: its length is exact and each block covers sent data (`left < right
/// <= snd_nxt`).
pub fn parse_exact(payload: &[u8], snd_nxt: SeqNumber) -> Option<SackBlocks> {
    let blocks = SackBlocks::parse(payload).ok()?;
    let is_ours = |b: &SackBlock| b.left_edge < b.right_edge && b.right_edge <= snd_nxt;
    (payload.len() == blocks.buffer_len() && blocks.as_slice().iter().all(is_ours)).then_some(blocks)
}

/// The length to which a data segment with this payload must be shortened so that no receiver parses it as
/// SACK; `None` if it is safe. The first part is shorter than the magic, and the rest starts inside it.
pub fn look_alike_len(payload: &[u8]) -> Option<usize> {
    SackBlocks::parse(payload).ok().map(|_| 2)
}
