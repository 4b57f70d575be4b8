//! From the relay to an address and back: rounds of the check list, and failover.

use core::{net::SocketAddr, time::Duration};

use super::{
    Paths,
    challenge::Challenge,
    relay::Relay,
    watch::{Alarm, Rtt},
};
use crate::{
    crypto::entropy::Entropy,
    time::Instant,
    tunnel::{
        candidates::{Candidates, PathClass},
        route::Route,
    },
    wire::seq::SeqNumber,
};

/// How long an address that failed is not used again, although it may answer. It doubles with each failure
/// within [`FLAPPING`], so that a path that comes and goes is used seldom.
const DWELL_MIN: Duration = Duration::from_secs(1);
const DWELL_MAX: Duration = Duration::from_secs(32);
const FLAPPING: Duration = Duration::from_secs(60);

/// Shortest interval between two occasions on which the peer's use of the relay puts the address in doubt.
const ADVICE: Duration = Duration::from_secs(5);

/// What the watch over the address in use found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tunnel) enum Silence {
    /// Nothing new.
    None,
    /// It is silent: perhaps we are elsewhere.
    Noticed,
    /// It was left for the relay.
    Left,
}

/// Past failures of direct paths.
#[derive(Debug, Default)]
pub(super) struct Failovers {
    last: Option<(Instant, Duration)>,
    advised_at: Option<Instant>,
}

impl Failovers {
    /// A direct path failed. Returns until when it is not used.
    fn on_failed(&mut self, now: Instant) -> Instant {
        let dwell = self.recent(now).map_or(DWELL_MIN, |dwell| (dwell * 2).clamp(DWELL_MIN, DWELL_MAX));
        self.last = Some((now, dwell));
        now + dwell
    }

    /// The same if its silence was short, which does not count the first time.
    fn on_unanswered(&mut self, now: Instant) -> Instant {
        if self.recent(now).is_some() {
            return self.on_failed(now);
        }
        self.last = Some((now, Duration::ZERO));
        now
    }

    fn recent(&self, now: Instant) -> Option<Duration> {
        let recent = self.last.filter(|(at, dwell)| now.saturating_since(*at) < FLAPPING + *dwell);
        recent.map(|(_, dwell)| dwell)
    }
}

impl Paths {
    /// The peer named its addresses. The address in use is in doubt if the peer no longer names it; then
    /// frames go through the relay until it answers. What was sent later and arrived before says more.
    pub(in crate::tunnel) fn on_told(
        &mut self,
        now: Instant,
        told: &Candidates,
        is_overtaken: bool,
        own: &Candidates,
        entropy: &mut Entropy,
    ) {
        let told = Candidates::new(told.iter().filter(|candidate| own.may_reach(candidate.address)));
        let was_named = self.endpoint().filter(|address| self.checks.names(*address));
        if self.checks.set_told(&told) && (self.relay.is_some() || self.is_direct()) {
            self.checks.start(now);
        }
        if !is_overtaken && was_named.is_some_and(|address| !self.checks.names(address)) {
            self.suspect_active(now, entropy);
        }
    }

    /// The registry names further addresses.
    pub(in crate::tunnel) fn on_registry_list(&mut self, now: Instant, named: &[SocketAddr]) {
        if self.checks.set_registry(named.iter().copied()) && self.is_proven() {
            self.checks.start(now);
        }
    }

    /// A beacon says that the peer is at this address.
    pub(in crate::tunnel) fn on_punched(&mut self, now: Instant, to: SocketAddr, entropy: &mut Entropy) {
        self.checks.add_punched(to);
        if !self.is_direct()
            && let Some(path) = self.named(now, to)
        {
            path.check(now, entropy);
        }
    }

    /// The IPv4 endpoint at which a beacon saw the peer last.
    pub(in crate::tunnel) fn punched(&self) -> Option<SocketAddr> {
        self.checks.punched()
    }

    /// The peer may have left the address in use: it is not used again before it answers.
    pub(in crate::tunnel) fn suspect_active(&mut self, now: Instant, entropy: &mut Entropy) {
        if let Some(path) = &mut self.active {
            path.is_suspect = true;
            path.hold_until = now;
            path.challenge(now, entropy);
        }
        if self.is_relayed() {
            self.checks.start(now);
        }
        self.watch.reset();
    }

    /// The peer uses the relay. If the address in use has been silent, too, it is not used before it answers.
    pub(super) fn on_advice(&mut self, now: Instant, is_native: bool, entropy: &mut Entropy) {
        let Some(path) = self.active.as_ref().filter(|path| path.is_usable()) else { return };
        let is_early = self.failovers.advised_at.is_some_and(|at| now < at + ADVICE);
        let is_lull = is_native && self.watch.is_lull(now);
        let is_silent = is_lull || self.watch.is_silent(now, &path.rtt);
        if is_silent && !is_early {
            self.failovers.advised_at = Some(now);
            self.suspect_active(now, entropy);
        }
    }

    /// Frames go through the relay: begins to look for something better, unless that is under way. Returns
    /// whether it began.
    pub(in crate::tunnel) fn seek(&mut self, now: Instant) -> bool {
        let is_new = self.is_relayed() && !self.checks.is_running();
        if is_new {
            self.checks.start(now);
        }
        is_new
    }

    /// The next deadline of rounds and of the watch.
    pub(in crate::tunnel) fn poll_upgrade(&self) -> Option<Instant> {
        let all = [self.checks.poll_timeout(), self.watch.poll_timeout(), self.poll_moves()];
        all.into_iter().flatten().min()
    }

