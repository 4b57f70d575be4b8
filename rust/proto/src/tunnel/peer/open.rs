//! Frames that open, and which session goes on because of them.

use core::net::SocketAddr;

use super::{By, Local, Opened, Outbox, PREVIOUS_LIFETIME, Peer, REINSTATE};
use crate::{
    crypto::{Suite, exchange::ExchangeKey},
    time::Instant,
    tunnel::{OpenError, Session, TunnelEvent},
    wire::tunnel::SealedHeader,
};

impl Peer {
    /// Opens a sealed frame, in place or into `scratch`. Whatever it says, [`Self::on_opened`] must
    /// follow before the packet is acted upon, unless it is not the peer's.
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
            return Ok(Opened { is_in_place: true, by: By::Current, is_newest });
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
        let current = self.current.as_mut().map(|session| (By::Current, session));
        let candidate = self.candidate.as_mut().map(|(session, _)| (By::Candidate, session));
        let previous = self.previous.as_mut().map(|(session, _)| (By::Previous, session));
        let mut why = None;
        for (by, session) in [current, candidate, previous].into_iter().flatten() {
            match session.open_to(header, frame, scratch) {
                Ok(is_newest) => return Ok(Opened { is_in_place: false, by, is_newest }),
                Err(error) if why.is_none() || error == OpenError::Reflected => why = Some(error),
                Err(_) => {}
            }
        }
        Err(why.unwrap_or(OpenError::Unauthentic))
    }

    /// The same if nothing else can follow from it, which is so for most frames: it is where it was, and
    /// goes on as before.
    pub fn on_opened_again(&mut self, now: Instant, opened: Opened, from: SocketAddr) -> bool {
        let is_usual = opened.by == By::Current && self.paths.is_settled(from) && !self.retired.is_full();
        if is_usual {
            (self.last_rx, self.current_rx) = (now, now);
            (self.is_late, self.hello_at, self.heard_from) = (false, None, Some(from));
        }
        is_usual
    }

    /// The peer sealed a packet of its own, which came in a frame of `len` bytes. Returns whether it goes
    /// on under another key.
    pub fn on_opened(
        &mut self,
        now: Instant,
        opened: Opened,
        from: SocketAddr,
        len: usize,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) -> bool {
        self.last_rx = now;
        self.heard_from = Some(from);
        let mut is_new = false;
        match opened.by {
            By::Current => {}
            By::Candidate => is_new = self.promote(now),
            By::Previous if now.saturating_since(self.current_rx) >= REINSTATE => {
                is_new = self.reinstate(now)
            }
            By::Previous => {
                self.is_late = true;
                self.paths.on_unproven(from, len);
                return false;
            }
        }
        self.current_rx = now;
        self.is_late = false;
        self.hello_at = None;
        self.paths.on_sealed(now, from, len, opened.is_newest, local.entropy);
        if self.retired.is_full() {
            self.renew_own_key(now, local, out);
        }
        self.send_challenges(now, local, out);
        is_new
    }

    /// Records which suite a frame that opened has shown, if that is news.
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

    /// The peer goes on under the session before the current one: what an earlier process had sent, its
    /// key and a frame under it, came late and was taken for news. The frame that shows it is no replay,
    /// since the replay windows of that session have lived on.
    fn reinstate(&mut self, now: Instant) -> bool {
        let Some((previous, _)) = self.previous.take() else { return false };
        self.retired.remove(&previous.peer_key);
        self.trace.event(|| TunnelEvent::Installed { is_reinstated: true });
        let is_new = self.install(now, previous);
        // Ask anew who that is.
        (self.probes, self.probe_at) = (0, Some(now));
        is_new
    }

    /// Goes on under another session. Returns whether its key is another one of the peer's.
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

    /// Replaces our exchange key, so that nothing that was ever sealed under its predecessor opens again,
    /// once the peer has the new one; until then the present session goes on.
    pub(super) fn renew_own_key(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        let Ok(own) = ExchangeKey::from_secret(&local.entropy.next_32()) else { return };
        let (Some(current), Some(endpoint)) = (&self.current, self.endpoint()) else { return };
        let Ok(session) = Session::new(&own, current.peer_key, local.entropy.next_u32()) else { return };
        self.own = own;
        self.retired.on_own_key();
        self.candidate = Some((session, endpoint));
        self.trace.event(|| TunnelEvent::Candidate { is_rekey: true });
        self.push_keys(endpoint, true, local, out);
        self.probes = 0;
        self.send_probe(now, local, out);
    }
}
