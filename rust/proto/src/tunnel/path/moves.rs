//! Changes of address that are announced (RFC 9000 section 9.2): our own, and the peer's.
//!
//! The peer is where it was when our own address changes, so frames go on to it at once. What does not get
//! through from the new address goes through the relay as soon as the beacon knows the new address.
//!
//! A native peer that says that it has moved is sent what it awaits to the new address before that is
//! validated, within the anti-amplification limit (section 9.3). If the address does not answer, or the one
//! before does, that was a mistake.

use core::{net::SocketAddr, time::Duration};

use super::{Paths, challenge::Challenge};
use crate::{crypto::entropy::Entropy, time::Instant};

/// Bounds of the time in which an answer from or to a new address is waited for before the relay is used.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// The same once the relay is known to work.
const RELAY_PATIENCE: Duration = Duration::from_millis(150);

/// Moves whose outcome is open.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// When our own address changed, if the peer has not answered to the new one.
    own: Option<Instant>,
    /// When the relay is used if it has not.
    relay_at: Option<Instant>,
    trial: Option<Trial>,
}

/// An address at which the peer says that it is now.
#[derive(Clone, Copy, Debug)]
struct Trial {
    address: SocketAddr,
    /// When it is looked at.
    due: Instant,
    /// The peer asks for the relay.
    is_relay_wanted: bool,
}

impl Paths {
    /// Whether frames go to an address where the peer says that it is, and that is not validated yet.
    pub(in crate::tunnel) fn is_on_trial(&self) -> bool {
        let trial = self.moves.trial.filter(|trial| self.endpoint() == Some(trial.address));
        trial.is_some() && self.active.as_ref().is_some_and(|path| !path.is_validated && !path.is_suspect)
    }

    /// The time in which the path in use answers.
    fn patience(&self) -> Duration {
        let rtt = self.active.as_ref().and_then(|path| path.rtt.smoothed()).unwrap_or(PATIENCE_MAX);
        (rtt * 3 / 2).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Our own address changed: says so to the peer. Without `is_native`, what lies between is in doubt.
    pub(in crate::tunnel) fn on_own_move(&mut self, now: Instant, is_native: bool, entropy: &mut Entropy) {
        if !is_native && self.relay.is_some() {
            self.suspect_active(now, entropy);
        }
        if let Some(relay) = &mut self.relay {
            relay.has_answered = false;
        }
        self.moves = Moves { own: is_native.then_some(now), ..Moves::default() };
        if let Some(path) = &mut self.active {
            path.challenge = Some(Challenge::announcing(now, entropy));
        }
        self.watch.reset();
    }

    /// A beacon saw us at another address while the one in use is silent: perhaps we have moved there. Returns whether
    /// that is so of this peer.
    pub(in crate::tunnel) fn on_seen_elsewhere(&mut self) -> bool {
        let since = self.watch.silent_since().filter(|_| self.relay.is_some() && self.moves.own.is_none());
        self.moves.own = since.or(self.moves.own);
        since.is_some()
    }

    /// Our home beacon knows our new address. Returns whether the peer is to be told through it.
    pub(in crate::tunnel) fn on_relay_ready(&mut self, now: Instant) -> bool {
        let is_open = self.relay.is_some() && self.moves.relay_at.is_none();
        let Some(since) = self.moves.own.filter(|_| is_open) else { return false };
        if self.is_direct() {
            let at = since + self.patience();
            self.moves.relay_at = Some(at.clamp(now, now + RELAY_PATIENCE));
        } else {
            self.moves.own = None;
        }
        true
    }

    /// The address in use answered, or another one is used.
    pub(super) fn on_settled(&mut self) {
        self.moves = Moves::default();
    }

    /// The peer says from a new address that it has moved there. Returns whether frames go there now.
    pub(super) fn begin_trial(&mut self, now: Instant, address: SocketAddr, entropy: &mut Entropy) -> bool {
        let at = self.candidates.iter().position(|path| path.address == address);
        let Some(at) = at.filter(|_| self.is_direct()) else { return false };
        self.moves.trial = Some(Trial { address, due: now + self.patience(), is_relay_wanted: false });
        let mut path = self.candidates.remove(at);
        path.challenge(now, entropy);
        if let Some(mut before) = self.active.replace(path) {
            before.challenge(now, entropy);
            self.previous = Some(before);
        }
        self.watch.reset();
        true
    }

    /// The peer says through the relay that it has moved. Returns whether frames are to be sent there.
    pub(in crate::tunnel) fn on_peer_moved(&mut self, now: Instant, entropy: &mut Entropy) -> bool {
        if self.is_on_trial()
            && let Some(trial) = &mut self.moves.trial
        {
            trial.is_relay_wanted = true;
            trial.due = trial.due.min(now + PATIENCE_MIN);
            return false;
        }
        if self.is_direct() {
            self.suspect_active(now, entropy);
        }
        true
    }

    /// The next deadline.
    pub(super) fn poll_moves(&self) -> Option<Instant> {
        let trial = self.moves.trial.filter(|_| self.is_on_trial()).map(|trial| trial.due);
        self.moves.relay_at.into_iter().chain(trial).min()
    }

    /// Leaves an address that did not answer in time for the relay.
    pub(in crate::tunnel) fn handle_moves(&mut self, now: Instant, entropy: &mut Entropy) {
        let mut is_silent = self.moves.relay_at.take_if(|at| *at <= now).is_some();
        if self.is_on_trial()
            && let Some(trial) = self.moves.trial.as_mut().filter(|trial| trial.due <= now)
        {
            let is_failed =
                self.active.as_ref().and_then(|path| path.challenge).is_none_or(|last| last.is_failed(now));
            is_silent |= trial.is_relay_wanted || is_failed;
            trial.due = now + PATIENCE_MIN;
        }
        if is_silent {
            self.moves = Moves::default();
            self.suspect_active(now, entropy);
        }
    }
}
