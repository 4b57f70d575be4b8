//! Challenges that are due, and what their answers decide.

use core::{net::SocketAddr, time::Duration};

use super::{CHALLENGE_TIMER, MAX_CANDIDATES, Path, PathChange, Paths, Token};
use crate::{crypto::entropy::Entropy, time::Instant, tunnel::route::Route};

/// How long an address is ignored after the peer was found to be still at its previous one.
const IGNORE_FOR: Duration = Duration::from_secs(2);
/// How long a validated address that is not in use is remembered.
const STANDBY: Duration = Duration::from_secs(60);

impl Paths {
    /// The challenge data of a ping to an address, so that its answer validates the address; `None` if it is
    /// validated, and through the relay. The ping counts as the first challenge.
    pub(in crate::tunnel) fn token_for(
        &mut self,
        now: Instant,
        to: Route,
        entropy: &mut Entropy,
    ) -> Option<Token> {
        let path = self.find_mut(to.direct()?).filter(|path| !path.is_usable())?;
        path.challenge(now, entropy);
        let challenge = path.challenge.as_mut()?;
        challenge.due = challenge.due.max(now + CHALLENGE_TIMER);
        Some(challenge.token)
    }

    /// The next deadline.
    pub(in crate::tunnel) fn poll_timeout(&self) -> Option<Instant> {
        let due =
            |path: &Path| path.challenge.as_ref().filter(|last| !last.is_exhausted()).map(|last| last.due);
        let all = self.active.iter().chain(&self.candidates).chain(&self.previous).filter_map(due);
        all.chain(self.candidates.iter().map(|path| path.until)).min()
    }

    /// Returns the challenges that are due and drops candidates that failed. `asked` is pinged anyway.
    pub(in crate::tunnel) fn handle_timeout(
        &mut self,
        now: Instant,
        asked: Option<Route>,
    ) -> Vec<(SocketAddr, Token)> {
        let is_over = |path: &Path| path.challenge.is_some_and(|last| last.is_failed(now));
        let checks = &mut self.checks;
        self.candidates.retain(|path| {
            if is_over(path) {
                checks.on_failed(path.address);
            }
            path.until > now && !is_over(path)
        });
        self.previous.take_if(|path| is_over(path));
        let mut due = Vec::new();
        for path in self.all_mut() {
            let Some(challenge) = path.challenge.as_mut().filter(|last| last.due <= now) else { continue };
            if challenge.is_exhausted() {
                if path.is_validated && !path.is_suspect {
                    path.challenge = None;
                }
                continue;
            }
            challenge.wait(now);
            if asked == Some(Route::Direct(path.address)) {
                continue;
            }
            challenge.on_sent(now);
            path.until = path.until.max(challenge.due + CHALLENGE_TIMER);
            due.push((path.address, challenge.token));
        }
        due
    }

    /// The peer answered a challenge by this route. An answer that came through a beacon counts with
    /// `may_be_relayed`: some legacy peers send everything there once they received a relayed frame, and
    /// what is validated is the address that the challenge was sent to (RFC 9000 section 8.2.3).
    pub(in crate::tunnel) fn on_answer(
        &mut self,
        now: Instant,
        from: Route,
        token: Token,
        may_be_relayed: bool,
    ) -> PathChange {
        let from = from.direct();
        if from.is_none() && !may_be_relayed {
            return PathChange::None;
        }
        let is_answered = |path: &Path| path.is_answered_by(from, token);
        if self.active.as_ref().is_some_and(is_answered) {
            return self.on_active_answer(now);
        }
        if self.previous.as_ref().is_some_and(is_answered) {
            // The first answer was forwarded by an on-path attacker; the peer has not moved (section 9.3.3).
            let previous = self.previous.take();
            let elsewhere = core::mem::replace(&mut self.active, previous);
            self.ignore(now, elsewhere.map(|path| path.address));
            return self.switch_path(now);
        }
        let Some(at) = self.candidates.iter().position(is_answered) else { return PathChange::None };
        self.on_candidate_answer(now, at)
    }

    fn on_active_answer(&mut self, now: Instant) -> PathChange {
        let is_on_trial = self.is_on_trial();
        let Some(path) = &mut self.active else { return PathChange::None };
        let was_usable = path.is_usable();
        path.on_answered(now);
        self.watch.on_heard(now, &path.rtt);
        if path.is_suspect && now < path.hold_until {
            return PathChange::None;
        }
        path.is_suspect = false;
        self.on_settled();
        if is_on_trial {
            return PathChange::Moved;
        }
        if !was_usable {
            self.watch.begin(now);
            return PathChange::Validated;
        }
        self.ignore_candidates(now);
        PathChange::None
    }

    fn on_candidate_answer(&mut self, now: Instant, at: usize) -> PathChange {
        let address = self.candidates[at].address;
        self.checks.on_answered(address);
        let path = &mut self.candidates[at];
        // The peer or the registry says that it is there now, or it was only tried.
        let is_move = path.has_received || path.is_from_registry && !path.is_told;
        let is_upgrade = !is_move && self.class().is_some();
        if is_upgrade && !self.is_better(address) {
            // It works, but the one in use is as good.
            let path = &mut self.candidates[at];
            path.on_answered(now);
            path.until = now + STANDBY;
            return PathChange::None;
        }
        let moved = self.candidates.remove(at);
        let Some(before) = self.active.replace(moved) else { return self.switch_path(now) };
        if before.is_validated && before.challenge.is_some() {
            self.previous = Some(before);
        } else if before.is_usable() && self.candidates.len() < MAX_CANDIDATES {
            let path = Path { has_received: false, is_told: false, ..before };
            self.candidates.push(path.until(now + STANDBY));
        }
        let change = self.switch_path(now);
        if is_upgrade { PathChange::Upgraded } else { change }
    }

    /// Switches to another path.
    fn switch_path(&mut self, now: Instant) -> PathChange {
        if let Some(path) = &mut self.active {
            path.on_answered(now);
            (path.is_suspect, path.is_told) = (false, false);
            path.mtu.recheck(now);
        }
        self.on_settled();
        self.watch.begin(now);
        PathChange::Moved
    }

    /// The peer has not moved: other addresses belong to someone who forwards its frames.
    fn ignore_candidates(&mut self, now: Instant) {
        let is_asked = |path: &mut Path| path.has_received || path.is_from_registry && !path.is_told;
        let asked: Vec<_> = self.candidates.extract_if(.., is_asked).collect();
        self.ignore(now, asked.iter().filter(|path| path.has_received).map(|path| path.address));
    }

    fn ignore(&mut self, now: Instant, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            if self.ignored.len() >= MAX_CANDIDATES {
                self.ignored.pop_front();
            }
            self.ignored.push_back((address, now + IGNORE_FOR));
        }
    }
}
