//! Keys of the peer and what the registry says of them: how a session comes about and ends.

use core::net::SocketAddr;

use super::{Local, Outbox, Peer, RECOVERY_INTERVAL, REFRESH};
use crate::{
    crypto::{exchange::ExchangeKey, identity::verify_signed_key},
    time::Instant,
    tunnel::{KeyVerdict, Route, Session, TunnelEvent},
    wire::tunnel::{BARE_KEY_LEN, SIGNED_KEY_LEN, SignedKey},
};

impl Peer {
    /// Processes the registry record of the peer. An endpoint known to work is kept.
    pub fn on_record(
        &mut self,
        now: Instant,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        self.identity_key = Some(identity_key);
        if self.suite().is_none() || !self.paths.is_heard_directly() {
            if let Some(endpoint) = endpoint
                && self.paths.on_registry_endpoint(now, endpoint)
            {
                // The old address may belong to somebody else.
                self.hello_at = None;
            }
        } else if let Some(other) = endpoint.filter(|other| self.endpoint() != Some(*other)) {
            // It may have moved or restarted; its answer decides.
            if self.is_silent(now, REFRESH) && self.paths.on_registry_move(now, other, local.entropy) {
                self.push_keys(other.into(), true, local, out);
                self.send_challenges(now, local, out);
            }
        }
        // A frame of another identity is dropped.
        if let Some((frame, from)) =
            self.pending_key.take().filter(|(frame, _)| frame.identity_key == identity_key)
        {
            let _ = self.on_signed_key(now, &frame, from, local, out);
        }
        if self.is_active {
            self.activate(now, local, out);
        }
    }

    /// Drops every session and what the peer announced in them; `own` is our next exchange key.
    pub fn forget_sessions(&mut self, now: Instant, own: ExchangeKey) {
        self.own = own;
        (self.current, self.candidate, self.previous) = (None, None, None);
        (self.capabilities, self.boot_id, self.is_legacy) = (None, None, false);
        self.paths.invalidate(now);
        (self.hello_at, self.probe_at) = (None, None);
        (self.replied_at, self.relay_replied_at) = (None, None);
        self.trace.event(|| TunnelEvent::Forgotten);
    }

    /// Sends our signed key to a peer with a session.
    pub fn announce(&mut self, local: &Local<'_>, out: &mut Outbox) {
        if let Some(route) = self.route().filter(|_| self.current.is_some()) {
            self.push_keys(route, false, local, out);
        }
    }

    /// Verdict on a signed key without verifying it, if the key is or was in use.
    pub fn cached_verdict(&self, frame: &SignedKey) -> Option<KeyVerdict> {
        let own_key = self.own.public_key();
        if frame.exchange_key == own_key {
            return Some(KeyVerdict::Refused);
        }
        let known = [self.current.as_ref(), self.candidate.as_ref().map(|(session, _)| session)];
        let is_of = |session: &&Session| session.peer_key == frame.exchange_key && session.own_key == own_key;
        let is_known = known.iter().flatten().any(is_of);
        if is_known && self.identity_key == Some(frame.identity_key) {
            return Some(KeyVerdict::Accepted);
        }
        self.retired.contains(&frame.exchange_key).then_some(KeyVerdict::Refused)
    }

    /// Counts bytes that prove nothing towards what may be sent in return.
    pub fn on_unauthenticated(&mut self, from: Route, len: usize) {
        self.paths.on_unauthenticated(from, len);
    }

    /// A signed key arrived again that was accepted before. While nothing has opened under it, the copy that came
    /// through the relay is answered there, because our answer to the first may have been lost on its way.
    pub fn on_repeated_key(
        &mut self,
        now: Instant,
        from: Route,
        len: usize,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        self.on_unauthenticated(from, len);
        if from.is_relayed() && self.first_from.is_some() && self.reply(now, from, 0, local, out) {
            self.send_probe_to(now, from, local, out);
        }
    }

    /// Processes a signed key frame.
    pub fn on_signed_key(
        &mut self,
        now: Instant,
        frame: &SignedKey,
        from: Route,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) -> KeyVerdict {
        if let Some(verdict) = self.cached_verdict(frame) {
            return verdict;
        }
        let verdict = self.on_new_key(now, frame, from, local, out);
        self.trace.event(|| TunnelEvent::KeyReceived { from, verdict });
        verdict
    }

    fn on_new_key(
        &mut self,
        now: Instant,
        frame: &SignedKey,
        from: Route,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) -> KeyVerdict {
        if self.identity_key != Some(frame.identity_key) {
            self.pending_key = Some((frame.clone(), from));
            return KeyVerdict::NeedsIdentity;
        }
        if verify_signed_key(frame).is_err() {
            return KeyVerdict::Refused;
        }
        let Ok(session) = Session::new(&self.own, frame.exchange_key, local.entropy.next_u32()) else {
            return KeyVerdict::Refused;
        };
        self.paths.on_key(now, from, SIGNED_KEY_LEN);
        if self.current.is_none() {
            self.current = Some(session);
            self.current_rx = now;
            self.first_from = Some(from);
        } else {
            self.candidate = Some((session, from));
            self.trace.event(|| TunnelEvent::Candidate { is_rekey: false });
        }
        // A verified new key is answered at once, regardless of the reply interval.
        (self.replied_at, self.relay_replied_at) = (None, None);
        self.reply(now, from, 0, local, out);
        self.probes = 0;
        self.send_probe(now, local, out);
        KeyVerdict::Accepted
    }

    /// Takes a bare key frame: unauthenticated, a request for our signed key.
    pub fn on_bare_key(&mut self, now: Instant, from: Route, local: &mut Local<'_>, out: &mut Outbox) {
        self.reply(now, from, BARE_KEY_LEN, local, out);
    }

    /// No session opens a sealed frame: the peer may use a session that we have lost.
    pub fn on_unopened(
        &mut self,
        now: Instant,
        from: Route,
        len: usize,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        let is_early = self.recovery_at.is_some_and(|at| now < at + RECOVERY_INTERVAL);
        if is_early || self.suite().is_some() {
            return;
        }
        self.recovery_at = Some(now);
        self.answer(from, len, true, local, out);
    }
}
