//! The ways to the peer: candidates, rounds of checks, the relay, failover.

use core::{net::SocketAddr, time::Duration};

use super::{KEEPALIVE, Local, Outbox, PING_PORT, Peer};
use crate::{
    time::Instant,
    tunnel::{
        Candidates, Capabilities, PathChange, Route, TunnelEvent,
        path::{Purpose, Silence, Token},
    },
    wire::{
        addr::Port,
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
    },
};

/// Traffic within this time is a reason to look for a better path.
const TRAFFIC: Duration = Duration::from_secs(6);
/// Shortest interval of keepalives, and the silence after which another port of the peer shows that a binding
/// expired.
const KEEPALIVE_MIN: Duration = Duration::from_secs(5);

/// Frames for a peer go another way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathSwitch {
    /// How they go.
    pub route: Route,
    /// Whether the route is another one: it may be the same between other networks.
    pub is_other: bool,
    /// Whether they go to or from the relay since.
    pub is_switch: bool,
    /// If the path has properties of its own, whether frames on their way by the one before are lost.
    pub is_lost: Option<bool>,
}

impl Peer {
    /// Our home beacon changed: the way through the relay. A dial that waits for an answer goes there, too.
    pub fn set_relay(
        &mut self,
        now: Instant,
        beacon: Option<SocketAddr>,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        self.paths.set_relay(beacon, self.id);
        if self.hello_at.is_some() && beacon.is_some() {
            self.wants_punch = true;
            self.send_hello(now, local, out);
        }
    }

    /// What a frame says of the path that it took. Legacy peers announce a new address by pings of any kind.
    pub(super) fn purpose(&self, header: &Header) -> Purpose {
        let is_pong = header.flags.contains(Flags::ACK);
        match (header.protocol, is_pong, self.capabilities.is_some()) {
            (Protocol::Control, true, _) if Token::is_challenge_port(header.dst_port) => Purpose::Try,
            (Protocol::Control, false, true) if Token::is_probe_port(header.src_port) => Purpose::Try,
            (Protocol::Control, false, true) if Token::is_announcing_port(header.src_port) => Purpose::Move,
            _ => Purpose::Use,
        }
    }

    /// The peer named its addresses in a ping or pong. One that comes late through the relay may name old ones.
    pub fn on_candidates(&mut self, now: Instant, told: &Candidates, local: &mut Local<'_>) {
        if !self.is_late {
            self.paths.on_told(now, told, self.is_overtaken, local.candidates, local.entropy);
        }
    }

    /// Our own addresses changed: tells a native peer in use.
    pub fn announce_candidates(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.suite().is_none() || self.capabilities.is_none() {
            return;
        }
        let (route, relay) = (self.route(), self.paths.relay());
        for to in route.into_iter().chain(relay.filter(|relay| Some(*relay) != route)) {
            self.send_ping(now, to, local, out);
        }
    }

    /// A G2 peer that uses the relay looks for a direct path: any frame sent there shows it one.
    pub fn on_upgrade_probe(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if let Some(from) = self.heard_from.filter(|from| self.is_legacy && !from.is_relayed()) {
            self.send_ping(now, from, local, out);
        }
    }

    /// The peer says that its address changed, and that nothing reaches it but the relay.
    pub fn on_peer_moved(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        // What arrived since by an address that answered shows that it reaches us.
        let is_past = self.is_overtaken && self.paths.is_direct();
        self.has_lost_left |= is_past && !self.is_late;
        if !self.is_late && !is_past && self.paths.on_peer_moved(now, local.entropy) {
            self.on_move(true);
            self.send_challenges(now, local, out);
        }
    }

    /// Our home beacon knows our new address: tells the peer through it if nothing else reaches it.
    pub fn on_relay_ready(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        let Some(relay) = self.paths.relay() else { return };
        if !self.paths.on_relay_ready(now) {
            return;
        }
        if self.paths.is_relayed() {
            // The beacon dropped what it could not attribute.
            self.on_move(true);
        }
        let mut payload = self.announcement(now, local);
        Capabilities::emit_moved(&mut payload);
        self.send_ping_with(now, relay, &payload, local, out);
    }

    /// Either end has moved; with `is_lost` frames on their way do not arrive.
    pub(super) fn on_move(&mut self, is_lost: bool) {
        self.moves = self.moves.wrapping_add(1);
        self.is_lost_by_move |= is_lost;
    }

    /// How often either end has moved, which begins another path.
    pub fn moves(&self) -> u32 {
        self.moves
    }

    /// The registry names further addresses of the peer.
    pub fn on_registry_list(&mut self, now: Instant, named: &[SocketAddr]) {
        self.paths.on_registry_list(now, named);
    }

    /// A beacon that was asked to punch says that the peer is at this address.
    pub fn on_punched(&mut self, now: Instant, to: SocketAddr, local: &mut Local<'_>, out: &mut Outbox) {
        self.paths.on_punched(now, to, local.entropy);
        self.send_challenges(now, local, out);
    }

    /// Something that the peer answers was sent.
    pub fn on_sent_eliciting(&mut self, now: Instant) {
        self.needs_arming |= self.paths.on_sent_eliciting(now);
        self.on_traffic(now);
    }

    /// Something of a stream or a datagram was sent or received.
    pub fn on_traffic(&mut self, now: Instant) {
        self.traffic_at = now;
        self.needs_arming |= self.is_active && self.paths.seek(now);
    }

    /// Whether the deadline must be armed again.
    pub fn take_needs_arming(&mut self) -> bool {
        core::mem::take(&mut self.needs_arming)
    }

    /// Whether a beacon should be asked to punch.
    pub fn take_wants_punch(&mut self) -> bool {
        core::mem::take(&mut self.wants_punch) && self.paths.relay().is_some()
    }

