//! Receive queue: data that arrived in order and was not read yet.

use std::collections::VecDeque;

use super::{LARGE_CHUNK, SMALL_CHUNK};

/// A byte queue.
#[derive(Debug, Default)]
pub struct RecvQueue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that were already read.
    start: usize,
    len: usize,
    spare: Option<Vec<u8>>,
    /// Capacity of all chunks, bytes.
    allocated: usize,
}

impl RecvQueue {
    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory used, including recycled chunks, bytes.
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn append(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|chunk| chunk.len() == chunk.capacity()) {
                let chunk = self.fresh_chunk();
                self.chunks.push_back(chunk);
            }
            let Some(chunk) = self.chunks.back_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(chunk.capacity() - chunk.len()));
            chunk.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The unread bytes, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.start;
        self.chunks.iter().map(move |chunk| &chunk[core::mem::take(&mut skip)..])
    }

    /// Drops the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        self.start += n;
        while let Some(chunk) = self.chunks.front() {
            if self.start < chunk.len() {
                break;
            }
            self.start -= chunk.len();
            let Some(mut chunk) = self.chunks.pop_front() else { return };
            let freed = if chunk.capacity() >= LARGE_CHUNK {
                chunk.clear();
                self.spare.replace(chunk)
            } else {
                Some(chunk)
            };
            self.allocated -= freed.map_or(0, |chunk| chunk.capacity());
        }
    }

    /// Frees recycled memory; called when the flow pauses.
    pub fn trim(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Moves bytes into `out` and returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let n = slice.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&slice[..n]);
            done += n;
        }
        self.consume(done);
        done
    }

    fn fresh_chunk(&mut self) -> Vec<u8> {
        if let Some(chunk) = self.spare.take() {
            return chunk;
        }
        let size = if self.len <= SMALL_CHUNK { SMALL_CHUNK } else { LARGE_CHUNK };
        let chunk = Vec::with_capacity(size);
        self.allocated += chunk.capacity();
        chunk
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_plain_queue(
            steps in proptest::collection::vec((0..150_000usize, 0..150_000usize), 1..24)
        ) {
            let mut queue = RecvQueue::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for (write, read) in steps {
                let bytes: Vec<u8> = (0..write).map(|_| { next = next.wrapping_add(3); next }).collect();
                queue.append(&bytes);
                model.extend(&bytes);
                let mut out = vec![0; read];
                let n = queue.read(&mut out);
                prop_assert_eq!(n, read.min(model.len()));
                prop_assert!(out[..n].iter().copied().eq(model.drain(..n)));
                let chunks = queue.chunks.iter().chain(&queue.spare);
                prop_assert_eq!(queue.allocated(), chunks.map(Vec::capacity).sum::<usize>());
                prop_assert_eq!(queue.slices().map(<[u8]>::len).sum::<usize>(), model.len());
            }
            queue.consume(usize::MAX);
            queue.trim();
            prop_assert!(queue.is_empty() && queue.chunks.is_empty() && queue.spare.is_none());
            prop_assert_eq!(queue.allocated(), 0);
        }
    }
}
