//! State of one peer: key exchange, sessions, paths, capabilities and liveness.

mod keys;
mod open;
mod prediction;
mod routes;
mod send;

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use self::prediction::Prediction;
pub use self::routes::PathSwitch;
use super::{
    Capabilities, Session,
    candidates::{Candidates, PathClass},
    path::{CandidateStatus, PathChange, Paths, Token},
    path_mtu::PathMtu,
    prediction::Observations,
    retired::Retired,
    route::Route,
    trace::TunnelEvent,
};
use crate::{
    config::SAFE_SEGMENT,
    crypto::{CryptoError, Suite, entropy::Entropy, exchange::ExchangeKey, identity::Identity},
    storage::token_bucket::TokenBucket,
    time::Instant,
    trace::{Detail, Trace},
    wire::{
        addr::{Address, NodeId, Port},
        seq::SeqNumber,
        tunnel::{Nonce, SignedKey},
    },
};

/// Frames queued for transmission, with their route.
pub type Outbox = VecDeque<(Route, Vec<u8>)>;

/// Shortest interval between two replies to key frames of a peer.
const REPLY_INTERVAL: Duration = Duration::from_millis(250);
/// Shortest interval between two keys sent because frames do not open.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);
/// Unanswered hellos after which the key exchange is given up.
const HELLO_ATTEMPTS: u32 = 6;
/// Unanswered pings after which the session is used without known capabilities.
const PROBE_ATTEMPTS: u32 = 6;
/// How long late frames of a replaced session are still opened.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(30);
/// Silence under the current session after which a frame under the previous one reinstates it; longer than
/// any reordering.
const REINSTATE: Duration = Duration::from_secs(1);
/// Transmission pause after which an active peer is sent a ping: it refreshes NAT bindings (RFC 4787) and the
/// peer's watchdog.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// When an unanswered keepalive is repeated, and the time within which the other end sends one by itself. If its one
/// comes through, a NAT had forgotten the binding.
const KEEPALIVE_REPEAT: Duration = Duration::from_millis(500);
const KEEPALIVE_OF_PEER: Duration = Duration::from_secs(12);
/// Interval of the liveness check of an active peer.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Silence of an active peer, after something was sent to it, that triggers a new key exchange.
const STALL: Duration = Duration::from_secs(4);
/// Silence after which a new dial asks the registry for the peer's endpoint again.
pub const REFRESH: Duration = Duration::from_secs(1);
/// Source port of our pings; not 0, because then two legacy nodes would answer each other endlessly.
const PING_PORT: Port = Port(1);
/// Source port of path MTU probes.
const PATH_PORT: Port = Port(2);

/// Local inputs of a key exchange.
pub struct Local<'a> {
    /// Our address on the backbone.
    pub address: Address,
    /// Signs our exchange keys.
    pub identity: &'a Identity,
    /// Source of nonce prefixes and challenges.
    pub entropy: &'a mut Entropy,
    /// Announced in pings.
    pub capabilities: Capabilities,
    /// Announced to peers in use.
    pub candidates: &'a Candidates,
    /// Budget of challenges to addresses that only a peer or the registry names.
    pub checks: &'a mut TokenBucket,
    /// What beacons report of our NAT.
    pub nat: &'a mut Observations,
}

/// A frame that opened. So far only its replay window has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Whether the packet is in the frame, not in the scratch buffer.
    pub is_in_place: bool,
    /// The session that opened it.
    role: SessionRole,
    /// No frame sent later arrived before it.
    is_newest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SessionRole {
    Current,
    Candidate,
    Previous,
}

/// What a capability announcement changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// The peer's dialect is known now.
    Ready,
    /// The peer restarted, and its dialect is known.
    Restarted,
}

/// Result of handling timeouts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// The peer is alive, or idle.
    Fine,
    /// The peer does not answer; the registry may know another endpoint.
    Stalled,
    /// The key exchange was given up.
    Unreachable,
}

