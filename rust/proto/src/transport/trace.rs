//! What a connection records for [`Trace`].

use core::time::Duration;

use super::{Algorithm, CloseReason, Connection, Dialect, State, TimerKind, send::Recovery};
use crate::{
    trace::{Detail, Trace},
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
fn is_routine(timer: TimerKind) -> bool {
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
    last: Option<Box<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    metrics: Metrics,
    phase: &'static str,
}

impl Connection {
    /// Records from now on as much as `detail` says.
    pub fn set_trace(&mut self, detail: Detail) {
        self.recorder = Recorder { trace: Trace::new(Some(detail)), last: Some(Box::default()) };
        self.trace_configuration();
        let (old, new) = (State::Closed, self.state);
        self.recorder.trace.event(|| TransportEvent::Transition { old, new });
    }

    /// What happened, to be drained after each input.
    #[inline]
    pub fn poll_trace(&mut self) -> Option<TransportEvent> {
        self.recorder.trace.poll()
    }

    pub(super) fn trace_timeout(&mut self, timer: TimerKind) {
        let count = self.timeouts;
        let event = || TransportEvent::Timeout { timer, count };
        if is_routine(timer) {
            self.recorder.trace.packet(event);
        } else {
            self.recorder.trace.event(event);
        }
    }

    pub(super) fn trace_configuration(&mut self) {
        let (dialect, max_segment) = (self.options.dialect, self.options.max_segment);
        let congestion = self.congestion.algorithm();
        let configured = || TransportEvent::Configured { dialect, congestion, max_segment };
        self.recorder.trace.event(configured);
    }

    /// Records the figures and the controller's phase if they changed.
    #[inline]
    pub(super) fn trace_figures(&mut self) {
        if self.recorder.last.is_some() {
            self.trace_changed_figures();
        }
    }

    #[cold]
    #[inline(never)]
    fn trace_changed_figures(&mut self) {
        let metrics = self.metrics();
        let phase = match self.sender.recovery {
            Recovery::Fast { .. } => "recovery",
            Recovery::Open | Recovery::Timeout { .. } => self.congestion.phase(),
        };
        let Recorder { trace, last: Some(last) } = &mut self.recorder else { return };
        if last.phase != phase {
            last.phase = phase;
            trace.event(|| TransportEvent::Phase(phase));
        }
        if last.metrics != metrics {
            last.metrics = metrics;
            trace.packet(|| TransportEvent::Metrics(metrics));
        }
    }

    fn metrics(&self) -> Metrics {
        Metrics {
            srtt: self.rtt.srtt().unwrap_or_default(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt().unwrap_or_default(),
            rto: self.rtt.rto(),
            cwnd: self.congestion.cwnd(),
            ssthresh: self.congestion.ssthresh().min(self.options.config.max_cwnd),
            in_flight: self.sender.in_flight(),
            pacing_rate: self.pacer.rate(),
            delivery_rate: self.delivery_rate,
            snd_wnd: self.snd_wnd,
            timeouts: self.timeouts,
        }
    }

    /// Counts and records a segment that is not used.
    pub(super) fn drop_segment(&mut self, cause: DropCause, seq: SeqNumber, len: usize) {
        *match cause {
            DropCause::Unacceptable => &mut self.counters.unacceptable,
            DropCause::Duplicate => &mut self.counters.duplicates,
            DropCause::Overflow => &mut self.counters.reassembly_overflow,
        } += 1;
        self.recorder.trace.event(|| TransportEvent::Dropped { cause, seq, len });
    }

    /// A loss episode begins.
    pub(super) fn start_recovery(&mut self, trigger: LossTrigger) {
        let recover = self.sender.snd_nxt;
        self.sender.recovery = match trigger {
            LossTrigger::Acknowledgement | LossTrigger::PathMtu => Recovery::Fast { recover },
            LossTrigger::Timeout => Recovery::Timeout { recover },
        };
        self.recorder.trace.event(|| TransportEvent::RecoveryStarted { trigger, recover });
    }

    /// The loss episode is over.
    pub(super) fn end_recovery(&mut self, is_spurious: bool) {
        self.sender.recovery = Recovery::Open;
        self.undo = None;
        self.recorder.trace.event(|| TransportEvent::RecoveryEnded { is_spurious });
    }
}
