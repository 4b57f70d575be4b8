//! Frames that wait to be relayed: deficit round robin (Shreedhar and Varghese, 1996) between pairs of sender
//! and destination, with sparse pairs first as in RFC 8290 section 4.
//!
//! Each pair may send a quantum in a round. A pair of which little waits and little was sent in the current
//! round is *sparse*: its frames go first, so that a thin flow waits for one batch, not for a batch of each
//! greedy flow. While both kinds wait, each gets half of the bytes.
//!
//! Frames are kept as they will be sent, in batches of equal size for one destination (GSO), so that nothing
//! is copied when they leave. A buffer that the kernel has filled with frames of one pair (GRO) is such a batch
//! as it is, so those are not copied at all.

#[cfg(test)]
mod tests;

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::wire::addr::NodeId;

/// Bytes that a pair may send in one round: one full batch.
const QUANTUM: i64 = MAX_BATCH as i64;
/// Bytes of a pair that may go first in one round.
const SPARSE: i64 = 4096;
/// Most bytes of a batch: what one UDP datagram to be segmented may hold.
const MAX_BATCH: usize = 65_507;
/// Most segments of a batch.
const MAX_SEGMENTS: usize = 64;
/// Bytes that may wait for one pair, and for all; batches count with an overhead.
const MAX_BYTES_OF_PAIR: usize = 256 << 10;
const MAX_BYTES: usize = 64 << 20;
const OVERHEAD: usize = 256;
/// Pairs with frames that wait.
const MAX_ACTIVE: usize = 16_384;
/// Pairs without frames that are remembered, because they may have used up their round.
const MAX_IDLE: usize = 1024;
/// Pairs with fewer bytes than this are not looked at when the greediest is sought.
const GREEDY: usize = 4096;
/// Buffers kept for further batches: those for copies, and those that the kernel fills.
const MAX_SPARE: usize = 64;
const MAX_WHOLE: usize = 1024;
/// Bytes of a buffer that is filled by the kernel, and those in it that make it a batch, unless so much waits
/// in all. So buffers take four times what waits at most.
pub(super) const BUFFER_LEN: usize = 1 << 16;
const MIN_OWNED: usize = BUFFER_LEN / 4;
const MAX_OWNED: usize = MAX_BYTES / 4;

/// A pair of sender and destination.
pub(super) type PairKey = (NodeId, NodeId);

/// What happened to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queued {
    /// It waits.
    Waits,
    /// Too much of its pair waits already.
    PairFull,
    /// Too much waits in all, and no pair has more than this one.
    Full,
}

/// Segments of equal length for one destination; the last may be shorter.
#[derive(Debug)]
struct Batch {
    to: SocketAddr,
    /// Begins with the segments.
    data: Vec<u8>,
    /// Bytes of all segments.
    len: usize,
    /// Bytes that were sent already.
    sent: usize,
    segment: usize,
    /// A shorter segment ends it.
    is_closed: bool,
}

impl Batch {
    fn takes(&self, to: SocketAddr, len: usize) -> bool {
        !self.is_closed
            && self.to == to
            && len <= self.segment
            && self.len + len <= MAX_BATCH
            && self.len < self.segment * MAX_SEGMENTS
    }

    fn left(&self) -> usize {
        self.len - self.sent
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Idle,
    Sparse,
    Bulk,
}

#[derive(Debug)]
struct Pair {
    key: PairKey,
    batches: VecDeque<Batch>,
    /// Bytes that wait, with overhead.
    bytes: usize,
    /// What it may still send in `round`; negative if it sent more than its quantum.
    deficit: i64,
    round: u64,
    place: Place,
    /// Whether the list of sparse pairs has it, where it may stay although it is not sparse any more.
    is_listed_sparse: bool,
    /// Whether the list of idle pairs has it, where it may stay while it is active.
    is_listed_idle: bool,
}

impl Pair {
    fn new(key: PairKey) -> Self {
        Self {
            key,
            batches: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            // None yet.
            round: u64::MAX,
            place: Place::Idle,
            is_listed_sparse: false,
            is_listed_idle: false,
        }
    }

    /// Its first turn in a round. What it overdrew before is still charged; what it did not use is lost.
    fn begin_round(&mut self, round: u64) {
        if self.round != round {
            self.deficit = self.deficit.min(0) + QUANTUM;
            self.round = round;
        }
    }

