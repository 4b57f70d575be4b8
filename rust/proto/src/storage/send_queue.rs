//! Send queue: data written and not acknowledged, addressed by offset.

use std::collections::VecDeque;

use super::{LARGE_CHUNK, SMALL_CHUNK};

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Chunk {
    fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), filled: 0 }
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

/// A byte queue. Offset 0 is the first byte not released yet.
#[derive(Debug, Default)]
pub struct SendQueue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that were already released.
    start: usize,
    len: usize,
    spare: Option<Chunk>,
    /// Capacity of all chunks, bytes.
    allocated: usize,
}

impl SendQueue {
    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory used, bytes.
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends at most `limit` bytes and returns how many.
    pub fn write(&mut self, bytes: &[u8], limit: usize) -> usize {
        let total = bytes.len().min(limit);
        let mut written = 0;
        while written < total {
            let space = self.reserve(total - written);
            let n = space.len();
            space.copy_from_slice(&bytes[written..written + n]);
            self.commit(n);
            written += n;
        }
        total
    }

    /// A buffer of 1 to `max` bytes behind the data, to be filled and then appended by [`Self::commit`].
    /// Empty only if `max` is 0.
    pub fn reserve(&mut self, max: usize) -> &mut [u8] {
        if max == 0 {
            return &mut [];
        }
        if self.chunks.back().is_none_or(|chunk| chunk.room() == 0) {
            let chunk = self.fresh_chunk();
            self.chunks.push_back(chunk);
        }
        match self.chunks.back_mut() {
            Some(chunk) => {
                let n = chunk.room().min(max);
                &mut chunk.bytes[chunk.filled..chunk.filled + n]
            }
            None => &mut [],
        }
    }

    /// Appends the first `n` bytes of the last [`Self::reserve`].
    pub fn commit(&mut self, n: usize) {
        if let Some(chunk) = self.chunks.back_mut() {
            let n = n.min(chunk.room());
            chunk.filled += n;
            self.len += n;
        }
    }

    /// Copies `out.len()` bytes starting at `offset`. Returns `false` if not all of them are held.
    #[must_use]
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> bool {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut skip = self.start + offset;
        let mut done = 0;
        for chunk in &self.chunks {
            if skip >= chunk.filled {
                skip -= chunk.filled;
                continue;
            }
            let piece = &chunk.bytes[skip..chunk.filled];
            let n = piece.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&piece[..n]);
            done += n;
            skip = 0;
            if done == out.len() {
                break;
            }
        }
        done == out.len()
    }

    /// Drops the first `n` bytes.
    pub fn release(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.start += n;
        while let Some(chunk) = self.chunks.front() {
            if self.start < chunk.filled || (chunk.filled < chunk.bytes.len() && self.len > 0) {
                break;
            }
            self.start -= chunk.filled;
            self.recycle();
        }
        if self.len == 0 {
            self.start = 0;
            self.allocated -= self.spare.take().map_or(0, |chunk| chunk.bytes.len());
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn recycle(&mut self) {
        let Some(mut chunk) = self.chunks.pop_front() else { return };
        let freed = if chunk.bytes.len() == LARGE_CHUNK {
            chunk.filled = 0;
            self.spare.replace(chunk)
        } else {
            Some(chunk)
        };
        self.allocated -= freed.map_or(0, |chunk| chunk.bytes.len());
    }

    fn fresh_chunk(&mut self) -> Chunk {
        let spare = if self.chunks.is_empty() { None } else { self.spare.take() };
        spare.unwrap_or_else(|| {
            let size = if self.chunks.is_empty() { SMALL_CHUNK } else { LARGE_CHUNK };
            self.allocated += size;
            Chunk::new(size)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_drained_queue_holds_no_memory() {
        let mut queue = SendQueue::default();
        assert_eq!(queue.write(&[7; 300_000], usize::MAX), 300_000);
        queue.release(300_000);
        assert!(queue.is_empty() && queue.chunks.is_empty() && queue.spare.is_none());
        assert_eq!(queue.allocated(), 0);
    }

    #[test]
    fn copying_beyond_the_end_is_refused() {
        let mut queue = SendQueue::default();
        queue.write(b"abc", 2);
        assert!(!queue.copy_to(0, &mut [0; 3]));
        assert!(!queue.copy_to(usize::MAX, &mut [0; 1]));
        let mut out = [0; 2];
        assert!(queue.copy_to(0, &mut out));
        assert_eq!(&out, b"ab");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Release(usize),
        Copy(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..200_000usize).prop_map(Step::Write),
            (0..200_000usize).prop_map(Step::Release),
            (0..200_000usize, 0..5_000usize).prop_map(|(at, n)| Step::Copy(at, n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_plain_queue(steps in proptest::collection::vec(step(), 1..24)) {
            let mut queue = SendQueue::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for step in steps {
                match step {
                    Step::Write(n) => {
                        let bytes: Vec<u8> = (0..n).map(|_| { next = next.wrapping_add(1); next }).collect();
                        prop_assert_eq!(queue.write(&bytes, usize::MAX), n);
                        model.extend(bytes);
                    }
                    Step::Release(n) => {
                        queue.release(n);
                        model.drain(..n.min(model.len()));
                    }
                    Step::Copy(at, n) => {
                        let mut out = vec![0; n];
                        let held = at + n <= model.len();
                        prop_assert_eq!(queue.copy_to(at, &mut out), held);
                        if held {
                            prop_assert!(out.iter().eq(model.range(at..at + n)));
                        }
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                let chunks = queue.chunks.iter().chain(&queue.spare);
                prop_assert_eq!(queue.allocated(), chunks.map(|chunk| chunk.bytes.len()).sum::<usize>());
            }
        }
    }
}
