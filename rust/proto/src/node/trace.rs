//! Trace records of a node, its peers and its connections, with their time.

use super::{ConnectionId, Node};
use crate::{
    time::Instant,
    trace::Trace,
    transport::{FourTuple, TransportEvent},
    tunnel::TunnelEvent,
    wire::addr::NodeId,
};

/// A trace event with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// A trace event of the node, a peer or a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A packet was dropped, and counted by this counter.
    Dropped(&'static str),
    /// An event of the tunnel to a peer.
    Peer(NodeId, TunnelEvent),
    /// A connection was created.
    Opened {
        /// Its id.
        id: ConnectionId,
        /// Its ends.
        tuple: FourTuple,
        /// Whether the peer opened it.
        is_inbound: bool,
    },
    /// An event of a connection.
    Connection(ConnectionId, TransportEvent),
}

impl What {
    /// Whether it is recorded at [`Detail::Packets`](crate::trace::Detail::Packets) only.
    pub fn is_packet(&self) -> bool {
        match self {
            Self::Connection(_, event) => event.is_packet(),
            Self::Dropped(_) | Self::Peer(..) | Self::Opened { .. } => false,
        }
    }

    /// Whether it is the last event of its connection.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Connection(_, TransportEvent::Closed(_)))
    }
}

/// Collects the node's records.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) now: Instant,
    pub(super) trace: Trace<Record>,
}

impl Recorder {
    /// Records an event at the time of the current input.
    #[inline]
    pub(super) fn event(&mut self, what: impl FnOnce() -> What) {
        let at = self.now;
        self.trace.event(|| Record { at, what: what() });
    }
}

/// Counts and records a drop.
macro_rules! count_drop {
    ($node:expr, $counter:ident) => {{
        $node.counters.$counter += 1;
        $node.recorder.event(|| $crate::node::trace::What::Dropped(stringify!($counter)));
    }};
}
pub(super) use count_drop;

impl Node {
    /// The next trace record; to be drained after each input.
    pub fn poll_trace(&mut self) -> Option<Record> {
        self.recorder.trace.poll()
    }

    /// Number of records dropped because the queue was full, since the last call.
    pub fn take_trace_overflow(&mut self) -> u64 {
        self.recorder.trace.take_overflow()
    }

    pub(super) fn is_traced(&self) -> bool {
        self.recorder.trace.detail().is_some()
    }

    /// Starts tracing a new connection.
    pub(super) fn trace_connection(&mut self, id: ConnectionId) {
        let Some(detail) = self.recorder.trace.detail() else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (tuple, is_inbound) = (*slot.connection.tuple(), slot.is_inbound);
        self.recorder.event(|| What::Opened { id, tuple, is_inbound });
        slot.connection.set_trace(detail);
    }

    /// Moves a connection's events into the node's trace.
    #[cold]
    #[inline(never)]
    pub(super) fn take_connection_trace(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        while let Some(event) = slot.connection.poll_trace() {
            self.recorder.event(|| What::Connection(id, event));
        }
    }

    /// Moves a peer's events into the node's trace.
    #[cold]
    #[inline(never)]
    pub(super) fn take_peer_trace(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.poll_trace() {
            self.recorder.event(|| What::Peer(id, event));
        }
    }
}
