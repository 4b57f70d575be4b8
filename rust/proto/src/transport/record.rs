//! Recording of a connection's [`trace`](super::trace) events.

use super::{
    Connection, State, TimerKind,
    send::Recovery,
    trace::{DropCause, LossTrigger, Metrics, Recorder, TransportEvent, is_routine},
};
use crate::{
    trace::{Detail, Trace},
    wire::seq::SeqNumber,
};

impl Connection {
    /// Enables tracing at this detail.
    pub fn set_trace(&mut self, detail: Detail) {
        self.recorder = Recorder { trace: Trace::new(Some(detail)), last: Some(Box::default()) };
        self.trace_configuration();
        let (old, new) = (State::Closed, self.state);
        self.recorder.trace.event(|| TransportEvent::Transition { old, new });
    }

    /// The next trace event; to be drained after each input.
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

    /// Records metrics and controller phase if they changed.
    #[inline]
    pub(super) fn trace_metrics(&mut self) {
        if self.recorder.last.is_some() {
            self.trace_changed_metrics();
        }
    }

    #[cold]
    #[inline(never)]
    fn trace_changed_metrics(&mut self) {
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

    /// Counts and records a dropped segment.
    pub(super) fn drop_segment(&mut self, cause: DropCause, seq: SeqNumber, len: usize) {
        *match cause {
            DropCause::Unacceptable => &mut self.counters.unacceptable,
            DropCause::Duplicate => &mut self.counters.duplicates,
            DropCause::Overflow => &mut self.counters.reassembly_overflow,
        } += 1;
        self.recorder.trace.event(|| TransportEvent::Dropped { cause, seq, len });
    }

    /// Starts a loss episode.
    pub(super) fn start_recovery(&mut self, trigger: LossTrigger) {
        let recover = self.sender.snd_nxt;
        self.sender.recovery = match trigger {
            LossTrigger::Acknowledgement => Recovery::Fast { recover },
            LossTrigger::Timeout => Recovery::Timeout { recover },
        };
        self.recorder.trace.event(|| TransportEvent::RecoveryStarted { trigger, recover });
    }

    /// Ends a loss episode.
    pub(super) fn end_recovery(&mut self, is_spurious: bool) {
        self.sender.recovery = Recovery::Open;
        self.undo = None;
        self.recorder.trace.event(|| TransportEvent::RecoveryEnded { is_spurious });
    }
}
