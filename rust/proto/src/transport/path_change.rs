//! Path changes (RFC 9000 section 9.4): congestion control, round-trip time and pacing belong to a path, not
//! to the connection. The state of a path that is left is kept for a while, so that a path to which traffic
//! returns need not be learnt again. Nothing here knows what a path is; the node names each by a number.

use core::time::Duration;

use super::{
    Connection, PathKey, State,
    connection::{LossProbe, WindowUse},
    pacing::Pacer,
    path_state::{LeftPath, MAX_LEFT},
    rtt::RttEstimator,
    send::{Patience, Recovery},
    timer::TimerKind,
    trace::TransportEvent,
};
use crate::time::Instant;

/// How long the state of a path is kept after it was left.
const LIFETIME: Duration = Duration::from_secs(60);
/// What arrived within this time was perhaps acknowledged in vain.
const RECENT: Duration = Duration::from_secs(2);

/// What is known of the path that is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OldPath {
    /// It works: segments in flight on it arrive in their own time.
    Works,
    /// It is silent, or the peer is no longer there: segments in flight on it are retransmitted at once.
    Dead,
}

impl Connection {
    /// The path that segments take.
    pub fn path(&self) -> PathKey {
        self.path
    }

    /// Names the first path. Must precede the first dispatch.
    pub fn set_path(&mut self, key: PathKey) {
        self.path = key;
        self.sender.set_first_path(key);
    }

    /// Segments take another path from now on.
    ///
    /// To be called before [`Self::set_max_segment`] and [`Self::on_path_mtu_reduced`] for the new path, and
    /// followed by [`Self::dispatch`]. A path that was left less than a minute ago continues with its state,
    /// any other one starts anew. Segments in flight on the old path do not count in the new one's congestion
    /// window, their acknowledgements measure nothing, and with [`OldPath::Works`] they are lost only by what
    /// happens on their own path. With the same `key` (a NAT gave the peer another port) and
    /// [`OldPath::Dead`], only what has already timed out is retransmitted.
    pub fn on_path_changed(&mut self, now: Instant, key: PathKey, old: OldPath) {
        if old == OldPath::Dead {
            self.retry_syn();
            self.is_syn_due |= self.state == State::SynReceived;
        }
        if key == self.path {
            if old == OldPath::Dead {
                self.retry_timed_out(now);
            }
            return;
        }
        self.settle(now, old);
        let patience = Patience { timeout: self.rtt.expected(), reo_wnd: self.min_rtt() / 4 };
        let is_known = self.swap_state(now, key);
        self.sender.change_path(now, key, is_known, (old == OldPath::Works).then_some(patience));
        self.recorder.trace.event(|| TransportEvent::PathChanged { path: key, is_known });
        (self.timeouts, self.dup_acks, self.has_undone_timeout) = (0, 0, false);
        (self.probe, self.window_use) = (LossProbe::default(), WindowUse::default());
        if matches!(self.state, State::SynSent | State::SynReceived) {
            // The answer to a SYN on the old path measures nothing.
            self.syn_sent_at = None;
            return;
        }
        for kind in [TimerKind::LossProbe, TimerKind::Reordering, TimerKind::Pacing] {
            self.timers.stop(kind);
        }
        if old == OldPath::Dead && now.saturating_since(self.last_arrival) < RECENT {
            self.receiver.ack.request();
        }
        self.pacer.set_rate(self.congestion.pacing_rate(self.rtt.srtt()));
        self.detect_loss(now, self.sender.in_flight());
        self.arm_retransmission(now);
        self.trace_metrics();
    }

    /// What is on its way by the paths that were left does not arrive: the peer has moved.
    pub fn on_left_paths_dead(&mut self, now: Instant) {
        if self.state.is_synchronized() && self.sender.give_up_left() {
            self.arm_retransmission(now);
        }
    }

    /// A NAT gave the peer another port: the path is the same, but what timed out went to the old port.
    fn retry_timed_out(&mut self, now: Instant) {
        if self.timeouts == 0 || self.sender.outstanding() == 0 {
            return;
        }
        self.timeouts = 0;
        self.rtt.reset_back_off();
        self.timers.stop(TimerKind::LossProbe);
        self.timers.set(TimerKind::Retransmission, now);
    }

    /// Ends the loss episode of the path that is left, so that its state can be continued later.
    fn settle(&mut self, now: Instant, old: OldPath) {
        match self.sender.recovery {
            Recovery::Open => {}
            // A path that failed is not congested.
            Recovery::Timeout { .. } if old == OldPath::Dead => self.congestion.undo(),
            Recovery::Timeout { .. } | Recovery::Fast { .. } => self.congestion.on_recovered(),
        }
        if self.sender.recovery != Recovery::Open {
            self.end_recovery(false);
        }
        self.undo = None;
        self.rtt.reset_back_off();
        self.left_paths.retain(|path| now.saturating_since(path.left_at) < LIFETIME);
    }

    /// Stores the state of the current path and continues with that of `key`. Returns whether it was known.
    fn swap_state(&mut self, now: Instant, key: PathKey) -> bool {
        let known = self.left_paths.iter().position(|path| path.key == key);
        let next = match known {
            Some(at) => {
                let mut path = self.left_paths.remove(at);
                path.congestion.on_resumed(now.saturating_since(path.left_at));
                path.congestion.set_smss(self.options.max_segment);
                path
            }
            None => LeftPath {
                key,
                left_at: now,
                rtt: RttEstimator::new(&self.options.config),
                congestion: super::connection::controller(&self.options),
                pacer: Pacer::default(),
                delivery_rate: 0,
            },
        };
        let left = LeftPath {
            key: core::mem::replace(&mut self.path, key),
            left_at: now,
            rtt: core::mem::replace(&mut self.rtt, next.rtt),
            congestion: core::mem::replace(&mut self.congestion, next.congestion),
            pacer: core::mem::replace(&mut self.pacer, next.pacer),
            delivery_rate: core::mem::replace(&mut self.delivery_rate, next.delivery_rate),
        };
        self.left_paths.push(left);
        if self.left_paths.len() > MAX_LEFT {
            self.left_paths.remove(0);
        }
        known.is_some()
    }
}
