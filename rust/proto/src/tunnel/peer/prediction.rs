//! Port prediction towards one peer (RFC 5128 section 3.4.1): pings to the ports that its NAT is expected to
//! use, while frames go through the relay.
//!
//! The peer says what its NAT does, but not where it is: pings go to the address only at which a beacon of
//! ours sees it. So a peer cannot direct them at others. What arrives there is for the peer's own check of
//! paths.

use core::{net::SocketAddr, time::Duration};

use super::{Local, Outbox, Peer};
use crate::{
    time::Instant,
    tunnel::{
        Route,
        path::Token,
        prediction::{NatBehaviour, Plan, Probing, Role},
    },
};

/// Shortest time from the begin of one series of attempts to that of the next.
const AGAIN: Duration = Duration::from_secs(30);

/// What is known for prediction, and the attempts under way.
#[derive(Debug, Default)]
pub(super) struct Prediction {
    probing: Option<Probing>,
    began_at: Option<Instant>,
    /// Pings that are to be sent from sockets of their own.
    sockets: Option<(SocketAddr, Vec<Vec<u8>>)>,
}

impl Peer {
    /// The peer said what its NAT does: begins a series of attempts if there is something to predict, or an
    /// attempt of one.
    pub fn on_nat_behaviour(
        &mut self,
        now: Instant,
        told: NatBehaviour,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        if self.is_late || !self.is_active || !self.paths.is_relayed() {
            return;
        }
        if self.paths.punched().is_none() {
            self.wants_punch |= told.begins;
            return;
        }
        let ours = local.nat.behaviour(now);
        let role = if local.address.node < self.id { Role::First } else { Role::Second };
        let may_begin = self.prediction.began_at.is_none_or(|at| now >= at + AGAIN);
        let is_wanted = role == Role::First || told.begins;
        if may_begin && is_wanted && Plan::is_of_use(&ours, &told, local.entropy) {
            self.prediction.began_at = Some(now);
            self.prediction.probing = Some(Probing::new(now, role));
        }
        let Some(probing) = &mut self.prediction.probing else { return };
        let Some(sockets) = probing.on_told(now, &ours, &told, local.entropy) else { return };
        if role == Role::Second {
            self.send_begins(now, ours, local, out);
        }
        if sockets > 0 {
            self.fill_sockets(sockets, local);
        }
    }

    pub(super) fn poll_prediction(&self) -> Option<Instant> {
        self.prediction.probing.as_ref().and_then(Probing::poll_timeout)
    }

    /// Sends the pings that are due.
    pub(super) fn handle_prediction(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        let Some(probing) = &mut self.prediction.probing else { return };
        let Some(ip) = self.paths.punched().map(|at| at.ip()).filter(|_| self.paths.is_relayed()) else {
            self.prediction.probing = None;
            return;
        };
        let (asks, ports) = (probing.ask(now), probing.handle_timeout(now));
        if asks {
            self.send_begins(now, local.nat.behaviour(now), local, out);
        }
        let mut sent = 0;
        for port in ports {
            if !local.checks.take(now) {
                break;
            }
            self.push_probe(SocketAddr::new(ip, port), local, out);
            sent += 1;
        }
        local.nat.on_new_destinations(sent);
    }

    /// Asks for an attempt, or says that it began.
    fn send_begins(&mut self, now: Instant, ours: NatBehaviour, local: &mut Local<'_>, out: &mut Outbox) {
        let Some(relay) = self.paths.relay() else { return };
        let mut payload = self.announcement(now, local);
        NatBehaviour { begins: true, ..ours }.announce(&mut payload);
        self.send_ping_with(now, relay, &payload, local, out);
    }

    /// Pings that are to be sent to an address from sockets of their own.
    pub fn take_sockets(&mut self) -> Option<(SocketAddr, Vec<Vec<u8>>)> {
        self.prediction.sockets.take()
    }

    fn fill_sockets(&mut self, count: u32, local: &mut Local<'_>) {
        let Some(to) = self.paths.punched() else { return };
        let mut pings = Vec::new();
        for _ in 0..count {
            let packet = self.ping_packet(Token::new(local.entropy), &[], local);
            let Some(session) = self.current.as_mut() else { return };
            pings.extend(session.seal_both(local.address.node, &packet).into_iter().next());
        }
        self.prediction.sockets = Some((to, pings));
    }

    /// Sends a short ping that only tries a path. The budget of the attempts takes the place of the credit of
    /// an address.
    fn push_probe(&mut self, to: SocketAddr, local: &mut Local<'_>, out: &mut Outbox) {
        let packet = self.ping_packet(Token::new(local.entropy), &[], local);
        let Some(session) = self.current.as_mut() else { return };
        for frame in session.seal_both(local.address.node, &packet) {
            out.push_back((Route::Direct(to), frame));
        }
    }
}