/// Status of a peer for `peers`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Where the peer is, as far as is known.
    pub endpoint: Option<SocketAddr>,
    /// How frames go there.
    pub route: Option<Route>,
    /// The class of the path in use; `None` through the relay, and before an address is validated.
    pub class: Option<PathClass>,
    /// Round-trip time of the path in use, as pings of the tunnel show it.
    pub rtt: Option<Duration>,
    /// Largest segment on the path in use, bytes.
    pub segment: usize,
    /// How long the path has been in use.
    pub path_age: Option<Duration>,
    /// Addresses at which the peer may be.
    pub candidates: Vec<CandidateStatus>,
    /// Whether there is a session.
    pub is_encrypted: bool,
    /// Whether the peer proved the identity that the registry names.
    pub is_authenticated: bool,
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    id: NodeId,
    own: ExchangeKey,
    identity_key: Option<[u8; 32]>,
    current: Option<Session>,
    /// When the current session last opened a frame.
    current_rx: Instant,
    /// The last frame opened under the previous session: its capabilities are outdated.
    is_late: bool,
    /// Source of the key of a session under which nothing has opened yet.
    first_from: Option<Route>,
    candidate: Option<(Session, Route)>,
    previous: Option<(Session, Instant)>,
    retired: Retired,
    pending_key: Option<(SignedKey, Route)>,
    paths: Paths,
    /// Source of the last frame that opened.
    heard_from: Option<Route>,
    /// A frame that was sent later arrived before it.
    is_overtaken: bool,
    capabilities: Option<Capabilities>,
    /// The boot id that the peer announced last.
    boot_id: Option<u64>,
    /// The peer echoed our capabilities: it is a legacy node.
    is_legacy: bool,
    /// A session is needed or in use.
    is_active: bool,
    hellos: u32,
    hello_at: Option<Instant>,
    /// When the first hello of a key exchange was sent.
    asked_at: Option<Instant>,
    /// How long the last key exchange took, until it is taken.
    handshake: Option<Duration>,
    probes: u32,
    probe_at: Option<Instant>,
    check_at: Option<Instant>,
    replied_at: Option<Instant>,
    /// The same for replies through the relay: one of the two ways may not lead back.
    relay_replied_at: Option<Instant>,
    recovery_at: Option<Instant>,
    last_rx: Instant,
    last_tx: Instant,
    /// The segment size last applied to connections.
    applied_segment: usize,
    /// The proven path that was last in use.
    last_path: Option<Route>,
    /// How often either end has moved.
    moves: u32,
    /// The same at the time of `last_path`.
    last_moves: u32,
    /// Frames on their way at the last move do not arrive.
    is_lost_by_move: bool,
    /// The peer has moved since the path in use began: what is on its way by those before is lost.
    has_lost_left: bool,
    /// A beacon should be asked to punch.
    wants_punch: bool,
    /// Beacons should be asked where we are.
    wants_beacons: bool,
    /// Another address of ours of which the peer was told before it was confirmed, and when.
    seen_elsewhere: Option<(SocketAddr, Instant)>,
    /// There is an earlier deadline than the one that is armed.
    needs_arming: bool,
    /// Idle time after which a ping keeps NAT bindings alive.
    keepalive: Duration,
    /// When such a ping was sent first that is unanswered, and how often.
    unanswered_keepalive: Option<(Instant, u32)>,
    /// When connections were last told that the peer is there.
    alive_at: Option<Instant>,
    /// When streams or datagrams were last sent or received.
    traffic_at: Instant,
    /// Silence before a frame that came from another address.
    silence: Duration,
    prediction: Prediction,
    trace: Trace<TunnelEvent>,
}

impl Peer {
    /// A peer of which only the id is known. `own` is our exchange key for this peer only.
    pub fn new(now: Instant, id: NodeId, own: ExchangeKey) -> Self {
        Self {
            id,
            own,
            identity_key: None,
            current: None,
            current_rx: now,
            is_late: false,
            first_from: None,
            candidate: None,
            previous: None,
            retired: Retired::default(),
            pending_key: None,
            paths: Paths::default(),
            heard_from: None,
            is_overtaken: false,
            capabilities: None,
            boot_id: None,
            is_legacy: false,
            is_active: false,
            hellos: 0,
            hello_at: None,
            asked_at: None,
            handshake: None,
            probes: 0,
            probe_at: None,
            check_at: None,
            replied_at: None,
            relay_replied_at: None,
            recovery_at: None,
            last_rx: now,
            last_tx: now,
            applied_segment: SAFE_SEGMENT,
            last_path: None,
            moves: 0,
            last_moves: 0,
            is_lost_by_move: false,
            has_lost_left: false,
            wants_punch: false,
            wants_beacons: false,
            seen_elsewhere: None,
            needs_arming: false,
            keepalive: KEEPALIVE,
            unanswered_keepalive: None,
            alive_at: None,
            traffic_at: now,
            silence: Duration::ZERO,
            prediction: Prediction::default(),
            trace: Trace::default(),
        }
    }

