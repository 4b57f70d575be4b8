//! Liveness timeouts: R2 of RFC 1122 section 4.2.3.5, keepalive, idle timeout, and the timeout of orphaned
//! connections. Time in which this process was suspended is not counted.

use core::time::Duration;

use super::{CloseReason, Connection, State, TimerKind};
use crate::time::Instant;

/// A timer processed this late shows that the process was suspended.
const SUSPENSION: Duration = Duration::from_secs(1);
/// Keepalives are this many intervals apart as long as the peer shows by other means that it is there: then they
/// only find out whether it still has the connection.
const SELDOM: u32 = 10;

impl Connection {
    /// Shifts the liveness timers by the time that this process was suspended, in which the peer could not be
    /// heard.
    pub(super) fn discount_suspension(&mut self, now: Instant) {
        let Some((at, _)) = self.timers.next() else { return };
        let suspension = now.saturating_since(at);
        if suspension < SUSPENSION {
            return;
        }
        self.last_arrival = (self.last_arrival + suspension).min(now);
        self.alive_at = (self.alive_at + suspension).min(now);
        if let Some(since) = &mut self.unanswered_since {
            *since = (*since + suspension).min(now);
        }
        if self.timers.is_set(TimerKind::Orphan) {
            self.timers.set(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    /// The peer acknowledged new data.
    pub(super) fn on_progress(&mut self, now: Instant) {
        self.timeouts = 0;
        self.unanswered_since = None;
        if self.is_orphaned {
            self.timers.set(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    /// Whether retransmission has failed for good (R2): after
    /// [`TransportConfig::give_up_after`](crate::config::TransportConfig::give_up_after), or for legacy peers
    /// after eight attempts, as they do themselves (`docs/reference/protocol/transport.md#dialects`).
    pub(super) fn has_reached_r2(&mut self, now: Instant) -> bool {
        let config = &self.options.config;
        let since = *self.unanswered_since.get_or_insert(now - self.rtt.rto());
        let has_exceeded_retries = self.timeouts > config.max_retransmissions;
        has_exceeded_retries
            && (self.options.dialect.is_legacy() || now.saturating_since(since) >= config.give_up_after)
    }

    /// Whether the SYN retries are exhausted, measured in time.
    pub(super) fn has_reached_syn_timeout(&self, now: Instant) -> bool {
        let config = &self.options.config;
        let wait = |n: u32| (config.syn_rto * (1 << n.min(16))).min(config.syn_rto_max);
        let limit: Duration = (0..=config.syn_retries).map(wait).sum();
        self.unanswered_since.is_some_and(|since| now.saturating_since(since) >= limit)
    }

    /// The peer shows by other means that it is there.
    pub fn on_peer_alive(&mut self, now: Instant) {
        if !self.options.dialect.is_legacy() {
            self.alive_at = now;
        }
    }

    /// When the peer last showed that it is there.
    fn last_sign(&self) -> Instant {
        self.last_arrival.max(self.alive_at)
    }

    /// The keepalive timer expired (RFC 9293 section 3.8.4).
    pub(super) fn on_keepalive_timeout(&mut self, now: Instant) {
        let config = &self.options.config;
        let seldom = self.last_arrival + config.keepalive * SELDOM;
        let due = (self.last_sign() + config.keepalive).min(seldom);
        self.is_keepalive_due = now >= due;
        let idle_at = self.last_arrival + config.keepalive;
        if now >= idle_at {
            // Free the recycled chunks of an idle connection.
            self.receiver.queue.trim();
        }
        let repeat =
            if self.options.dialect.is_legacy() { config.keepalive } else { config.keepalive_repeat };
        let next = if now >= due {
            now + repeat
        } else if now < idle_at {
            idle_at.min(due)
        } else {
            due
        };
        self.timers.set(TimerKind::Keepalive, next);
    }

    /// The idle timer expired: closes the connection unless something arrived.
    pub(super) fn on_idle_timeout(&mut self, now: Instant) {
        let config = &self.options.config;
        let is_probed = self.timers.is_set(TimerKind::Keepalive) && !self.options.dialect.is_legacy();
        let first_probe = if is_probed { config.keepalive } else { Duration::ZERO };
        let due = self.last_sign() + first_probe + config.idle_timeout;
        if now < due {
            self.timers.set(TimerKind::Idle, due);
        } else {
            self.is_rst_due = self.state.is_synchronized();
            self.fail(CloseReason::IdleTimeout);
        }
    }

    /// The application closed the connection: the orphan timer bounds how long an unresponsive peer keeps it.
    pub(super) fn orphan(&mut self, now: Instant) {
        self.is_orphaned = true;
        let is_over = matches!(self.state, State::Closed | State::Listen | State::TimeWait);
        if !is_over {
            self.timers.start(TimerKind::Orphan, now + self.options.config.orphan_timeout);
        }
    }

    pub(super) fn on_orphan_timeout(&mut self) {
        self.is_rst_due = self.state.is_synchronized();
        self.fail(CloseReason::RetransmissionTimeout);
    }

    /// An authenticated frame of the peer arrived after an outage: backed-off timers expire now.
    pub fn on_peer_reachable(&mut self, now: Instant) {
        self.retry_syn();
        if self.timeouts > 0 && self.timers.is_set(TimerKind::Retransmission) {
            self.rtt.reset_back_off();
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