    /// Whether what is on its way by the paths before is lost.
    pub fn take_has_lost_left(&mut self) -> bool {
        core::mem::take(&mut self.has_lost_left)
    }

    /// Whether beacons should be asked where we are.
    pub fn take_wants_beacons(&mut self) -> bool {
        core::mem::take(&mut self.wants_beacons)
    }

    /// A beacon saw us at another address, which is not confirmed: the peer is told through the relay if its silence
    /// fits that.
    pub fn on_seen_elsewhere(&mut self, now: Instant, address: SocketAddr) {
        if self.capabilities.is_some() && self.paths.on_seen_elsewhere() {
            self.seen_elsewhere = Some((address, now));
        }
    }

    /// That address is confirmed. Returns whether the peer has learnt of it already.
    pub fn knows_of_move(&mut self, address: SocketAddr) -> bool {
        self.seen_elsewhere.take().is_some_and(|(seen, at)| seen == address && self.last_rx > at)
    }

    /// Whether the watch over the path looks at the timeouts of connections now.
    pub fn is_watch_due(&self, now: Instant) -> bool {
        self.paths.is_watch_due(now)
    }

    /// The largest retransmission timeout of the peer's connections.
    pub fn set_connections_rto(&mut self, rto: Option<Duration>) {
        self.paths.set_connections_rto(rto);
    }

    /// The path in use, if it is another one than at the last call.
    pub fn take_path_change(&mut self) -> Option<PathSwitch> {
        let is_sound = self.paths.is_proven() || self.paths.is_on_trial();
        let route = self.route().filter(|_| self.suite().is_some() && is_sound)?;
        let has_moved = core::mem::replace(&mut self.last_moves, self.moves) != self.moves;
        if self.last_path == Some(route) && !has_moved {
            return None;
        }
        let before = self.last_path.replace(route);
        if before != Some(route) {
            self.trace.event(|| TunnelEvent::PathChanged(route));
        }
        self.start_path_search(self.last_rx);
        let is_switch = before.is_some_and(|before| before.is_relayed() != route.is_relayed());
        // One relay replaces another because that is silent.
        let is_new_relay = before.is_some_and(|before| before != route && route.is_relayed());
        let is_elsewhere = has_moved && before.is_some();
        let mut is_lost = core::mem::take(&mut self.is_lost_by_move);
        if is_switch || is_new_relay {
            is_lost |= self.paths.on_route_changed(route.is_relayed());
        }
        let is_lost = (is_switch || is_elsewhere || is_new_relay).then_some(is_lost);
        Some(PathSwitch { route, is_other: before != Some(route), is_switch, is_lost })
    }

    /// Handles what is due of rounds and of the watch.
    pub(super) fn handle_routes(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.suite().is_none() {
            return;
        }
        self.paths.handle_moves(now, local.entropy);
        if self.paths.is_watch_due(now) {
            match self.paths.handle_watch(now, local.entropy) {
                Silence::None => {}
                Silence::Noticed => self.wants_beacons = true,
                Silence::Left => self.wants_punch = true,
            }
        }
        let has_traffic = self.is_active && now.saturating_since(self.traffic_at) < TRAFFIC;
        if self.paths.is_round_due(now, has_traffic) {
            self.paths.begin_round(now, local.entropy);
            if !self.paths.is_direct()
                && let Some(relay) = self.paths.relay()
            {
                self.wants_punch = true;
                self.send_ping(now, relay, local, out);
            }
        }
        self.send_challenges(now, local, out);
    }

    /// Sends a ping by one route, with where we may be reached. Through the relay it measures the round-trip
    /// time.
    pub(super) fn send_ping(&mut self, now: Instant, to: Route, local: &mut Local<'_>, out: &mut Outbox) {
        let payload = self.announcement(now, local);
        self.send_ping_with(now, to, &payload, local, out);
    }

    pub(super) fn send_ping_with(
        &mut self,
        now: Instant,
        to: Route,
        payload: &[u8],
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        let seq = SeqNumber::new(local.entropy.next_u32());
        self.paths.on_ping(now, to, seq);
        let token = Token { port: PING_PORT, seq };
        let packet = self.ping_packet(token, payload, local);
        let Some(session) = self.current.as_mut() else { return };
        for frame in session.seal_both(local.address.node, &packet) {
            if self.paths.spend(to, frame.len()) {
                out.push_back((to, frame));
            }
        }
    }

    /// A pong that may answer a ping through the relay.
    pub(super) fn on_relay_pong(&mut self, now: Instant, from: Route, port: Port, seq: SeqNumber) {
        if port == PING_PORT && from.is_relayed() {
            self.paths.on_relay_pong(now, seq);
        }
    }

    /// A challenge was answered. The peer at another port of the same host after a pause shows that the
    /// binding of its NAT expired, so that it must be kept alive more often.
    pub(super) fn on_path_answer(&mut self, before: Option<SocketAddr>, change: PathChange) {
        if change == PathChange::None {
            return;
        }
        let after = self.endpoint();
        let is_rebound = change == PathChange::Moved
            && before != after
            && before.is_some_and(|before| after.is_some_and(|after| before.ip() == after.ip()));
        let silence = core::mem::take(&mut self.silence);
        if is_rebound && silence >= KEEPALIVE_MIN {
            self.shorten_keepalive();
        }
    }

    /// A NAT keeps bindings for less than the idle time after which we send something.
    pub(super) fn shorten_keepalive(&mut self) {
        self.keepalive = (self.keepalive / 2).clamp(KEEPALIVE_MIN, KEEPALIVE);
    }

    /// Idle time after which bindings towards the peer in use are kept alive.
    pub fn keepalive(&self) -> Option<Duration> {
        self.is_active.then_some(self.keepalive)
    }
}