    fn is_sparse(&self) -> bool {
        let used = QUANTUM - self.deficit;
        i64::try_from(self.bytes).is_ok_and(|waiting| used + waiting <= SPARSE)
    }
}

/// A batch that leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub(super) to: SocketAddr,
    pub(super) len: usize,
    pub(super) segment: usize,
}

/// All frames that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    by_key: BTreeMap<PairKey, usize>,
    pairs: Vec<Pair>,
    free: Vec<usize>,
    sparse: VecDeque<usize>,
    bulk: VecDeque<usize>,
    /// Those whose turn is in the next round.
    later: VecDeque<usize>,
    idle: VecDeque<usize>,
    /// Pairs with much, by the magnitude of what waits.
    greedy: BTreeSet<(u32, usize)>,
    round: u64,
    active: usize,
    bytes: usize,
    /// Bytes sent for sparse pairs since the others had a turn.
    sparse_sent: usize,
    spare: Vec<Vec<u8>>,
    /// Buffers of [`BUFFER_LEN`].
    whole: Vec<Vec<u8>>,
    /// How many of them nothing has needed since the last sweep.
    unneeded: usize,
    /// Frames dropped from pairs that had most.
    dropped_greedy: u64,
}

impl Queue {
    /// The place of a pair, for [`Self::push`] until anything is taken.
    pub(super) fn pair(&mut self, key: PairKey) -> usize {
        if let Some(index) = self.by_key.get(&key) {
            return *index;
        }
        let pair = Pair::new(key);
        let index = match self.free.pop() {
            Some(index) => {
                self.pairs[index] = pair;
                index
            }
            None => {
                self.pairs.push(pair);
                self.pairs.len() - 1
            }
        };
        self.by_key.insert(key, index);
        self.list_idle(index);
        index
    }

    /// Adds a frame, `head` and `frame` together, for a pair.
    pub(super) fn push(&mut self, index: usize, to: SocketAddr, head: &[u8], frame: &[u8]) -> Queued {
        let len = head.len() + frame.len();
        if self.pairs[index].bytes + len > MAX_BYTES_OF_PAIR {
            return Queued::PairFull;
        }
        if (self.bytes + len > MAX_BYTES && !self.drop_greediest(index))
            || (self.active >= MAX_ACTIVE && self.pairs[index].place == Place::Idle)
        {
            return Queued::Full;
        }
        let pair = &mut self.pairs[index];
        let mut added = len;
        match pair.batches.back_mut().filter(|batch| batch.takes(to, len)) {
            Some(batch) => {
                batch.data.extend_from_slice(head);
                batch.data.extend_from_slice(frame);
                batch.len += len;
                batch.is_closed = len < batch.segment;
            }
            None => {
                let mut data = self.spare.pop().unwrap_or_default();
                data.clear();
                data.extend_from_slice(head);
                data.extend_from_slice(frame);
                pair.batches.push_back(Batch { to, data, len, sent: 0, segment: len, is_closed: false });
                added += OVERHEAD;
            }
        }
        let before = pair.bytes;
        pair.bytes += added;
        self.bytes += added;
        self.track(index, before);
        self.place(index);
        Queued::Waits
    }

    /// Adds the first `len` bytes of a buffer, datagrams of one pair, all `stride` long but the last, as they are
    /// but for their first byte, `code`. Takes the buffer and gives another one for it; returns `false` and
    /// does nothing if they have to be copied.
    pub(super) fn push_owned(
        &mut self,
        index: usize,
        to: SocketAddr,
        code: u8,
        buffer: &mut Vec<u8>,
        (len, stride): (usize, usize),
    ) -> bool {
        let pair = &mut self.pairs[index];
        let added = len + OVERHEAD;
        let is_batch = buffer.len() == BUFFER_LEN
            && (MIN_OWNED..=MAX_BATCH).contains(&len)
            && len <= stride.saturating_mul(MAX_SEGMENTS);
        let has_room = self.bytes + added <= MAX_OWNED
            && pair.bytes + added <= MAX_BYTES_OF_PAIR
            && (self.active < MAX_ACTIVE || pair.place != Place::Idle);
        if !is_batch || !has_room {
            return false;
        }
        for first in buffer[..len].iter_mut().step_by(stride) {
            *first = code;
        }
        let other = self.whole.pop().unwrap_or_else(|| vec![0; BUFFER_LEN]);
        self.unneeded = self.unneeded.min(self.whole.len());
        let data = core::mem::replace(buffer, other);
        pair.batches.push_back(Batch { to, data, len, sent: 0, segment: stride, is_closed: true });
        let before = pair.bytes;
        pair.bytes += added;
        self.bytes += added;
        self.track(index, before);
        self.place(index);
        true
    }

