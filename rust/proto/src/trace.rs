//! Trace events in a bounded queue that its owner drains. There are no callbacks, and a disabled trace costs
//! one branch per event.

use std::collections::VecDeque;

/// Capacity of the queue; the owner drains it after each input.
const CAPACITY: usize = 65_536;

/// How much is recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detail {
    /// State changes: handshakes, keys, connection states, loss episodes, timeouts, drops.
    Events,
    /// Also each packet, each lost segment and each change of the metrics.
    Packets,
}

#[derive(Debug)]
struct Queue<E> {
    detail: Detail,
    events: VecDeque<E>,
    overflow: u64,
}

/// A trace of events of type `E`, possibly disabled.
#[derive(Debug)]
pub struct Trace<E>(Option<Box<Queue<E>>>);

impl<E> Default for Trace<E> {
    /// A disabled trace.
    fn default() -> Self {
        Self(None)
    }
}

impl<E> Trace<E> {
    /// A trace of this detail; `None` disables it.
    pub fn new(detail: Option<Detail>) -> Self {
        Self(detail.map(|detail| Box::new(Queue { detail, events: VecDeque::new(), overflow: 0 })))
    }

    /// How much is recorded.
    #[inline]
    pub fn detail(&self) -> Option<Detail> {
        self.0.as_ref().map(|queue| queue.detail)
    }

    /// Whether single packets are recorded.
    #[inline]
    pub fn has_packets(&self) -> bool {
        self.detail() == Some(Detail::Packets)
    }

    /// Records a state change.
    #[inline]
    pub fn event(&mut self, event: impl FnOnce() -> E) {
        if let Some(queue) = &mut self.0 {
            queue.push(event());
        }
    }

    /// Records an event about a single packet.
    #[inline]
    pub fn packet(&mut self, event: impl FnOnce() -> E) {
        if let Some(queue) = &mut self.0
            && queue.detail == Detail::Packets
        {
            queue.push(event());
        }
    }

    /// The oldest event.
    #[inline]
    pub fn poll(&mut self) -> Option<E> {
        self.0.as_mut()?.events.pop_front()
    }

    /// Number of events dropped because the queue was full, since the last call.
    pub fn take_overflow(&mut self) -> u64 {
        self.0.as_mut().map_or(0, |queue| core::mem::take(&mut queue.overflow))
    }
}

impl<E> Queue<E> {
    #[cold]
    #[inline(never)]
    fn push(&mut self, event: E) {
        if self.events.len() < CAPACITY {
            self.events.push_back(event);
        } else {
            self.overflow += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(detail: Option<Detail>) -> Vec<u32> {
        let mut trace = Trace::new(detail);
        trace.event(|| 1);
        trace.packet(|| 2);
        core::iter::from_fn(|| trace.poll()).collect()
    }

    #[test]
    fn detail_selects_what_is_recorded() {
        assert_eq!(recorded(None), Vec::<u32>::new());
        assert_eq!(recorded(Some(Detail::Events)), [1]);
        assert_eq!(recorded(Some(Detail::Packets)), [1, 2]);
    }

    #[test]
    fn unrecorded_events_are_not_computed() {
        let mut trace = Trace::new(Some(Detail::Events));
        trace.packet(|| unreachable!("packets are not recorded"));
        Trace::<u32>::default().event(|| unreachable!("nothing is recorded"));
        assert_eq!(trace.poll(), None::<u32>);
    }

    #[test]
    fn a_full_queue_counts_dropped_events() {
        let mut trace = Trace::new(Some(Detail::Events));
        for n in 0..CAPACITY + 3 {
            trace.event(|| n);
        }
        assert_eq!((trace.take_overflow(), trace.take_overflow()), (3, 0));
        assert_eq!(core::iter::from_fn(|| trace.poll()).count(), CAPACITY);
    }
}