    /// Whether a round of the check list is due. Without traffic there are no more.
    pub(in crate::tunnel) fn is_round_due(&mut self, now: Instant, has_traffic: bool) -> bool {
        if self.checks.poll_timeout().is_none_or(|at| now < at) {
            return false;
        }
        if !has_traffic {
            self.checks.stop();
        }
        has_traffic
    }

    /// A round: challenges every address that would be better than the path in use.
    pub(in crate::tunnel) fn begin_round(&mut self, now: Instant, entropy: &mut Entropy) {
        let is_relayed = !self.is_direct();
        self.checks.next_round(now, is_relayed);
        if is_relayed && let Some(path) = &mut self.active {
            path.check(now, entropy);
            if path.is_suspect && self.relay.as_ref().is_some_and(|relay| !relay.has_answered) {
                // The relay is silent, too: whatever comes back first is used.
                self.checks.hasten(now + DWELL_MIN);
            }
        }
        for check in self.checks.iter().collect::<Vec<_>>() {
            let is_ignored =
                self.ignored.iter().any(|(address, until)| *address == check.address && now < *until);
            if self.endpoint() == Some(check.address) || !self.is_better(check.address) || is_ignored {
                continue;
            }
            if let Some(path) = self.named(now, check.address) {
                path.check(now, entropy);
            }
        }
        if is_relayed {
            for path in self.candidates.iter_mut().filter(|path| !path.is_told) {
                path.check(now, entropy);
            }
        }
    }

    /// Frames go another way, to the relay with `is_relayed`. Returns whether those on their way are lost:
    /// the way before was silent.
    pub(in crate::tunnel) fn on_route_changed(&mut self, is_relayed: bool) -> bool {
        let Some(relay) = &mut self.relay else { return true };
        let has_answered = core::mem::replace(&mut relay.has_answered, false);
        is_relayed || !has_answered
    }

    /// Something that the peer answers was sent to the address in use. Returns whether the watch was set.
    pub(in crate::tunnel) fn on_sent_eliciting(&mut self, now: Instant) -> bool {
        let Some(path) = self.active.as_ref().filter(|path| path.is_usable()) else { return false };
        self.relay.is_some() && self.watch.on_sent(now, &path.rtt)
    }

    /// The largest retransmission timeout of the peer's connections.
    pub(in crate::tunnel) fn set_connections_rto(&mut self, rto: Option<Duration>) {
        self.watch.of_connections = rto;
    }

    /// Whether the watch is due.
    pub(in crate::tunnel) fn is_watch_due(&self, now: Instant) -> bool {
        self.watch.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Handles the watch: pings the address in use, or leaves it for the relay.
    pub(in crate::tunnel) fn handle_watch(&mut self, now: Instant, entropy: &mut Entropy) -> Silence {
        let Some(path) = self.active.as_mut().filter(|path| path.is_usable()) else {
            self.watch.reset();
            return Silence::None;
        };
        let relay_delay = self.relay.as_ref().and_then(Relay::delay);
        match self.watch.handle_timeout(now, &path.rtt, relay_delay) {
            None => Silence::None,
            Some(Alarm::Ping) => {
                path.challenge = None;
                path.check(now, entropy);
                Silence::Noticed
            }
            Some(Alarm::Quiet) => {
                path.challenge = Some(Challenge::announcing(now, entropy));
                Silence::Noticed
            }
            Some(Alarm::Failed | Alarm::Unanswered) if self.relay.is_none() => Silence::None,
            Some(Alarm::Unanswered) => {
                let hold_until = self.failovers.on_unanswered(now);
                self.suspect_active(now, entropy);
                if let Some(path) = &mut self.active {
                    path.hold_until = hold_until;
                }
                Silence::Left
            }
            Some(Alarm::Failed) => {
                path.is_suspect = true;
                path.challenge = None;
                path.hold_until = self.failovers.on_failed(now);
                self.checks.start(now + DWELL_MIN);
                Silence::Left
            }
        }
    }

    /// A frame of a native peer in use came: the end of a steady arrival is to be noticed. Returns whether the watch
    /// was set.
    pub(in crate::tunnel) fn await_end(&mut self) -> bool {
        self.relay.is_some() && self.is_direct() && self.watch.await_end()
    }

    /// A ping was sent by a route; through the relay it measures the round-trip time.
    pub(in crate::tunnel) fn on_ping(&mut self, now: Instant, to: Route, seq: SeqNumber) {
        if let Some(relay) = self.relay.as_mut().filter(|relay| relay.route() == to) {
            relay.ping = Some((seq, now));
        }
    }

    /// A pong came through the relay.
    pub(in crate::tunnel) fn on_relay_pong(&mut self, now: Instant, seq: SeqNumber) {
        if let Some(relay) = &mut self.relay
            && let Some((_, at)) = relay.ping.take_if(|(sent, _)| *sent == seq)
        {
            relay.rtt.on_sample(now.saturating_since(at));
        }
    }

    /// The round-trip time of the path in use.
    pub(in crate::tunnel) fn rtt(&self) -> Option<Duration> {
        let direct = self.active.as_ref().filter(|_| !self.is_relayed()).map(|path| path.rtt);
        let relayed = self.relay.as_ref().map(|relay| relay.rtt);
        direct.or(relayed).as_ref().and_then(Rtt::smoothed)
    }

    /// The class of the path in use; `None` through the relay.
    pub(in crate::tunnel) fn path_class(&self) -> Option<PathClass> {
        self.class()
    }
}
