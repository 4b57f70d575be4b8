//! Frames that the tunnel itself sends: keys, pings and challenges.

use super::{
    CHECK_INTERVAL, KEEPALIVE, KEEPALIVE_OF_PEER, KEEPALIVE_REPEAT, Local, Outbox, PATH_PORT, PING_PORT,
    Peer, REPLY_INTERVAL, STALL,
};
use crate::{
    config::SAFE_SEGMENT,
    crypto::Suite,
    time::Instant,
    tunnel::{Capabilities, Route, Session, TunnelEvent, path::Token, path_mtu::PathProbe},
    wire::{
        addr::{Address, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{BareKey, SEALED_HEADER_LEN, TAG_LEN},
    },
};
use core::time::Duration;

impl Peer {
    /// Whether path MTU probes may be sent: only in use, to native peers, which answer padded pings with
    /// short ones, and where the peer has proved to be.
    pub(super) fn may_probe_path(&self) -> bool {
        self.is_active && self.capabilities.is_some() && self.is_ready() && self.paths.is_proven()
    }

    pub(super) fn send_path_probe(
        &mut self,
        now: Instant,
        probe: PathProbe,
        local: &Local<'_>,
        out: &mut Outbox,
    ) {
        let Some(route) = self.route() else { return };
        let header = self.ping(local, PATH_PORT, SeqNumber::new(probe.serial));
        let end = SEALED_HEADER_LEN + HEADER_LEN + probe.size;
        let mut frame = vec![0; end + TAG_LEN];
        let packet = &mut frame[SEALED_HEADER_LEN..end];
        packet[HEADER_LEN..].copy_from_slice(&local.capabilities.emit_padded(probe.size));
        if header.emit(packet) && self.seal(now, local.address.node, &mut frame).is_ok() {
            out.push_back((route, frame));
        }
    }

    fn ping(&self, local: &Local<'_>, src_port: Port, seq: SeqNumber) -> Header {
        Header {
            flags: Flags::NONE,
            protocol: Protocol::Control,
            src: local.address,
            dst: Address::backbone(self.id),
            src_port,
            dst_port: Port(0),
            seq,
            ack: SeqNumber::default(),
            window: 0,
        }
    }

    /// The liveness check: sends keepalives, and starts a new key exchange if the peer does not answer.
    /// Returns whether it does not.
    pub(super) fn check(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) -> bool {
        self.check_at = self.is_active.then_some(now + CHECK_INTERVAL);
        if self.suite().is_none() || self.route().is_none() {
            return false;
        }
        self.judge_keepalive(now);
        let is_repeat = self.unanswered_keepalive.is_some_and(|(_, count)| count == 1);
        let is_stalled = !is_repeat && self.last_tx > self.last_rx && self.is_silent(now, STALL);
        if self.current.as_ref().is_some_and(Session::is_exhausted) && self.candidate.is_none() {
            self.renew_own_key(now, local, out);
        } else if is_stalled {
            // As a dial does: without an answer, an address that is not validated gets no new credit.
            self.push_hello(now, true, local, out);
            self.send_probe(now, local, out);
        } else if is_repeat || now.saturating_since(self.last_tx) >= self.keepalive_after(local) {
            self.send_probe(now, local, out);
            self.on_keepalive(now);
        }
        self.advance_check(now, local);
        self.probe_at = self.probe_at.filter(|_| !self.is_ready() || self.candidate.is_some());
        is_stalled
    }

    /// A keepalive was sent.
    fn on_keepalive(&mut self, now: Instant) {
        let (since, count) = self.unanswered_keepalive.unwrap_or((now, 0));
        self.unanswered_keepalive = self.capabilities.map(|_| (since, count + 1));
    }

    /// Whether the last keepalives were answered. If two were not and the peer's own came through soon after, a NAT
    /// keeps bindings for less: they are to be sent more often.
    fn judge_keepalive(&mut self, now: Instant) {
        let Some((since, count)) = self.unanswered_keepalive else { return };
        if self.last_rx < since {
            self.unanswered_keepalive.take_if(|_| now > since + KEEPALIVE_OF_PEER);
            return;
        }
        self.unanswered_keepalive = None;
        if count > 1 && self.last_rx > since + KEEPALIVE_REPEAT {
            self.shorten_keepalive();
        }
    }

    /// The next check is sooner for an unanswered keepalive, and where bindings are short.
    fn advance_check(&mut self, now: Instant, local: &Local<'_>) {
        let is_first = self.unanswered_keepalive.is_some_and(|(_, count)| count == 1);
        let due = self.last_tx + self.keepalive_after(local);
        if let Some(at) = &mut self.check_at {
            if is_first {
                *at = (*at).min(now + KEEPALIVE_REPEAT);
            } else if self.keepalive < KEEPALIVE && due > now {
                *at = (*at).min(due);
            }
        }
    }

    /// Idle time after which a ping is due. Ping and pong refresh the bindings of both sides, so that one of two
    /// native peers waits for that of the other.
    fn keepalive_after(&self, local: &Local<'_>) -> Duration {
        let waits = self.capabilities.is_some() && local.address.node < self.id;
        self.keepalive + if waits { CHECK_INTERVAL } else { Duration::ZERO }
    }

    /// Sends our key to the peer, directly and through the relay. The first answer decides.
    pub(super) fn send_hello(&mut self, now: Instant, local: &Local<'_>, out: &mut Outbox) {
        self.hellos += 1;
        // Repeats request an answer even from a peer that already has our key.
        self.push_hello(now, self.hellos > 1, local, out);
        let wait = Duration::from_secs(1 << self.hellos.min(3).saturating_sub(1));
        self.hello_at = Some(now + wait);
    }

    /// Sends our key by every route on which a dial may send first.
    fn push_hello(&mut self, now: Instant, asks_back: bool, local: &Local<'_>, out: &mut Outbox) {
        for to in self.paths.hello_routes(now) {
            self.trace.event(|| TunnelEvent::KeySent { to, asks_back });
            for frame in self.keys(asks_back, local) {
                if self.paths.spend_hello(to, frame.len()) {
                    out.push_back((to, frame));
                }
            }
        }
    }

    /// Answers a frame of `len` bytes (0 if they were counted already) with our key, at most once per
    /// [`REPLY_INTERVAL`] directly, and as often through the relay. Returns whether it did.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        to: Route,
        len: usize,
        local: &Local<'_>,
        out: &mut Outbox,
    ) -> bool {
        let last = if to.is_relayed() { &mut self.relay_replied_at } else { &mut self.replied_at };
        if last.is_some_and(|at| now < at + REPLY_INTERVAL) {
            return false;
        }
        *last = Some(now);
        self.answer(to, len, false, local, out);
        true
    }

    /// Answers an unauthenticated frame of `len` bytes with our key, within the credit that it grants.
    pub(super) fn answer(
        &mut self,
        to: Route,
        len: usize,
        asks_back: bool,
        local: &Local<'_>,
        out: &mut Outbox,
    ) {
        self.trace.event(|| TunnelEvent::KeySent { to, asks_back });
        let mut credit = self.paths.grant_credit(to, len);
        for frame in self.keys(asks_back, local) {
            if self.paths.spend_credit(&mut credit, to, frame.len()) {
                out.push_back((to, frame));
            }
        }
    }

    /// Sends our key to the peer by one route.
    pub(super) fn push_keys(&mut self, to: Route, asks_back: bool, local: &Local<'_>, out: &mut Outbox) {
        self.trace.event(|| TunnelEvent::KeySent { to, asks_back });
        for frame in self.keys(asks_back, local) {
            if self.paths.spend(to, frame.len()) {
                out.push_back((to, frame));
            }
        }
    }

    /// The frames of our key: the signed one, and with `asks_back` the bare one, which requests the peer's.
    fn keys(&self, asks_back: bool, local: &Local<'_>) -> Vec<Vec<u8>> {
        let exchange_key = self.own.public_key();
        let sender = local.address.node;
        let signed = local.identity.sign_exchange_key(sender, exchange_key).ok();
        let bare = asks_back.then(|| BareKey { sender, exchange_key }.emit().to_vec());
        signed.map(|frame| frame.emit().to_vec()).into_iter().chain(bare).collect()
    }

    /// Destination of the pings that detect the suite.
    fn probed(&self) -> Option<Route> {
        match &self.candidate {
            Some((_, from)) => Some(*from),
            None if self.suite().is_none() => self.first_from.or(self.route()),
            None => self.route(),
        }
    }

    /// Pings the peer under the newest session, to learn its suite and capabilities and whether the path
    /// works.
    pub(super) fn send_probe(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if let Some(to) = self.probed() {
            self.send_probe_to(now, to, local, out);
        }
    }

    /// The same by one route.
    pub(super) fn send_probe_to(&mut self, now: Instant, to: Route, local: &mut Local<'_>, out: &mut Outbox) {
        let token = self.paths.token_for(now, to, local.entropy);
        let token = token.unwrap_or(Token { port: PING_PORT, seq: SeqNumber::new(self.probes + 1) });
        let packet = self.ping_packet(token, &self.announcement(now, local), local);
        let candidate = self.candidate.as_mut().map(|(session, _)| session);
        let Some(session) = candidate.or(self.current.as_mut()) else { return };
        self.probes += 1;
        for frame in session.seal_both(local.address.node, &packet) {
            if self.paths.spend(to, frame.len()) {
                out.push_back((to, frame));
            }
        }
        self.last_tx = now;
        let wait = Duration::from_millis(250 << self.probes.min(4).saturating_sub(1));
        self.probe_at = Some(now + wait);
    }

    /// Our own address changed: sends a frame from which the peer learns it. G1 peers learn it from key
    /// frames only.
    pub fn announce_address(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        let Some(route) = self.route().filter(|_| self.suite().is_some()) else { return };
        if self.capabilities.is_some() {
            // What we sent before arrives. The acknowledgements of it do not.
            self.on_move(false);
            self.paths.on_own_move(now, true, local.entropy);
            if let Some(mtu) = self.paths.mtu_mut() {
                mtu.recheck(now);
            }
            self.send_challenges(now, local, out);
            return;
        }
        let relay = self.paths.relay().filter(|relay| *relay != route);
        if self.suite() == Some(Suite::G1) {
            self.push_keys(route, false, local, out);
        }
        if relay.is_none() {
            self.send_probe(now, local, out);
            return;
        }
        // A G1 peer that receives one relayed frame uses the relay for ever.
        if let Some(relay) = relay.filter(|_| self.suite() != Some(Suite::G1)) {
            let mut payload = self.announcement(now, local);
            Capabilities::emit_moved(&mut payload);
            self.send_ping_with(now, relay, &payload, local, out);
        }
        self.paths.on_own_move(now, false, local.entropy);
        self.send_challenges(now, local, out);
    }

    /// The payload of pings and pongs: what we can do, and to a peer in use where we may be reached and what
    /// our NAT does.
    pub fn announcement(&self, now: Instant, local: &Local<'_>) -> Vec<u8> {
        let mut payload = local.capabilities.emit().to_vec();
        if self.is_active && !self.is_legacy {
            local.candidates.emit(&mut payload);
            local.nat.behaviour(now).announce(&mut payload);
        }
        payload
    }

    pub(super) fn ping_packet(&self, token: Token, payload: &[u8], local: &Local<'_>) -> Vec<u8> {
        let header = self.ping(local, token.port, token.seq);
        let mut packet = vec![0; HEADER_LEN + payload.len()];
        packet[HEADER_LEN..].copy_from_slice(payload);
        let is_whole = header.emit(&mut packet);
        debug_assert!(is_whole, "it has room");
        packet
    }

    /// Sends the challenges that are due, except where a suite-detecting ping serves as challenge.
    pub(super) fn send_challenges(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.suite().is_none() || self.paths.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        let asked = self.probe_at.and(self.probed());
        for (to, token) in self.paths.handle_timeout(now, asked) {
            let to = Route::Direct(to);
            self.trace.event(|| TunnelEvent::Challenged(to));
            let mut packets = vec![self.ping_packet(token, &local.capabilities.emit(), local)];
            if Token::is_announcing_port(token.port) && self.capabilities.is_some() && self.paths.is_direct()
            {
                // The peer may send three times as much to our new address before it is validated.
                let padded = local.capabilities.emit_padded(SAFE_SEGMENT);
                packets.push(self.ping_packet(token, &padded, local));
            }
            let Some(session) = self.current.as_mut() else { return };
            for packet in packets {
                for frame in session.seal_both(local.address.node, &packet) {
                    if self.paths.spend_check(now, to, frame.len(), local.checks) {
                        out.push_back((to, frame));
                    }
                }
            }
        }
    }
}
