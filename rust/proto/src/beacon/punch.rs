//! Hole punching: two nodes are told to send to each other at the same time.

use super::{
    Arrival, Beacon,
    claims::Waiting,
    nodes::{Announcement, Proof},
};
use crate::{
    time::Instant,
    wire::{addr::NodeId, beacon::Message},
};

/// Payload bytes of a PunchRequest.
const REQUEST_LEN: usize = 9;

impl Beacon {
    pub(super) fn on_punch_request(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        requester: NodeId,
        target: NodeId,
    ) {
        let from = arrival.from;
        if !self.limits.punches.take(now, self.source_of(from)) {
            self.counters.dropped_rate += 1;
            return;
        }
        match self.endpoint_of(now, requester) {
            Some(endpoint) if endpoint == from => {}
            Some(_) => {
                self.counters.dropped_spoofed += 1;
                return;
            }
            // A request announces its sender, too: it may have been forgotten here.
            None if requester.0 != 0 => {
                let is_trusted = self.is_trusted(from.ip());
                let proof = if is_trusted { Proof::Address } else { Proof::Nothing };
                let announcement =
                    Announcement { node: requester, endpoint: from, key: None, is_extended: false, proof };
                self.announce(now, arrival, announcement);
            }
            None => {
                self.counters.dropped_spoofed += 1;
                return;
            }
        }
        self.claims.on_received(requester, from, REQUEST_LEN);
        if requester == target || self.endpoint_of(now, target).is_none() {
            self.counters.dropped_unknown += 1;
            return;
        }
        if !self.limits.take_target(now, target) {
            self.counters.dropped_rate += 1;
            return;
        }
        self.punch(now, requester, target);
    }

    /// Tells both nodes to punch. Nobody is told to punch at an address that is not proven: whoever forges the
    /// source of a request must not direct the punches of others at it.
    pub(super) fn punch(&mut self, now: Instant, requester: NodeId, target: NodeId) {
        let waiting = Waiting::Punch { requester, target };
        for node in [requester, target] {
            if self.nodes.find(now, node).is_none() {
                self.claims.wait(node, waiting);
                self.challenge(now, node);
            }
        }
        for (node, other) in [(requester, target), (target, requester)] {
            let Some(endpoint) = self.nodes.find(now, other).map(|node| node.endpoint) else { continue };
            if self.command(now, node, &Message::PunchCommand(endpoint), waiting) {
                self.counters.punches += 1;
            }
        }
    }
}
