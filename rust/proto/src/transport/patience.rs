//! Timeouts of silence: R2 of RFC 1122 section 4.2.3.5, keepalive, idle time and orphaned connections. Time
//! in which the process was suspended does not count.

use core::time::Duration;

use super::{CloseReason, Connection, State, TimerKind};
use crate::time::Instant;

/// A timer that expires this late shows that the process was suspended.
const PAUSE: Duration = Duration::from_secs(1);

impl Connection {
    /// Extends silence timers by the time in which the process was suspended.
    pub(super) fn forgive_pause(&mut self, now: Instant) {
        let Some((at, _)) = self.timers.next() else { return };
        let pause = now.saturating_since(at);
        if pause < PAUSE {
            return;
        }
        self.last_arrival = (self.last_arrival + pause).min(now);
        if let Some(since) = &mut self.unanswered_since {
            *since = (*since + pause).min(now);
        }
        if self.timers.is_set(TimerKind::Orphan) {
            self.timers.set(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    /// The peer acknowledged something new.
    pub(super) fn on_progress(&mut self, now: Instant) {
        self.timeouts = 0;
        self.unanswered_since = None;
        if self.is_abandoned {
            self.timers.set(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    /// Whether retransmissions have reached their limit. Old peers give up after eight
    /// attempts, and so is given up on them
    /// (`docs/reference/protocol/transport.md#dialects`).
    pub(super) fn is_out_of_patience(&mut self, now: Instant) -> bool {
        let config = &self.options.config;
        let since = *self.unanswered_since.get_or_insert(now - self.rtt.rto());
        let is_tired = self.timeouts > config.max_retransmissions;
        is_tired && (self.options.dialect.is_legacy() || now.saturating_since(since) >= config.give_up_after)
    }

    /// Whether SYN retransmissions have reached their limit.
    pub(super) fn is_syn_out_of_patience(&self, now: Instant) -> bool {
        let config = &self.options.config;
        let wait = |n: u32| (config.syn_rto * (1 << n.min(16))).min(config.syn_rto_max);
        let patience: Duration = (0..=config.syn_retries).map(wait).sum();
        self.unanswered_since.is_some_and(|since| now.saturating_since(since) >= patience)
    }

    /// RFC 9293 section 3.8.4.
    pub(super) fn on_keepalive_timeout(&mut self, now: Instant) {
        let config = &self.options.config;
        let due = self.last_arrival + config.keepalive;
        self.is_keepalive_due = now >= due;
        if now >= due {
            // What data flows through again will need new chunks.
            self.receiver.queue.trim();
        }
        let repeat =
            if self.options.dialect.is_legacy() { config.keepalive } else { config.keepalive_repeat };
        let next = if now >= due { now + repeat } else { due };
        self.timers.set(TimerKind::Keepalive, next);
    }

    /// Closes the connection unless something arrived.
    pub(super) fn on_idle_timeout(&mut self, now: Instant) {
        let config = &self.options.config;
        let is_probed = self.timers.is_set(TimerKind::Keepalive) && !self.options.dialect.is_legacy();
        let first_probe = if is_probed { config.keepalive } else { Duration::ZERO };
        let due = self.last_arrival + first_probe + config.idle_timeout;
        if now < due {
            self.timers.set(TimerKind::Idle, due);
        } else {
            self.is_rst_due = self.state.is_synchronized();
            self.fail(CloseReason::IdleTimeout);
        }
    }

    /// The application is gone: starts the orphan timer, which progress of the peer restarts.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.is_abandoned = true;
        let is_over = matches!(self.state, State::Closed | State::Listen | State::TimeWait);
        if !is_over {
            self.timers.start(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    pub(super) fn on_orphan_timeout(&mut self) {
        self.is_rst_due = self.state.is_synchronized();
        self.fail(CloseReason::RetransmissionTimeout);
    }

    /// The peer is back after a silence: retransmits now instead of after a backed-off timer.
    pub fn on_peer_back(&mut self, now: Instant) {
        self.retry_syn();
        if self.timeouts > 0 && self.timers.is_set(TimerKind::Retransmission) {
            self.rtt.forget_back_off();
            self.timers.set(TimerKind::Retransmission, now);
        }
        if self.timers.is_set(TimerKind::Persist) {
            self.timers.set(TimerKind::Persist, now);
        }
        if self.timers.is_set(TimerKind::Keepalive)
            && now.saturating_since(self.last_arrival) >= self.options.config.keepalive
        {
            self.timers.set(TimerKind::Keepalive, now);
        }
    }
}
