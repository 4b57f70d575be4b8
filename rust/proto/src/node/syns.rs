//! Pacing of SYNs to old peers, which silently drop more than about a hundred per second. SYNs are sent in
//! order below that rate and repeated soon.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use super::{ConnectionId, Node, Timed};
use crate::{
    storage::token_bucket::TokenBucket,
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// A peer heard within this is up: it dropped the SYNs that it does not answer.
const PRESENT: Duration = Duration::from_secs(2);

/// The SYNs of one peer.
#[derive(Debug)]
struct Queue {
    bucket: TokenBucket,
    waiting: VecDeque<ConnectionId>,
}

/// What is due to leave for each old peer.
#[derive(Debug, Default)]
pub(super) struct Syns(BTreeMap<NodeId, Queue>);

impl Syns {
    /// Forgets those that wait for nothing.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, queue| !queue.waiting.is_empty() || !queue.bucket.is_full(now));
    }
}

impl Node {
    /// Whether a connection may send its SYN now; otherwise it is queued.
    pub(super) fn may_send_syn(&mut self, now: Instant, node: NodeId, id: ConnectionId) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        if !slot.connection.owes_paced_syn() {
            return true;
        }
        let is_present = |silence| silence < PRESENT;
        let silence = self.peers.get(&node).map(|peer| now.saturating_since(peer.last_rx()));
        slot.connection.hurry_syn(silence.is_some_and(is_present));
        if core::mem::take(&mut slot.has_syn_turn) {
            return true;
        }
        let (rate, burst) = self.config.legacy_syn_pace;
        let queue = self.syns.0.entry(node).or_insert_with(|| Queue {
            bucket: TokenBucket::new(rate, burst, now),
            waiting: VecDeque::new(),
        });
        if queue.waiting.is_empty() && queue.bucket.take(now) {
            return true;
        }
        if !slot.is_waiting_for_syn {
            slot.is_waiting_for_syn = true;
            queue.waiting.push_back(id);
            if queue.waiting.len() == 1 {
                self.arm_syns(now, node);
            }
        }
        false
    }

    fn arm_syns(&mut self, now: Instant, node: NodeId) {
        let interval = Duration::from_secs(1) / self.config.legacy_syn_pace.0.max(1);
        self.timers.push(Reverse((now + interval, Timed::Syns(node))));
    }

    /// Releases the SYNs that the rate allows.
    pub(super) fn on_syn_turn(&mut self, now: Instant, node: NodeId) {
        let Some(queue) = self.syns.0.get_mut(&node) else { return };
        let mut turns = Vec::new();
        while let Some(id) = queue.waiting.front().copied() {
            let is_due = self.slots.get(&id).is_some_and(|slot| slot.connection.owes_paced_syn());
            if is_due && !queue.bucket.take(now) {
                break;
            }
            queue.waiting.pop_front();
            turns.push((id, is_due));
        }
        let is_over = queue.waiting.is_empty();
        for (id, is_due) in turns {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.is_waiting_for_syn = false;
                slot.has_syn_turn = is_due;
                self.queue(id);
            }
        }
        if !is_over {
            self.arm_syns(now, node);
        }
    }
}
