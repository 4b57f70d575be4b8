//! What we know about one peer and how a session with it comes about.

mod keys;
mod open;
mod send;

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use super::{
    Capabilities, Session,
    path::{Paths, Proof, Token},
    path_mtu::PathMtu,
    retired::Retired,
    trace::TunnelEvent,
};
use crate::{
    config::SAFE_SEGMENT,
    crypto::{CryptoError, Suite, entropy::Entropy, exchange::ExchangeKey, identity::Identity},
    time::Instant,
    trace::{Detail, Trace},
    wire::{
        addr::{Address, NodeId, Port},
        seq::SeqNumber,
        tunnel::{Nonce, SignedKey},
    },
};

/// Frames that leave at the next opportunity, with their destination.
pub type Outbox = VecDeque<(SocketAddr, Vec<u8>)>;

/// Least interval between replies to key frames of one peer.
const REPLY_INTERVAL: Duration = Duration::from_millis(250);
/// Least interval between key exchanges triggered by frames that cannot be opened.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);
/// Unanswered key frames before the exchange fails.
const HELLO_ATTEMPTS: u32 = 6;
/// Unanswered suite probes before the session is used as it is.
const PROBE_ATTEMPTS: u32 = 6;
/// How long frames of a replaced session are still accepted.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(30);
/// How long a peer must have been silent under the current session before a frame under the previous one
/// brings that back; longer than packets overtake each other.
const REINSTATE: Duration = Duration::from_secs(1);
/// Keepalive interval of an active peer, for NAT bindings and its watchdog.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Interval of the liveness check of an active peer.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Silence after sending to an active peer that triggers a new key exchange.
const STALL: Duration = Duration::from_secs(4);
/// Silence after which a new dial looks the peer up at the registry again.
pub const REFRESH: Duration = Duration::from_secs(1);
/// Source port of our pings; never 0, or two old nodes would answer each other for ever.
const PING_PORT: Port = Port(1);
/// Source port of pings that probe the path, to which their answers go.
const PATH_PORT: Port = Port(2);

/// The local side of a key exchange.
pub struct Local<'a> {
    /// Our address on the backbone.
    pub address: Address,
    /// Signs our exchange keys.
    pub identity: &'a Identity,
    /// Prefixes come from here.
    pub entropy: &'a mut Entropy,
    /// Told in pings.
    pub capabilities: Capabilities,
}

/// A frame that opened. Only the replay window has changed so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Whether the packet is in the frame rather than in the scratch buffer.
    pub is_in_place: bool,
    /// The session that opened it.
    by: By,
    /// Whether its counter is the highest so far.
    is_newest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Current,
    Candidate,
    Previous,
}

/// Effect of received capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// The peer's dialect is known now.
    Ready,
    /// The peer is another process than before, and its dialect is known.
    Restarted,
}

/// State of the path after a timer expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// The path works, as far as is known.
    Fine,
    /// No answers; the registry may know another endpoint.
    Stalled,
    /// The key exchange was given up.
    Unreachable,
}