    /// Frees half of the buffers that nothing has needed since the last sweep.
    pub(super) fn sweep(&mut self) {
        self.whole.truncate(self.whole.len() - self.unneeded.div_ceil(2));
        self.unneeded = self.whole.len();
    }

    /// Keeps a buffer for further batches.
    fn keep(&mut self, buffer: Vec<u8>) {
        let (kept, most) = match buffer.len() {
            BUFFER_LEN => (&mut self.whole, MAX_WHOLE),
            _ => (&mut self.spare, MAX_SPARE),
        };
        if kept.len() < most {
            kept.push(buffer);
        }
    }

    /// Adds datagrams of one pair, all `stride` long but the last, as they are but for their first byte,
    /// `code`. Returns how many wait, and what happened to the others.
    pub(super) fn push_run(
        &mut self,
        index: usize,
        to: SocketAddr,
        code: u8,
        run: &[u8],
        stride: usize,
    ) -> (usize, Queued) {
        let (mut waiting, mut rest) = (0, run);
        while !rest.is_empty() {
            // The first one finds its batch, and is checked against all bounds.
            let len = rest.len().min(stride);
            match self.push(index, to, &[code], &rest[1..len]) {
                Queued::Waits => waiting += 1,
                refused @ (Queued::PairFull | Queued::Full) => return (waiting, refused),
            }
            rest = &rest[len..];
            let count = self.append(index, code, rest, len);
            waiting += count;
            rest = &rest[count * len..];
        }
        (waiting, Queued::Waits)
    }

    /// Adds datagrams of this length to the last batch of a pair, as many as it and the pair have room for.
    fn append(&mut self, index: usize, code: u8, run: &[u8], len: usize) -> usize {
        let pair = &mut self.pairs[index];
        let Some(batch) = pair.batches.back_mut().filter(|batch| !batch.is_closed && batch.segment == len)
        else {
            return 0;
        };
        let of_batch = MAX_BATCH.min(len * MAX_SEGMENTS).saturating_sub(batch.len);
        let of_pair = MAX_BYTES_OF_PAIR.saturating_sub(pair.bytes);
        let count = of_batch.min(of_pair).min(run.len()) / len;
        let begin = batch.len;
        batch.data.extend_from_slice(&run[..count * len]);
        batch.len += count * len;
        for first in batch.data[begin..].iter_mut().step_by(len) {
            *first = code;
        }
        let before = pair.bytes;
        pair.bytes += count * len;
        self.bytes += count * len;
        self.track(index, before);
        self.place(index);
        count
    }

