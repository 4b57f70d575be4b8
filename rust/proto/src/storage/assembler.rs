//! Reassembly of out-of-order segments (RFC 9293 section 3.4).

use std::collections::VecDeque;

use crate::wire::sack::{MAX_BLOCKS, SackBlock, SackBlocks};
use crate::wire::seq::SeqNumber;

/// Segments shorter than this are appended to the one before them, up to [`BLOCK`] bytes.
const SMALL: usize = 512;
/// Longest segment that others are appended to, bytes.
const BLOCK: usize = 4096;
/// Slack of the memory bound: the cost may exceed twice the stored bytes by this much. Only segments shorter
/// than their own overhead come near it.
const SLACK: usize = 64 * 1024;
/// Overhead of an allocation, and the smallest allocation, bytes.
const ALLOCATION: usize = 16;

/// A stored segment; stored segments are ascending and disjoint.
#[derive(Debug)]
struct Segment {
    seq: SeqNumber,
    bytes: Vec<u8>,
}

impl Segment {
    fn end(&self) -> SeqNumber {
        self.seq + self.bytes.len()
    }

    /// Memory used, bytes.
    fn cost(&self) -> usize {
        cost(self.bytes.capacity())
    }
}

/// Memory used by a segment whose buffer has this capacity, bytes.
fn cost(capacity: usize) -> usize {
    size_of::<Segment>() + ALLOCATION + capacity.max(ALLOCATION)
}

/// Segments beyond `rcv_nxt`, bounded in number and memory.
#[derive(Debug, Default)]
pub struct Assembler {
    segments: VecDeque<Segment>,
    bytes: usize,
    cost: usize,
}

impl Assembler {
    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Segments stored.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Bytes stored.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory used by them, bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether another segment of `len` bytes would exceed the segment count or the memory bound.
    pub fn is_full(&self, len: usize, max_segments: usize) -> bool {
        self.segments.len() >= max_segments || self.cost + cost(len) > 2 * (self.bytes + len) + SLACK
    }

    /// Stores the part of a segment that is not held yet; held bytes are not overwritten. All sequence
    /// numbers must lie within 2^31 of each other. Returns whether anything was stored: `false` for a
    /// duplicate, and when there is no room ([`Self::is_full`]).
    pub fn insert(&mut self, seq: SeqNumber, bytes: &[u8], max_segments: usize) -> bool {
        let mut seq = seq;
        let mut rest = bytes;
        // The common case: the segment continues or follows the highest one.
        let mut at = if self.segments.back().is_none_or(|last| last.end() <= seq) {
            self.segments.len()
        } else {
            self.segments.partition_point(|segment| segment.end() <= seq)
        };
        let mut is_new = false;
        while !rest.is_empty() {
            let next = self.segments.get(at).map(|segment| (segment.seq, segment.end()));
            let free = match next {
                Some((start, _)) => start.bytes_since(seq).unwrap_or(0).min(rest.len()),
                None => rest.len(),
            };
            if free > 0 {
                if !self.append_to_previous(at, seq, &rest[..free]) {
                    if self.is_full(free, max_segments) {
                        return is_new;
                    }
                    let segment = Segment { seq, bytes: rest[..free].to_vec() };
                    self.cost += segment.cost();
                    self.segments.insert(at, segment);
                    at += 1;
                }
                self.bytes += free;
                is_new = true;
            }
            let Some((_, end)) = next else { break };
            let skip = end.bytes_since(seq).unwrap_or(0).min(rest.len());
            rest = &rest[skip.max(free)..];
            seq += skip.max(free);
            at += 1;
        }
        is_new
    }

    /// Appends a small segment to the one before `at` if it is contiguous with it.
    fn append_to_previous(&mut self, at: usize, seq: SeqNumber, bytes: &[u8]) -> bool {
        let before = at.checked_sub(1).and_then(|at| self.segments.get_mut(at));
        let Some(before) = before.filter(|before| {
            bytes.len() < SMALL && before.end() == seq && before.bytes.len() + bytes.len() <= BLOCK
        }) else {
            return false;
        };
        self.cost -= before.cost();
        before.bytes.extend_from_slice(bytes);
        self.cost += before.cost();
        true
    }

    /// Removes and returns the next segment that starts at or before `rcv_nxt`, without the bytes before it.
    /// Segments that lie entirely before it are dropped.
    pub fn pop(&mut self, rcv_nxt: SeqNumber) -> Option<Vec<u8>> {
        loop {
            let first = self.segments.front()?;
            if first.seq > rcv_nxt {
                return None;
            }
            let mut segment = self.segments.pop_front()?;
            self.bytes -= segment.bytes.len();
            self.cost -= segment.cost();
            let known = rcv_nxt.bytes_since(segment.seq).unwrap_or(0);
            if known < segment.bytes.len() {
                segment.bytes.drain(..known);
                return Some(segment.bytes);
            }
        }
    }

