//! Gossip between beacons: each tells the others which nodes it serves, so that frames for them can be
//! forwarded.

use core::net::SocketAddr;
use std::collections::VecDeque;

use super::{Beacon, nodes::Nodes, routes::Routes};
use crate::{
    time::{Duration, Instant},
    wire::{addr::NodeId, beacon::Message},
};

/// Interval of the lists. Protocol.
const INTERVAL: Duration = Duration::from_secs(10);
/// Nodes in one datagram, which then passes wherever IPv6 does.
const MAX_LISTED: usize = 290;

/// What is to be told, and when.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    due: Option<Instant>,
    /// Where the list goes on, while one is being told.
    next: Option<NodeId>,
    beacons: Vec<SocketAddr>,
    /// Those that the current part of the list still goes to.
    waiting: VecDeque<SocketAddr>,
    part: Vec<u8>,
}

impl Gossip {
    /// Starts or stops telling; at once, if there are beacons that have not been told anything.
    pub(super) fn arm(&mut self, now: Instant, routes: &Routes) {
        let mut others = routes.beacons().peekable();
        self.due = match self.due {
            _ if others.peek().is_none() => None,
            Some(due) if others.all(|beacon| self.beacons.contains(&beacon)) => Some(due),
            Some(_) | None => Some(now),
        };
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, routes: &Routes) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = Some(now + INTERVAL);
        // A list that is not told yet is told to its end.
        if self.next.is_none() && self.waiting.is_empty() {
            self.beacons = routes.beacons().collect();
            self.next = Some(NodeId(0));
        }
    }

    /// The next datagram, into `buf`, and where it goes.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        id: u32,
        nodes: &Nodes,
        buf: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        if self.waiting.is_empty() {
            let from = self.next.take()?;
            let mut ids = Vec::new();
            self.next = nodes.list(now, from, MAX_LISTED, &mut ids);
            self.part.clear();
            Message::Sync { beacon: id, nodes: &ids }.emit(&mut self.part);
            self.waiting.extend(&self.beacons);
        }
        let to = self.waiting.pop_front()?;
        buf.clear();
        buf.extend_from_slice(&self.part);
        Some(to)
    }
}

impl Beacon {
    pub(super) fn on_sync(&mut self, now: Instant, from: SocketAddr, nodes: &[u8]) {
        if self.routes.is_beacon(from) && self.routes.learn(now, from, nodes) {
            self.counters.syncs_taken += 1;
            self.arm_sweep(now);
        } else {
            self.counters.dropped_sync += 1;
        }
    }
}
