//! Timers of the IO thread. They are not cancelled: a stale one expires without effect.

use std::{cmp::Reverse, collections::BinaryHeap};

use pilot_proto::{node::ConnectionId, time::Instant, wire::addr::Port};

use crate::tag::ClientId;

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A dial, or a stream to a path, whose time is over.
    Stream(ConnectionId),
    /// The path of a listener is tried again.
    Path(Port),
    /// Listening sockets are tried again.
    Accept,
    /// The UDP socket is tried again.
    Udp,
    /// Spare sockets that nothing comes from.
    Spare,
    /// A driver that is gone and whose streams do not take what it left.
    Orphan(ClientId),
}

/// All deadlines.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(Instant, Due)>>);

impl Deadlines {
    pub(crate) fn push(&mut self, at: Instant, due: Due) {
        self.0.push(Reverse((at, due)));
    }

    /// The earliest.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes one that has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Due> {
        self.next_at().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse((_, due))| due)
    }
}