/// A snapshot of the figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Where frames go.
    pub endpoint: Option<SocketAddr>,
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
    /// The last frame was opened by the previous session, so what it says about the sender is stale.
    is_late: bool,
    /// Source address of the key of a session that has not opened a frame yet.
    first_from: Option<SocketAddr>,
    candidate: Option<(Session, SocketAddr)>,
    previous: Option<(Session, Instant)>,
    retired: Retired,
    waiting: Option<(SignedKey, SocketAddr)>,
    paths: Paths,
    /// Source address of the last frame that opened.
    heard_from: Option<SocketAddr>,
    capabilities: Option<Capabilities>,
    /// Boot id that the peer last announced.
    boot_id: Option<u64>,
    /// The peer echoed our capabilities, as peers of older generations do.
    is_legacy: bool,
    /// Whether connections or datagrams use or await a session.
    is_active: bool,
    hellos: u32,
    hello_at: Option<Instant>,
    probes: u32,
    probe_at: Option<Instant>,
    check_at: Option<Instant>,
    replied_at: Option<Instant>,
    recovery_at: Option<Instant>,
    last_rx: Instant,
    last_tx: Instant,
    /// Segment size last announced to connections.
    told_segment: usize,
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
            waiting: None,
            paths: Paths::default(),
            heard_from: None,
            capabilities: None,
            boot_id: None,
            is_legacy: false,
            is_active: false,
            hellos: 0,
            hello_at: None,
            probes: 0,
            probe_at: None,
            check_at: None,
            replied_at: None,
            recovery_at: None,
            last_rx: now,
            last_tx: now,
            told_segment: PathMtu::default().segment(),
            trace: Trace::default(),
        }
    }

    /// Records from now on as much as `detail` says.
    pub fn set_trace(&mut self, detail: Option<Detail>) {
        self.trace = Trace::new(detail);
    }

    /// What happened, to be drained after each input.
    #[inline]
    pub fn poll_trace(&mut self) -> Option<TunnelEvent> {
        self.trace.poll()
    }

    /// Whether there is a session and the peer's dialect is known.
    pub fn is_ready(&self) -> bool {
        self.suite().is_some() && (self.capabilities.is_some() || self.is_legacy) && self.endpoint().is_some()
    }

    /// The suite in use.
    pub fn suite(&self) -> Option<Suite> {
        self.current.as_ref().and_then(Session::suite)
    }

    /// The identity key that the registry names.
    pub fn identity_key(&self) -> Option<[u8; 32]> {
        self.identity_key
    }

    /// Our key for the peer.
    pub fn exchange_key(&self) -> [u8; 32] {
        self.own.public_key()
    }

    /// Capabilities that the peer announced.
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.capabilities
    }

    /// Where frames go.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.paths.endpoint()
    }

    /// Source address of the last frame that opened, to which its answer goes.
    pub fn heard_from(&self) -> Option<SocketAddr> {
        self.heard_from
    }

    /// Whether a datagram of `len` bytes may be sent to the active address. Until it is validated, three
    /// times what was received from there may be sent (RFC 9000 section 8.1).
    pub fn has_credit(&mut self, len: usize) -> bool {
        self.paths.has_credit(len)
    }

    /// Counts a datagram sent to the active address.
    pub fn on_sent(&mut self, len: usize) {
        self.paths.on_sent(len);
    }

    /// Whether a datagram of `len` bytes may be sent to an address; counts it if so.
    pub fn spend(&mut self, to: SocketAddr, len: usize) -> bool {
        self.paths.spend(to, len)
    }

    /// Whether [`Self::has_credit`] has refused anything since the last call.
    pub fn take_starved(&mut self) -> bool {
        self.paths.take_starved()
    }

    /// The largest segment that is known to pass; meaningful for peers that tell capabilities.
    pub fn segment(&self) -> usize {
        let most = self.capabilities.map_or(usize::MAX, |peer| usize::from(peer.max_segment));
        let of_path = self.paths.active().map_or(SAFE_SEGMENT, |path| path.mtu.segment());
        of_path.min(most)
    }

    /// Whether [`Self::segment`] is another one than [`Self::tell_segment`] told.
    pub fn has_new_segment(&self) -> bool {
        self.told_segment != self.segment()
    }

    /// [`Self::segment`], to be acted upon.
    pub fn tell_segment(&mut self) -> usize {
        self.told_segment = self.segment();
        let segment = self.told_segment;
        self.trace.event(|| TunnelEvent::MaxSegment(segment));
        segment
    }

    /// Large segments were lost repeatedly: the path MTU may have shrunk.
    pub fn on_path_suspect(&mut self, now: Instant) {
        if let Some(path) = self.paths.active_mut() {
            path.mtu.fail(now);
        }
    }

    /// An answer to a ping arrived.
    pub fn on_pong(&mut self, now: Instant, port: Port, seq: SeqNumber) -> Proof {
        let Some(from) = self.heard_from else { return Proof::Nothing };
        if Token::is_token(port) {
            let proof = self.paths.on_answer(now, from, Token { port, seq });
            if proof != Proof::Nothing {
                let has_moved = proof == Proof::Moved;
                self.trace.event(|| TunnelEvent::PathValidated { at: from, has_moved });
            }
            return proof;
        }
        if port == PATH_PORT
            && self.endpoint() == Some(from)
            && let Some(path) = self.paths.active_mut()
        {
            path.mtu.on_answer(now, seq.value());
        }
        Proof::Nothing
    }

    /// Send time of the frame with this nonce, rounded down.
    pub fn sent_at(&self, nonce: Nonce) -> Option<Instant> {
        let previous = self.previous.as_ref().map(|(session, _)| session);
        [self.current.as_ref(), previous].into_iter().flatten().find_map(|session| session.sent_at(nonce))
    }

    /// A datagram to the peer was dropped by what carries `max_datagram` bytes. Returns whether that
    /// told anything.
    pub fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        self.may_probe_path()
            && self.paths.active_mut().is_some_and(|path| path.mtu.on_too_big(now, max_datagram))
    }

    /// When something authentic last arrived.
    pub fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// Whether nothing authentic came for as long as `silence`.
    pub fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        now.saturating_since(self.last_rx) >= silence
    }

    /// Whether something waits for a session, or uses it.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Whether the registry must be asked before anything can happen.
    pub fn needs_record(&self) -> bool {
        self.identity_key.is_none() || !self.paths.is_likely()
    }

    /// A snapshot of the figures.
    pub fn status(&self) -> PeerStatus {
        let is_encrypted = self.suite().is_some();
        PeerStatus { endpoint: self.endpoint(), is_encrypted, is_authenticated: is_encrypted }
    }

    /// Starts a key exchange unless there is a session.
    pub fn activate(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        self.is_active = true;
        self.check_at.get_or_insert(now + CHECK_INTERVAL);
        // A key that nothing has opened under may be a replay.
        if self.suite().is_none() && self.hello_at.is_none() && self.identity_key.is_some() {
            self.hellos = 0;
            self.send_hello(now, local, out);
        }
        if self.capabilities.is_some()
            && let Some(path) = self.paths.active_mut()
        {
            path.mtu.wake(now);
        }
    }

    /// No connection or datagram uses or awaits the session any more.
    pub fn deactivate(&mut self) {
        self.is_active = false;
        self.check_at = None;
        self.hello_at = None;
    }

    /// Takes capabilities from a ping or pong; `ours` is our own boot id, which an old peer echoes.
    pub fn on_capabilities(&mut self, now: Instant, capabilities: Capabilities, ours: u64) -> Change {
        if self.is_late {
            return Change::None;
        }
        if capabilities.boot_id == ours {
            return if self.on_legacy() { Change::Ready } else { Change::None };
        }
        self.probe_at = None;
        self.is_legacy = false;
        if let Some(path) = self.paths.active_mut() {
            path.mtu.wake(now);
        }
        let is_new = self.capabilities.replace(capabilities) != Some(capabilities);
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

    /// Whether the peer has announced a boot id, so that a new key alone does not mean a restart.
    pub fn tells_restarts(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Pings the peer unless a ping is outstanding.
    pub fn ask_capabilities(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.probe_at.is_none() {
            self.probes = 0;
            self.send_probe(now, local, out);
        }
    }

    /// The peer announces no capabilities. Returns whether that is news.
    fn on_legacy(&mut self) -> bool {
        if self.capabilities.is_some() || self.is_legacy {
            return false;
        }
        self.probe_at = None;
        self.is_legacy = true;
        self.trace.event(|| TunnelEvent::Legacy);
        true
    }

    /// Seals a frame whose packet lies between header and tag.
    ///
    /// # Errors
    /// [`CryptoError::Key`] without a session.
    pub fn seal(&mut self, now: Instant, sender: NodeId, frame: &mut [u8]) -> Result<(), CryptoError> {
        self.last_tx = now;
        self.current.as_mut().ok_or(CryptoError::Key)?.seal(now, sender, frame)
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mtu_at = self.paths.active().and_then(|path| path.mtu.poll_timeout());
        let mtu_at = mtu_at.filter(|_| self.may_probe_path());
        let path_at = self.paths.poll_timeout().filter(|_| self.suite().is_some());
        [self.hello_at, self.probe_at, self.check_at, mtu_at, path_at].into_iter().flatten().min()
    }

    /// Acts on passed deadlines.
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
                // The sender of this key is gone and may be back elsewhere with another key.
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
            // No answer from there; the registry may know a newer endpoint.
            liveness = Liveness::Stalled;
        }
        self.send_challenges(now, local, out);
        if self.may_probe_path()
            && let Some(probe) = self.paths.active_mut().and_then(|path| path.mtu.handle_timeout(now))
        {
            self.send_path_probe(now, probe, local, out);
        }
        liveness
    }
}
