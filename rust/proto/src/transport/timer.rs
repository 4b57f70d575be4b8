//! The timers of one connection.

use crate::time::Instant;

/// The timers of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerKind {
    /// Retransmission (RFC 6298), also of SYN and FIN.
    Retransmission,
    /// Tail loss probe (PTO of RFC 8985).
    LossProbe,
    /// RACK reordering timer (RFC 8985 section 6.2).
    Reordering,
    /// The pacer allows the next segment.
    Pacing,
    /// Window probe (RFC 9293 section 3.8.6.1).
    Persist,
    /// Delayed acknowledgement.
    Ack,
    /// Nagle's algorithm held a small segment long enough.
    Nagle,
    /// Probe of an idle connection.
    Keepalive,
    /// Idle timeout.
    Idle,
    /// A connection closed by its application makes no progress.
    Orphan,
    /// End of TIME-WAIT.
    TimeWait,
}

const KINDS: [TimerKind; 11] = [
    TimerKind::Retransmission,
    TimerKind::LossProbe,
    TimerKind::Reordering,
    TimerKind::Pacing,
    TimerKind::Persist,
    TimerKind::Ack,
    TimerKind::Nagle,
    TimerKind::Keepalive,
    TimerKind::Idle,
    TimerKind::Orphan,
    TimerKind::TimeWait,
];

/// One deadline per kind.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: [Option<Instant>; KINDS.len()],
}

impl Timers {
    /// Sets or moves a deadline.
    pub fn set(&mut self, kind: TimerKind, at: Instant) {
        self.deadlines[kind as usize] = Some(at);
    }

    /// Sets a deadline unless one is set.
    pub fn start(&mut self, kind: TimerKind, at: Instant) {
        self.deadlines[kind as usize].get_or_insert(at);
    }

    /// Removes a deadline.
    pub fn stop(&mut self, kind: TimerKind) {
        self.deadlines[kind as usize] = None;
    }

    /// Removes all deadlines.
    pub fn stop_all(&mut self) {
        self.deadlines = Default::default();
    }

    /// Whether a deadline is set.
    pub fn is_set(&self, kind: TimerKind) -> bool {
        self.deadlines[kind as usize].is_some()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<(Instant, TimerKind)> {
        KINDS
            .iter()
            .filter_map(|kind| Some((self.deadlines[*kind as usize]?, *kind)))
            .min_by_key(|(at, _)| *at)
    }

    /// Removes and returns an expired timer.
    pub fn expire(&mut self, now: Instant) -> Option<TimerKind> {
        let (at, kind) = self.next()?;
        (at <= now).then(|| {
            self.stop(kind);
            kind
        })
    }
}
