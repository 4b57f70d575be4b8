//! Pacing of SYNs to legacy peers. These silently drop SYNs above about a hundred per second, so ours are
//! sent below that rate, in order of request, and retransmitted early.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use super::{ConnectionId, Node, TimerOwner};
use crate::{
    storage::token_bucket::TokenBucket,
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// A peer heard this recently is reachable: a SYN that it does not answer was dropped by it.
const RECENTLY_HEARD: Duration = Duration::from_secs(2);

/// Queued SYNs to one peer.
#[derive(Debug)]
struct Queue {
    bucket: TokenBucket,
    waiting: VecDeque<ConnectionId>,
}

/// SYN queues by legacy peer.
#[derive(Debug, Default)]
pub(super) struct SynPacing(BTreeMap<NodeId, Queue>);

impl SynPacing {
    /// Drops idle queues.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, queue| !queue.waiting.is_empty() || !queue.bucket.is_full(now));
    }
}

impl Node {
    /// Whether a connection with a SYN due may send it now. Otherwise it is queued.
    pub(super) fn may_send_syn(&mut self, now: Instant, node: NodeId, id: ConnectionId) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        if !slot.connection.has_paced_syn_due() {
            return true;
        }
        let is_present = |silence| silence < RECENTLY_HEARD;
        let silence = self.peers.get(&node).map(|peer| now.saturating_since(peer.last_rx()));
        slot.connection.set_syn_rto_short(silence.is_some_and(is_present));
        if core::mem::take(&mut slot.is_syn_released) {
            return true;
        }
        let (rate, burst) = self.config.legacy_syn_pace;
        let queue = self.syn_pacing.0.entry(node).or_insert_with(|| Queue {
            bucket: TokenBucket::new(rate, burst, now),
            waiting: VecDeque::new(),
        });
        if queue.waiting.is_empty() && queue.bucket.take(now) {
            return true;
        }
        if !slot.is_syn_queued {
            slot.is_syn_queued = true;
            queue.waiting.push_back(id);
            if queue.waiting.len() == 1 {
                self.arm_syn_pacing(now, node);
            }
        }
        false
    }

    fn arm_syn_pacing(&mut self, now: Instant, node: NodeId) {
        let interval = Duration::from_secs(1) / self.config.legacy_syn_pace.0.max(1);
        self.timers.push(Reverse((now + interval, TimerOwner::SynPacing(node))));
    }

    /// Releases the queued SYNs that the rate allows.
    pub(super) fn on_syn_pacing_timeout(&mut self, now: Instant, node: NodeId) {
        let Some(queue) = self.syn_pacing.0.get_mut(&node) else { return };
        let mut turns = Vec::new();
        while let Some(id) = queue.waiting.front().copied() {
            let is_due = self.slots.get(&id).is_some_and(|slot| slot.connection.has_paced_syn_due());
            if is_due && !queue.bucket.take(now) {
                break;
            }
            queue.waiting.pop_front();
            turns.push((id, is_due));
        }
        let is_over = queue.waiting.is_empty();
        for (id, is_due) in turns {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.is_syn_queued = false;
                slot.is_syn_released = is_due;
                self.queue(id);
            }
        }
        if !is_over {
            self.arm_syn_pacing(now, node);
        }
    }
}
