//! Trace events of a connection, for [`Trace`].

use core::time::Duration;

use super::{Algorithm, CloseReason, Dialect, PathKey, State, TimerKind};
use crate::{
    trace::Trace,
    wire::{
        packet::{Flags, Header},
        seq::SeqNumber,
    },
};

/// An event of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportEvent {
    /// Parameters of the connection; repeated when they change.
    Configured {
        /// The peer's dialect.
        dialect: Dialect,
        /// The congestion controller.
        congestion: Algorithm,
        /// Largest segment sent, bytes.
        max_segment: usize,
    },
    /// A state transition.
    Transition {
        /// Before.
        old: State,
        /// Now.
        new: State,
    },
    /// The connection was closed.
    Closed(CloseReason),
    /// A segment was sent.
    Sent(Segment),
    /// A segment arrived.
    Received(Segment),
    /// An arriving segment was dropped.
    Dropped {
        /// Why.
        cause: DropCause,
        /// Its sequence number.
        seq: SeqNumber,
        /// Length of its data, bytes.
        len: usize,
    },
    /// A segment in flight was marked lost.
    Lost {
        /// Its sequence number.
        seq: SeqNumber,
        /// Sequence numbers that it occupies.
        size: usize,
    },
    /// A loss episode starts.
    RecoveryStarted {
        /// What revealed the loss.
        trigger: LossTrigger,
        /// The episode ends when this is acknowledged.
        recover: SeqNumber,
    },
    /// A loss episode ends.
    RecoveryEnded {
        /// Whether it was spurious, so that its window reduction was undone.
        is_spurious: bool,
    },
    /// A timer expired.
    Timeout {
        /// Which one.
        timer: TimerKind,
        /// Consecutive retransmission timeouts before.
        count: u32,
    },
    /// Segments take another path.
    PathChanged {
        /// Its name.
        path: PathKey,
        /// Whether its state was known.
        is_known: bool,
    },
    /// The congestion controller entered another phase.
    Phase(&'static str),
    /// A metric changed.
    Metrics(Metrics),
}

impl TransportEvent {
    /// Whether it is recorded at `Detail::Packets` only.
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
            | Self::PathChanged { .. }
            | Self::Phase(_) => false,
        }
    }
}

/// Whether a timer expires routinely during transfers.
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

/// Header fields of a segment, without addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its flags.
    pub flags: Flags,
    /// Its sequence number.
    pub seq: SeqNumber,
    /// Its acknowledgement number.
    pub ack: SeqNumber,
    /// Its window field, in slots.
    pub window: u16,
    /// Length of the payload (data or SACK blocks), bytes.
    pub len: usize,
}

impl Segment {
    pub(super) fn new(header: &Header, len: usize) -> Self {
        let Header { flags, seq, ack, window, .. } = *header;
        Self { flags, seq, ack, window, len }
    }
}

/// Why a segment was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropCause {
    /// Outside the window, or acknowledging unsent data.
    Unacceptable,
    /// It was received already.
    Duplicate,
    /// There is no room for it.
    Overflow,
}

/// What reveals a loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LossTrigger {
    /// Acknowledgements.
    Acknowledgement,
    /// The retransmission timer.
    Timeout,
}

/// Metrics of recovery and congestion control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Round-trip time variation.
    pub rttvar: Duration,
    /// Minimum round-trip time.
    pub min_rtt: Duration,
    /// The retransmission timeout.
    pub rto: Duration,
    /// Congestion window, bytes.
    pub cwnd: usize,
    /// Slow-start threshold, bytes.
    pub ssthresh: usize,
    /// Bytes in flight.
    pub in_flight: usize,
    /// Pacing rate, bytes per second; 0 if unlimited.
    pub pacing_rate: u64,
    /// Latest delivery rate sample, bytes per second.
    pub delivery_rate: u64,
    /// SND.WND, bytes.
    pub snd_wnd: usize,
    /// Consecutive retransmission timeouts.
    pub timeouts: u32,
}

/// The trace of a connection, with the metrics recorded last.
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