    /// Enables tracing at this detail.
    pub fn set_trace(&mut self, detail: Option<Detail>) {
        self.trace = Trace::new(detail);
    }

    /// The next trace event; to be drained after each input.
    #[inline]
    pub fn poll_trace(&mut self) -> Option<TunnelEvent> {
        self.trace.poll()
    }

    /// Whether the peer has a session, a route and a known dialect.
    pub fn is_ready(&self) -> bool {
        self.suite().is_some() && (self.capabilities.is_some() || self.is_legacy) && self.route().is_some()
    }

    /// The suite in use.
    pub fn suite(&self) -> Option<Suite> {
        self.current.as_ref().and_then(Session::suite)
    }

    /// The identity key named by the registry.
    pub fn identity_key(&self) -> Option<[u8; 32]> {
        self.identity_key
    }

    /// Our exchange key for the peer.
    pub fn exchange_key(&self) -> [u8; 32] {
        self.own.public_key()
    }

    /// The capabilities that the peer announced.
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.capabilities
    }

    /// Where the peer is, as far as is known.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.paths.endpoint()
    }

    /// How frames go to the peer.
    pub fn route(&self) -> Option<Route> {
        self.paths.route()
    }

    /// Whether a route is one that leads to the peer as far as is known.
    pub fn is_known_at(&self, route: Route) -> bool {
        self.paths.is_known(route)
    }

    /// Source of the last frame that opened, to which a response is sent.
    pub fn heard_from(&self) -> Option<Route> {
        self.heard_from
    }

    /// Whether a datagram of `len` bytes may be sent by the route in use (anti-amplification limit).
    pub fn has_credit(&mut self, len: usize) -> bool {
        self.paths.has_credit(len)
    }

    /// Charges a datagram sent by the route in use.
    pub fn on_sent(&mut self, len: usize) {
        self.paths.on_sent(len);
    }

    /// Whether a datagram of `len` bytes may be sent by a route; if so, it is charged.
    pub fn spend(&mut self, to: Route, len: usize) -> bool {
        self.paths.spend(to, len)
    }

    /// Whether [`Self::has_credit`] refused something since the last call.
    pub fn take_credit_blocked(&mut self) -> bool {
        self.paths.take_credit_blocked()
    }

    /// The largest segment that path and peer accept.
    pub fn segment(&self) -> usize {
        self.paths.mtu().map_or(SAFE_SEGMENT, PathMtu::segment).min(self.accepted_segment())
    }

    /// The largest segment that the peer accepts; a legacy peer is sent the base size.
    fn accepted_segment(&self) -> usize {
        self.capabilities.map_or(SAFE_SEGMENT, |peer| usize::from(peer.max_segment))
    }

    /// Starts path MTU discovery on a path used for the first time.
    fn start_path_search(&mut self, now: Instant) {
        let limit = self.accepted_segment();
        if self.capabilities.is_some()
            && let Some(mtu) = self.paths.mtu_mut()
        {
            mtu.start_if_new(now, limit);
        }
    }

    /// Whether [`Self::segment`] changed since [`Self::take_segment`].
    pub fn has_new_segment(&self) -> bool {
        self.applied_segment != self.segment()
    }

    /// Returns [`Self::segment`] and marks it as applied.
    pub fn take_segment(&mut self) -> usize {
        self.applied_segment = self.segment();
        let segment = self.applied_segment;
        self.trace.event(|| TunnelEvent::MaxSegment(segment));
        segment
    }

    /// A connection suspects a black hole on the path: the size in use is probed again.
    pub fn on_path_suspect(&mut self, now: Instant) {
        if self.capabilities.is_some()
            && let Some(mtu) = self.paths.mtu_mut()
        {
            mtu.suspect(now);
        }
    }

    /// Processes the answer to a ping.
    pub fn on_pong(&mut self, now: Instant, port: Port, seq: SeqNumber) -> PathChange {
        let Some(from) = self.heard_from else { return PathChange::None };
        if Token::is_challenge_port(port) {
            let endpoint = self.endpoint();
            let may_be_relayed = self.is_legacy && self.suite() == Some(Suite::G1);
            let change = self.paths.on_answer(now, from, Token { port, seq }, may_be_relayed);
            self.on_path_answer(endpoint, change);
            if change != PathChange::None {
                let has_moved = change == PathChange::Moved;
                let at = self.route().unwrap_or(from);
                self.trace.event(|| TunnelEvent::PathValidated { at, has_moved });
                self.start_path_search(now);
            }
            return change;
        }
        self.on_relay_pong(now, from, port, seq);
        if port == PATH_PORT
            && self.route() == Some(from)
            && let Some(mtu) = self.paths.mtu_mut()
        {
            mtu.on_answer(now, seq.value());
        }
        PathChange::None
    }

    /// When a frame with this nonce was sent to the peer, as a lower bound.
    pub fn sent_at(&self, nonce: Nonce) -> Option<Instant> {
        let previous = self.previous.as_ref().map(|(session, _)| session);
        [self.current.as_ref(), previous].into_iter().flatten().find_map(|session| session.sent_at(nonce))
    }

    /// Processes a PTB message for a datagram to the peer. Returns whether it was used.
    pub fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        self.may_probe_path() && self.paths.mtu_mut().is_some_and(|mtu| mtu.on_too_big(now, max_datagram))
    }

    /// When an authenticated frame last arrived.
    pub fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// Whether connections are to be told that a native peer is there, which takes time if there are many.
    pub fn take_alive(&mut self, now: Instant) -> bool {
        let is_early = self.alive_at.is_some_and(|at| now < at + CHECK_INTERVAL);
        let is_due = self.capabilities.is_some() && !self.is_late && !is_early;
        if is_due {
            self.alive_at = Some(now);
        }
        is_due
    }

    /// Whether no authenticated frame arrived for `silence`.
    pub fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        now.saturating_since(self.last_rx) >= silence
    }

    /// Whether a session is needed or in use.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Whether the key exchange needs a registry record.
    pub fn needs_record(&self) -> bool {
        self.identity_key.is_none() || !self.paths.is_corroborated()
    }

    /// Status of a peer for `peers`.
    pub fn status(&self, now: Instant) -> PeerStatus {
        let is_encrypted = self.suite().is_some();
        PeerStatus {
            endpoint: self.endpoint(),
            route: self.route(),
            class: self.paths.path_class(),
            rtt: self.paths.rtt(),
            segment: self.segment(),
            path_age: self.paths.age(now),
            candidates: self.paths.candidates(),
            is_encrypted,
            is_authenticated: is_encrypted,
        }
    }

    /// Requests a session, unless there is one.
    pub fn activate(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        self.is_active = true;
        self.check_at.get_or_insert(now + CHECK_INTERVAL);
        // A key under which nothing has opened may be a replay.
        if self.suite().is_none() && self.hello_at.is_none() && self.identity_key.is_some() {
            self.hellos = 0;
            self.asked_at = Some(now);
            self.wants_punch = true;
            self.send_hello(now, local, out);
        }
        self.traffic_at = now;
        self.paths.seek(now);
        self.start_path_search(now);
    }

    /// The session is no longer needed.
    pub fn deactivate(&mut self) {
        self.is_active = false;
        self.check_at = None;
        (self.hello_at, self.asked_at) = (None, None);
    }

    /// How long a key exchange took that we began and that has ended since the last call.
    #[inline]
    pub fn take_handshake(&mut self) -> Option<Duration> {
        self.handshake.take()
    }

    /// Processes capabilities of a ping or pong; `ours` is our own boot id, which a legacy peer echoes.
    pub fn on_capabilities(&mut self, now: Instant, capabilities: Capabilities, ours: u64) -> Change {
        if self.is_late {
            return Change::None;
        }
        if capabilities.boot_id == ours {
            return if self.on_legacy() { Change::Ready } else { Change::None };
        }
        self.probe_at = None;
        self.is_legacy = false;
        let is_new = self.capabilities.replace(capabilities) != Some(capabilities);
        if let Some(mtu) = self.paths.mtu_mut().filter(|_| is_new) {
            // It may take larger segments than before.
            mtu.recheck(now);
        }
        self.start_path_search(now);
        if is_new {
            self.trace.event(|| TunnelEvent::Capabilities(capabilities));
        }
        let before = self.boot_id.replace(capabilities.boot_id);
        if before.is_some_and(|id| id != capabilities.boot_id) {
            self.trace.event(|| TunnelEvent::Restarted);
            Change::Restarted
        } else if is_new {
            Change::Ready
        } else {
            Change::None
        }
    }

    /// Whether the peer ever announced a boot id, so that a new key alone does not imply a restart.
    pub fn has_sent_boot_id(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Pings the peer for its capabilities, unless a ping is outstanding.
    pub fn request_capabilities(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.probe_at.is_none() {
            self.probes = 0;
            self.send_probe(now, local, out);
        }
    }

    /// The peer announces no capabilities. Returns whether that is new.
    fn on_legacy(&mut self) -> bool {
        if self.capabilities.is_some() || self.is_legacy {
            return false;
        }
        self.probe_at = None;
        self.is_legacy = true;
        self.trace.event(|| TunnelEvent::Legacy);
        true
    }

    /// Seals a frame whose packet is between header and tag.
    ///
    /// # Errors
    /// [`CryptoError::Key`] without a session.
    pub fn seal(&mut self, now: Instant, sender: NodeId, frame: &mut [u8]) -> Result<(), CryptoError> {
        self.last_tx = now;
        self.current.as_mut().ok_or(CryptoError::Key)?.seal(now, sender, frame)
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mtu_at = self.paths.mtu().and_then(PathMtu::poll_timeout);
        let mtu_at = mtu_at.filter(|_| self.may_probe_path());
        let path_at = self.paths.poll_timeout().filter(|_| self.suite().is_some());
        let upgrade_at = self.paths.poll_upgrade().filter(|_| self.suite().is_some());
        let predicted_at = self.poll_prediction();
        let all = [self.hello_at, self.probe_at, self.check_at, mtu_at, path_at, upgrade_at, predicted_at];
        all.into_iter().flatten().min()
    }

    /// Processes expired deadlines.
    pub fn handle_timeout(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) -> Liveness {
        let liveness = self.on_deadlines(now, local, out);
        match liveness {
            Liveness::Fine => {}
            Liveness::Stalled => self.trace.event(|| TunnelEvent::Stalled),
            Liveness::Unreachable => self.trace.event(|| TunnelEvent::Unreachable),
        }
        liveness
    }

    fn on_deadlines(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) -> Liveness {
        let mut liveness = Liveness::Fine;
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            if self.probes < PROBE_ATTEMPTS {
                self.send_probe(now, local, out);
            } else if self.candidate.take().is_none() && self.suite().is_none() {
                // The sender of this key does not answer; it may have restarted elsewhere with another.
                self.current = None;
                if self.is_active {
                    liveness = Liveness::Stalled;
                }
            }
        }
        if self.check_at.is_some_and(|at| at <= now) && self.check(now, local, out) {
            liveness = Liveness::Stalled;
        }
        if self.hello_at.is_some_and(|at| at <= now) {
            self.hello_at = None;
            if self.hellos >= HELLO_ATTEMPTS {
                return Liveness::Unreachable;
            }
            self.send_hello(now, local, out);
            // No answer; the registry may know another endpoint by now.
            liveness = Liveness::Stalled;
        }
        self.handle_routes(now, local, out);
        self.handle_prediction(now, local, out);
        self.send_challenges(now, local, out);
        let limit = self.accepted_segment();
        while self.may_probe_path()
            && let Some(probe) = self.paths.mtu_mut().and_then(|mtu| mtu.handle_timeout(now, limit))
        {
            self.send_path_probe(now, probe, local, out);
        }
        liveness
    }
}