    /// Takes the batch whose turn it is, at most `max_segments` of it; `buf` is replaced, and begins with it.
    pub(super) fn take(&mut self, max_segments: usize, buf: &mut Vec<u8>) -> Option<Taken> {
        let index = self.next_pair()?;
        let pair = &mut self.pairs[index];
        let before = pair.bytes;
        let batch = pair.batches.front_mut()?;
        let most = batch.segment.saturating_mul(max_segments.max(1));
        let (to, segment) = (batch.to, batch.segment);
        let len = batch.left().min(most);
        if len == batch.len {
            core::mem::swap(buf, &mut batch.data);
        } else {
            buf.clear();
            buf.extend_from_slice(&batch.data[batch.sent..batch.sent + len]);
        }
        batch.sent += len;
        let mut removed = len;
        let over = if batch.left() == 0 { pair.batches.pop_front() } else { None };
        if over.is_some() {
            removed += OVERHEAD;
        }
        pair.bytes -= removed;
        pair.deficit -= i64::try_from(len).unwrap_or(i64::MAX);
        self.bytes -= removed;
        if let Some(batch) = over {
            self.keep(batch.data);
        }
        self.track(index, before);
        self.replace(index, len);
        Some(Taken { to, len, segment })
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames dropped from the pairs that had most, since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped_greedy)
    }

    /// The pair whose turn it is; it stays at the head of its list.
    fn next_pair(&mut self) -> Option<usize> {
        while let Some(index) = self.sparse.front() {
            let pair = &mut self.pairs[*index];
            if pair.place == Place::Sparse {
                break;
            }
            pair.is_listed_sparse = false;
            self.sparse.pop_front();
        }
        if self.bulk.is_empty() && !self.later.is_empty() {
            core::mem::swap(&mut self.bulk, &mut self.later);
            self.round += 1;
        }
        let is_others_turn = self.sparse_sent >= MAX_BATCH && !self.bulk.is_empty();
        match self.sparse.front() {
            Some(index) if !is_others_turn => Some(*index),
            Some(_) | None => {
                self.sparse_sent = 0;
                let index = *self.bulk.front()?;
                self.pairs[index].begin_round(self.round);
                Some(index)
            }
        }
    }

    /// Gives a pair that has just sent `len` bytes its next place.
    fn replace(&mut self, index: usize, len: usize) {
        let pair = &mut self.pairs[index];
        let (is_empty, may_go_on) = (pair.batches.is_empty(), pair.deficit > 0);
        if pair.place == Place::Sparse {
            self.sparse_sent += len;
        }
        if !is_empty && may_go_on {
            return;
        }
        if pair.place == Place::Sparse {
            pair.is_listed_sparse = false;
            self.sparse.pop_front();
        } else {
            self.bulk.pop_front();
        }
        if is_empty {
            pair.place = Place::Idle;
            self.active -= 1;
            self.list_idle(index);
            if self.active == 0 {
                // Everybody has had what it asked for.
                self.round += 1;
            }
        } else {
            pair.place = Place::Bulk;
            self.later.push_back(index);
        }
    }

    /// Gives a pair to which something was added its place.
    fn place(&mut self, index: usize) {
        let pair = &mut self.pairs[index];
        if pair.place == Place::Idle {
            self.active += 1;
            pair.begin_round(self.round);
        } else if pair.place == Place::Bulk || pair.is_sparse() {
            return;
        }
        if pair.is_sparse() {
            pair.place = Place::Sparse;
            if !core::mem::replace(&mut pair.is_listed_sparse, true) {
                self.sparse.push_back(index);
            }
        } else {
            pair.place = Place::Bulk;
            let is_in_time = pair.deficit > 0;
            if is_in_time { &mut self.bulk } else { &mut self.later }.push_back(index);
        }
    }

    /// Drops the oldest batch of the pair with most, unless that is `newcomer`.
    fn drop_greediest(&mut self, newcomer: usize) -> bool {
        let Some((_, index)) = self.greedy.last().copied() else { return false };
        let pair = &mut self.pairs[index];
        // Its only batch stays, so that it keeps its place in the lists.
        if index == newcomer || pair.batches.len() < 2 {
            return false;
        }
        let before = pair.bytes;
        if let Some(batch) = pair.batches.pop_front() {
            let removed = batch.left() + OVERHEAD;
            self.dropped_greedy += u64::try_from(batch.left().div_ceil(batch.segment)).unwrap_or(0);
            pair.bytes -= removed;
            self.bytes -= removed;
        }
        self.track(index, before);
        true
    }

    /// Keeps the order of greedy pairs. It is exact to a factor of two, so that few frames change it.
    fn track(&mut self, index: usize, before: usize) {
        let magnitude = |bytes: usize| (bytes >= GREEDY).then(|| bytes.ilog2());
        let (old, new) = (magnitude(before), magnitude(self.pairs[index].bytes));
        if old != new {
            if let Some(old) = old {
                self.greedy.remove(&(old, index));
            }
            if let Some(new) = new {
                self.greedy.insert((new, index));
            }
        }
    }

    fn list_idle(&mut self, index: usize) {
        if !core::mem::replace(&mut self.pairs[index].is_listed_idle, true) {
            self.idle.push_back(index);
        }
        while self.idle.len() > MAX_IDLE {
            let Some(oldest) = self.idle.pop_front() else { return };
            if oldest == index {
                self.idle.push_back(oldest);
                continue;
            }
            let pair = &mut self.pairs[oldest];
            pair.is_listed_idle = false;
            if pair.place == Place::Idle && !pair.is_listed_sparse {
                self.by_key.remove(&pair.key);
                self.free.push(oldest);
            } else if pair.place == Place::Idle {
                pair.is_listed_idle = true;
                self.idle.push_back(oldest);
                return;
            }
        }
    }
}
