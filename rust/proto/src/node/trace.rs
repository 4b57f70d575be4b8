//! What a node records for [`Trace`], and what its peers and connections recorded, with the time.

use super::{ConnectionId, Node};
use crate::{
    time::Instant,
    trace::Trace,
    transport::{FourTuple, TransportEvent},
    tunnel::TunnelEvent,
    wire::addr::NodeId,
};

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
}

/// What happened, and to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Something that arrived or waited was dropped, and counted under this name.
    Dropped(&'static str),
    /// Something happened between us and a peer.
    Peer(NodeId, TunnelEvent),
    /// A connection was made.
    Opened {
        /// Its id.
        id: ConnectionId,
        /// Its ends.
        tuple: FourTuple,
        /// Whether the peer opened it.
        is_inbound: bool,
    },
    /// Something happened to a connection.
    Connection(ConnectionId, TransportEvent),
}

impl What {
    /// Whether it is recorded with [`Detail::Packets`](crate::trace::Detail::Packets) only.
    pub fn is_packet(&self) -> bool {
        match self {
            Self::Connection(_, event) => event.is_packet(),
            Self::Dropped(_) | Self::Peer(..) | Self::Opened { .. } => false,
        }
    }

    /// Whether the connection that it is about is gone.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Connection(_, TransportEvent::Closed(_)))
    }
}

/// The node's records.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) now: Instant,
    pub(super) trace: Trace<Record>,
}

impl Recorder {
    /// Records what happened in this input.
    #[inline]
    pub(super) fn event(&mut self, what: impl FnOnce() -> What) {
        let at = self.now;
        self.trace.event(|| Record { at, what: what() });
    }
}

/// Counts a drop under the name of its counter, and records it.
macro_rules! count_drop {
    ($node:expr, $counter:ident) => {{
        $node.counters.$counter += 1;
        $node.recorder.event(|| $crate::node::trace::What::Dropped(stringify!($counter)));
    }};
}
pub(super) use count_drop;

impl Node {
    /// What happened, with the time of the input that made it happen; to be drained after each input.
    pub fn poll_trace(&mut self) -> Option<Record> {
        self.recorder.trace.poll()
    }

    /// Records that found no room since the last call.
    pub fn take_trace_overflow(&mut self) -> u64 {
        self.recorder.trace.take_overflow()
    }

    pub(super) fn is_traced(&self) -> bool {
        self.recorder.trace.detail().is_some()
    }

    /// Starts the record of a new connection.
    pub(super) fn trace_connection(&mut self, id: ConnectionId) {
        let Some(detail) = self.recorder.trace.detail() else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (tuple, is_inbound) = (*slot.connection.tuple(), slot.is_inbound);
        self.recorder.event(|| What::Opened { id, tuple, is_inbound });
        slot.connection.set_trace(detail);
    }

    /// Takes what a connection recorded.
    #[cold]
    #[inline(never)]
    pub(super) fn take_connection_trace(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        while let Some(event) = slot.connection.poll_trace() {
            self.recorder.event(|| What::Connection(id, event));
        }
    }

    /// Takes what a peer recorded.
    #[cold]
    #[inline(never)]
    pub(super) fn take_peer_trace(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.poll_trace() {
            self.recorder.event(|| What::Peer(id, event));
        }
    }
}