    /// The ranges held, in ascending order, with adjacent segments merged.
    pub fn ranges(&self) -> Vec<SackBlock> {
        let mut ranges: Vec<SackBlock> = Vec::new();
        for segment in &self.segments {
            match ranges.last_mut() {
                Some(last) if last.right_edge == segment.seq => last.right_edge = segment.end(),
                Some(_) | None => {
                    ranges.push(SackBlock { left_edge: segment.seq, right_edge: segment.end() });
                }
            }
        }
        ranges
    }

    /// The four highest ranges.
    pub fn highest_ranges(&self) -> SackBlocks {
        let mut found: Vec<SackBlock> = Vec::with_capacity(MAX_BLOCKS);
        for segment in self.segments.iter().rev() {
            let is_full = found.len() == MAX_BLOCKS;
            match found.last_mut() {
                Some(last) if last.left_edge == segment.end() => last.left_edge = segment.seq,
                Some(_) if is_full => break,
                Some(_) | None => {
                    found.push(SackBlock { left_edge: segment.seq, right_edge: segment.end() });
                }
            }
        }
        SackBlocks::highest(found.into_iter().rev())
    }

    /// Drops all segments.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_buffer_refuses_new_ranges_and_keeps_held_ones() {
        let mut assembler = Assembler::default();
        assert!(assembler.insert(SeqNumber::new(10), b"ab", 1));
        assert!(!assembler.insert(SeqNumber::new(20), b"cd", 1));
        assert!(!assembler.insert(SeqNumber::new(10), b"ab", 1));
        assert_eq!(assembler.pop(SeqNumber::new(10)), Some(b"ab".to_vec()));
        assert!(assembler.is_empty());
    }

    /// Every other byte, each in a segment of its own.
    #[test]
    fn single_byte_segments_are_refused_at_the_memory_bound() {
        let mut assembler = Assembler::default();
        for n in 0..100_000 {
            assembler.insert(SeqNumber::new(2 * n), b"x", usize::MAX);
        }
        assert!(assembler.cost() <= SLACK + 2 * assembler.bytes(), "{}", assembler.cost());
        assert!((500..2000).contains(&assembler.len()), "{}", assembler.len());
        // Larger segments still fit.
        assert!(assembler.insert(SeqNumber::new(1 << 20), &[7; 1152], usize::MAX));
    }

    #[test]
    fn contiguous_small_segments_are_merged() {
        let mut assembler = Assembler::default();
        for n in 0..4096 {
            assert!(assembler.insert(SeqNumber::new(10 + n), b"x", usize::MAX));
        }
        assert_eq!(assembler.len(), 1);
        assert!(assembler.cost() <= 2 * assembler.bytes() + ALLOCATION);
        assert!(assembler.insert(SeqNumber::new(10 + 4096), b"x", usize::MAX));
        assert_eq!(assembler.len(), 2, "blocks are bounded");
        let first = assembler.pop(SeqNumber::new(10)).map(|bytes| bytes.len());
        assert_eq!((first, assembler.bytes()), (Some(4096), 1));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_of_bytes(
            base in any::<u32>(),
            segments in proptest::collection::vec((0..400usize, 1..60usize), 1..40),
            reached in 0..450usize,
        ) {
            let base = SeqNumber::new(base);
            let mut assembler = Assembler::default();
            let mut model: BTreeMap<usize, u8> = BTreeMap::new();
            for (turn, (at, len)) in segments.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|i| (turn * 31 + i) as u8).collect();
                let is_new = (at..at + len).any(|i| !model.contains_key(&i));
                prop_assert_eq!(assembler.insert(base + at, &bytes, usize::MAX), is_new);
                for (i, byte) in bytes.into_iter().enumerate() {
                    model.entry(at + i).or_insert(byte);
                }
                prop_assert_eq!(assembler.bytes(), model.len());
                let cost: usize = assembler.segments.iter().map(Segment::cost).sum();
                prop_assert_eq!(assembler.cost(), cost);
            }
            let ranges = assembler.ranges();
            let covered: usize =
                ranges.iter().map(|r| r.right_edge.bytes_since(r.left_edge).unwrap()).sum();
            prop_assert_eq!(covered, model.len());
            prop_assert!(ranges.windows(2).all(|w| w[0].right_edge < w[1].left_edge));
            let highest = assembler.highest_ranges();
            prop_assert_eq!(highest.as_slice(), &ranges[ranges.len().saturating_sub(4)..]);

            let mut nxt = base + reached;
            let mut at = reached;
            while let Some(bytes) = assembler.pop(nxt) {
                for byte in &bytes {
                    prop_assert_eq!(model.get(&at), Some(byte));
                    at += 1;
                }
                nxt += bytes.len();
            }
            prop_assert!(!model.contains_key(&at));
            assembler.clear();
            prop_assert_eq!(assembler.cost(), 0);
        }
    }
}
