//! Opening frames, and the switch between candidate, current and previous session.

use super::{Local, Opened, Outbox, PREVIOUS_LIFETIME, Peer, REINSTATE, SessionRole};
use crate::{
    crypto::{Suite, exchange::ExchangeKey},
    time::Instant,
    tunnel::{OpenError, Route, Session, TunnelEvent, path::Arrival},
    wire::{
        packet::{Header, Protocol},
        tunnel::SealedHeader,
    },
};

impl Peer {
    /// Opens a sealed frame, in place or into `scratch`. [`Self::on_opened`] must be called before the packet
    /// is processed; it must not be called if the packet's source is not the peer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &mut self,
        now: Instant,
        header: SealedHeader,
        frame: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Opened, OpenError> {
        let is_alone = self.candidate.is_none() && self.previous.is_none();
        let Some(current) = self.current.as_mut() else { return Err(OpenError::Unauthentic) };
        if is_alone && current.is_settled() {
            let is_newest = current.open_in_place(header, frame)?;
            return Ok(Opened { is_in_place: true, role: SessionRole::Current, is_newest });
        }
        self.previous.take_if(|(_, until)| now >= *until);
        let before = current.suite();
        let opened = self.open_under_any(header, frame, scratch);
        self.trace_suite(before);
        opened
    }

    /// Opens a frame under the first session that can.
    fn open_under_any(
        &mut self,
        header: SealedHeader,
        frame: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Opened, OpenError> {
        let current = self.current.as_mut().map(|session| (SessionRole::Current, session));
        let candidate = self.candidate.as_mut().map(|(session, _)| (SessionRole::Candidate, session));
        let previous = self.previous.as_mut().map(|(session, _)| (SessionRole::Previous, session));
        let mut why = None;
        for (role, session) in [current, candidate, previous].into_iter().flatten() {
            match session.open_to(header, frame, scratch) {
                Ok(is_newest) => return Ok(Opened { is_in_place: false, role, is_newest }),
                Err(error) if why.is_none() || error == OpenError::Reflected => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or(OpenError::Unauthentic))
    }

    /// Fast path of [`Self::on_opened`] for most frames: same session, same address, nothing else to do.
    /// Returns whether it applied.
    pub fn on_opened_again(&mut self, now: Instant, opened: Opened, from: Route, len: usize) -> bool {
        let is_usual =
            opened.role == SessionRole::Current && self.paths.is_stable_at(from) && !self.retired.is_full();
        if is_usual {
            (self.last_rx, self.current_rx) = (now, now);
            (self.is_late, self.hello_at, self.heard_from) = (false, None, Some(from));
            self.is_overtaken = !opened.is_newest;
            self.paths.on_heard(now, from, len);
            if self.is_active && self.capabilities.is_some() {
                self.needs_arming |= self.paths.await_end();
            }
        }
        is_usual
    }

    /// Updates sessions and paths after a frame of `len` bytes opened, whose packet has
    /// this header. Returns whether the peer now uses another key.
    #[expect(clippy::too_many_arguments, reason = "inputs of one frame")]
    pub fn on_opened(
        &mut self,
        now: Instant,
        opened: Opened,
        from: Route,
        len: usize,
        header: &Header,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) -> bool {
        if from.direct().is_some_and(|from| self.endpoint() != Some(from)) {
            self.silence = self.silence.max(now.saturating_since(self.last_rx));
        }
        let purpose = self.purpose(header);
        self.last_rx = now;
        (self.heard_from, self.is_overtaken) = (Some(from), !opened.is_newest);
        let mut is_new = false;
        match opened.role {
            SessionRole::Current => {}
            SessionRole::Candidate => {
                is_new = self.promote(now);
                if is_new && from.is_relayed() {
                    // The other process may be elsewhere.
                    self.paths.suspect_active(now, local.entropy);
                }
            }
            SessionRole::Previous if now.saturating_since(self.current_rx) >= REINSTATE => {
                is_new = self.reinstate(now)
            }
            SessionRole::Previous => {
                self.is_late = true;
                self.paths.on_unauthenticated(from, len);
                return false;
            }
        }
        self.current_rx = now;
        self.is_late = false;
        self.hello_at = None;
        if self.suite().is_some() {
            self.handshake = self.asked_at.take().map(|asked| now.saturating_since(asked));
        }
        let may_advise = match self.capabilities {
            // A native peer sends what belongs to streams through the relay only if it has no better way.
            Some(_) => header.protocol != Protocol::Control,
            None => !(self.is_legacy && self.suite() == Some(Suite::G1)),
        };
        let is_native = self.capabilities.is_some();
        let arrival = Arrival { len, is_newest: opened.is_newest, purpose, may_advise, is_native };
        if self.paths.on_sealed(now, from, arrival, local.entropy) {
            self.on_move(true);
        }
        if self.is_active {
            self.paths.seek(now);
        }
        if self.retired.is_full() {
            self.renew_own_key(now, local, out);
        }
        self.send_challenges(now, local, out);
        is_new
    }

    /// Traces a newly detected suite.
    fn trace_suite(&mut self, before: Option<Suite>) {
        if let Some(suite) = self.suite().filter(|suite| before != Some(*suite)) {
            self.trace.event(|| TunnelEvent::SuiteLatched(suite));
        }
    }

    fn promote(&mut self, now: Instant) -> bool {
        let Some((candidate, _)) = self.candidate.take() else { return false };
        self.trace.event(|| TunnelEvent::Installed { is_reinstated: false });
        self.install(now, candidate)
    }

    /// Returns to the previous session: a delayed key and frame of an earlier process of the peer had been
    /// taken for new ones. The frame that triggers this is no replay, because the replay windows of the
    /// previous session were kept.
    fn reinstate(&mut self, now: Instant) -> bool {
        let Some((previous, _)) = self.previous.take() else { return false };
        self.retired.remove(&previous.peer_key);
        self.trace.event(|| TunnelEvent::Installed { is_reinstated: true });
        let is_new = self.install(now, previous);
        // Ask for its capabilities again.
        (self.probes, self.probe_at) = (0, Some(now));
        is_new
    }

    /// Makes a session the current one. Returns whether the peer's key changed.
    fn install(&mut self, now: Instant, session: Session) -> bool {
        let peer_key = session.peer_key;
        let before = self.suite();
        let old = self.current.replace(session);
        self.trace_suite(before);
        let Some(old) = old else { return true };
        let is_new = old.peer_key != peer_key;
        if is_new {
            self.retired.push(old.peer_key);
            self.capabilities = None;
            self.is_legacy = false;
        }
        self.previous = Some((old, now + PREVIOUS_LIFETIME));
        is_new
    }

    /// Replaces our exchange key, so that no frame sealed under the old one opens once the peer has the new
    /// one; until then the current session is used.
    pub(super) fn renew_own_key(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        let Ok(own) = ExchangeKey::from_secret(&local.entropy.next_32()) else { return };
        let (Some(current), Some(route)) = (&self.current, self.route()) else { return };
        let Ok(session) = Session::new(&own, current.peer_key, local.entropy.next_u32()) else { return };
        self.own = own;
        self.retired.on_own_key();
        self.candidate = Some((session, route));
        self.trace.event(|| TunnelEvent::Candidate { is_rekey: true });
        self.push_keys(route, true, local, out);
        self.probes = 0;
        self.send_probe(now, local, out);
    }
}
