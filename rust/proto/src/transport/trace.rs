//! What a connection records for [`Trace`].

use core::time::Duration;

use super::{Algorithm, CloseReason, Dialect, State, TimerKind};
use crate::{
    trace::Trace,
    wire::{
        packet::{Flags, Header},
        seq::SeqNumber,
    },
};

/// Something that happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportEvent {
    /// What the connection works with; again when the peer's transport is known.
    Configured {
        /// The peer's transport.
        dialect: Dialect,
        /// The congestion controller.
        congestion: Algorithm,
        /// Bytes of the largest segment that is sent.
        max_segment: usize,
    },
    /// Another state of RFC 9293.
    Transition {
        /// Before.
        old: State,
        /// Now.
        new: State,
    },
    /// The connection is gone.
    Closed(CloseReason),
    /// A segment left.
    Sent(Segment),
    /// A segment arrived.
    Received(Segment),
    /// A segment that arrived was not used.
    Dropped {
        /// Why.
        cause: DropCause,
        /// Its number.
        seq: SeqNumber,
        /// Bytes of its data.
        len: usize,
    },
    /// A segment in flight counts as lost.
    Lost {
        /// Its number.
        seq: SeqNumber,
        /// Sequence numbers that it takes.
        size: usize,
    },
    /// A loss episode begins.
    RecoveryStarted {
        /// What revealed the loss.
        trigger: LossTrigger,
        /// It is over when this is acknowledged.
        recover: SeqNumber,
    },
    /// A loss episode is over.
    RecoveryEnded {
        /// Whether nothing had been lost, so that its reduction was taken back.
        is_spurious: bool,
    },
    /// A timer expired.
    Timeout {
        /// Which one.
        timer: TimerKind,
        /// Retransmission timeouts in a row before.
        count: u32,
    },
    /// The congestion controller is in another phase.
    Phase(&'static str),
    /// Some figure changed.
    Metrics(Metrics),
}

impl TransportEvent {
    /// Whether it is recorded with [`Detail::Packets`] only.
    pub fn is_packet(&self) -> bool {
        match self {
            Self::Sent(_) | Self::Received(_) | Self::Lost { .. } | Self::Metrics(_) => true,
            Self::Timeout { timer, .. } => is_routine(*timer),
            Self::Configured { .. }
            | Self::Transition { .. }
            | Self::Closed(_)
            | Self::Dropped { .. }
            | Self::RecoveryStarted { .. }
            | Self::RecoveryEnded { .. }
            | Self::Phase(_) => false,
        }
    }
}

/// Whether a timer expires in the course of every transfer.
pub(super) fn is_routine(timer: TimerKind) -> bool {
    match timer {
        TimerKind::Pacing | TimerKind::Ack | TimerKind::Nagle => true,
        TimerKind::Retransmission
        | TimerKind::LossProbe
        | TimerKind::Reordering
        | TimerKind::Persist
        | TimerKind::Keepalive
        | TimerKind::Idle
        | TimerKind::Orphan
        | TimerKind::TimeWait => false,
    }
}

/// The header of a segment, without its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its flags.
    pub flags: Flags,
    /// Its number.
    pub seq: SeqNumber,
    /// What it acknowledges.
    pub ack: SeqNumber,
    /// Slots that it advertises.
    pub window: u16,
    /// Bytes behind the header: data or SACK.
    pub len: usize,
}

impl Segment {
    pub(super) fn new(header: &Header, len: usize) -> Self {
        let Header { flags, seq, ack, window, .. } = *header;
        Self { flags, seq, ack, window, len }
    }
}

/// Why a segment was not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropCause {
    /// Outside the window, or acknowledging what was never sent.
    Unacceptable,
    /// It was held already.
    Duplicate,
    /// There is no room or memory for it.
    Overflow,
}

/// What reveals a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LossTrigger {
    /// Acknowledgements.
    Acknowledgement,
    /// The retransmission timer.
    Timeout,
    /// A report that the path carries shorter datagrams only.
    PathMtu,
}

/// Figures of recovery and congestion control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Its variation.
    pub rttvar: Duration,
    /// The shortest round-trip time.
    pub min_rtt: Duration,
    /// The retransmission timeout.
    pub rto: Duration,
    /// Congestion window, bytes.
    pub cwnd: usize,
    /// Slow-start threshold, bytes.
    pub ssthresh: usize,
    /// Bytes in flight.
    pub in_flight: usize,
    /// Bytes per second at which segments leave; 0 when that is not limited.
    pub pacing_rate: u64,
    /// Bytes per second that the path last delivered.
    pub delivery_rate: u64,
    /// Bytes that the peer takes.
    pub snd_wnd: usize,
    /// Retransmission timeouts in a row.
    pub timeouts: u32,
}

/// What a connection records, and what it recorded last.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) trace: Trace<TransportEvent>,
    pub(super) last: Option<Box<Last>>,
}

#[derive(Debug, Default)]
pub(super) struct Last {
    pub(super) metrics: Metrics,
    pub(super) phase: &'static str,
}
