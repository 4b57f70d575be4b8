//! What we know about one peer and how a session with it comes about.

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use super::{
    Capabilities, OpenError, Session,
    path_mtu::{PathMtu, PathProbe},
};
use crate::{
    crypto::{
        CryptoError, Suite,
        entropy::Entropy,
        exchange::ExchangeKey,
        identity::{Identity, verify_signed_key},
    },
    time::Instant,
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{BareKey, Nonce, SEALED_HEADER_LEN, SealedHeader, SignedKey, TAG_LEN},
    },
};

/// Frames that leave at the next opportunity, with their destination.
pub type Outbox = VecDeque<(SocketAddr, Vec<u8>)>;

/// A reply to a key frame goes to one peer at most this often.
const REPLY_INTERVAL: Duration = Duration::from_millis(250);
/// A peer that seals frames we cannot open is told so at most this often.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);
/// Key frames sent without an answer before the exchange is given up.
const HELLO_ATTEMPTS: u32 = 6;
/// Pings sent without an answer before the session is used as it is.
const PROBE_ATTEMPTS: u32 = 6;
/// Late frames of a replaced session are opened for this long.
const PREVIOUS_LIFETIME: Duration = Duration::from_secs(30);
/// How long a peer must have been silent under the current session before a frame under the previous one
/// brings that back; longer than packets overtake each other.
const REINSTATE: Duration = Duration::from_secs(1);
/// Keys of earlier processes of the peer that are remembered as replays.
const MAX_RETIRED: usize = 16;
/// Silence after which an active peer is sent something, for NATs and for its watchdog.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// How often an active peer is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Silence of an active peer that was sent something, after which keys are exchanged anew.
const STALL: Duration = Duration::from_secs(4);
/// Silence after which a new dial asks the registry whether the peer moved.
pub const REFRESH: Duration = Duration::from_secs(1);
/// Source port of our pings; never 0, or two old nodes would answer each other for ever.
const PING_PORT: Port = Port(1);
/// Source port of pings that probe the path, to which their answers go.
pub const PATH_PORT: Port = Port(2);

/// What is ours in an exchange.
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

/// What became of a signed key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyVerdict {
    /// A session was made of it, or it was known.
    Accepted,
    /// The registry must name the peer's identity key first; the frame is kept until then.
    NeedsIdentity,
    /// It proves nothing.
    Refused,
}

/// What capabilities changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// The peer's dialect is known now.
    Ready,
    /// The peer is another process than before, and its dialect is known.
    Restarted,
}

/// What passed deadlines mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Nothing is wrong.
    Fine,
    /// Nothing answers; the registry may know another endpoint.
    Stalled,
    /// The key exchange was given up.
    Unreachable,
}

/// A view for people and programs.
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
    /// When a frame last opened under the current session.
    current_rx: Instant,
    /// The frame opened last came under the session before: what it says of its sender is old.
    is_late: bool,
    candidate: Option<(Session, SocketAddr)>,
    previous: Option<(Session, Instant)>,
    retired: VecDeque<[u8; 32]>,
    waiting: Option<(SignedKey, SocketAddr)>,
    endpoint: Option<SocketAddr>,
    capabilities: Option<Capabilities>,
    /// The process that the peer last told to be.
    boot_id: Option<u64>,
    /// The peer echoed our capabilities: it is an old one.
    is_legacy: bool,
    /// Something waits for a session, or uses it.
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
    path: PathMtu,
    /// What connections were last told.
    told_segment: usize,
}

impl Peer {
    /// A peer of whom nothing but the id is known. `own` is our key for this peer alone.
    pub fn new(now: Instant, id: NodeId, own: ExchangeKey) -> Self {
        Self {
            id,
            own,
            identity_key: None,
            current: None,
            current_rx: now,
            is_late: false,
            candidate: None,
            previous: None,
            retired: VecDeque::new(),
            waiting: None,
            endpoint: None,
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
            path: PathMtu::default(),
            told_segment: PathMtu::default().segment(),
        }
    }

    /// Whether data may be sealed for the peer, in a dialect that is known.
    pub fn is_ready(&self) -> bool {
        self.suite().is_some() && (self.capabilities.is_some() || self.is_legacy) && self.endpoint.is_some()
    }

    /// The suite in use.
    pub fn suite(&self) -> Option<Suite> {
        self.current.as_ref().and_then(Session::suite)
    }

    /// The identity that the registry names.
    pub fn identity_key(&self) -> Option<[u8; 32]> {
        self.identity_key
    }

    /// Our key for the peer.
    pub fn exchange_key(&self) -> [u8; 32] {
        self.own.public_key()
    }

    /// What the peer told it can do.
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.capabilities
    }

    /// Where frames go.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    /// The largest segment that is known to pass; meaningful for peers that tell capabilities.
    pub fn segment(&self) -> usize {
        let most = self.capabilities.map_or(usize::MAX, |peer| usize::from(peer.max_segment));
        self.path.segment().min(most)
    }

    /// Whether [`Self::segment`] is another one than [`Self::tell_segment`] told.
    pub fn has_new_segment(&self) -> bool {
        self.told_segment != self.segment()
    }

    /// [`Self::segment`], to be acted upon.
    pub fn tell_segment(&mut self) -> usize {
        self.told_segment = self.segment();
        self.told_segment
    }

    /// What was sent along the path was lost time and again.
    pub fn on_path_suspect(&mut self, now: Instant) {
        self.path.fail(now);
    }

    /// The answer to a path probe arrived.
    pub fn on_path_answer(&mut self, now: Instant, serial: SeqNumber) {
        self.path.on_answer(now, serial.value());
    }

    /// When a frame with this nonce left for the peer, or a moment before.
    pub fn sent_at(&self, nonce: Nonce) -> Option<Instant> {
        let previous = self.previous.as_ref().map(|(session, _)| session);
        [self.current.as_ref(), previous].into_iter().flatten().find_map(|session| session.sent_at(nonce))
    }

    /// A datagram to the peer was dropped by what carries `max_datagram` octets. Returns whether that
    /// told anything.
    pub fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        self.may_probe_path() && self.path.on_too_big(now, max_datagram)
    }

    /// When something authentic last arrived.
    pub fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// Whether something waits for a session, or uses it.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Whether the registry must be asked before anything can happen.
    pub fn needs_record(&self) -> bool {
        self.identity_key.is_none() || self.endpoint.is_none()
    }

    /// A view for people and programs.
    pub fn status(&self) -> PeerStatus {
        let is_encrypted = self.suite().is_some();
        PeerStatus { endpoint: self.endpoint, is_encrypted, is_authenticated: is_encrypted }
    }

    /// Asks for a session. Harmless when there is one.
    pub fn activate(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        self.is_active = true;
        self.check_at.get_or_insert(now + CHECK_INTERVAL);
        if self.current.is_none() && self.hello_at.is_none() && !self.needs_record() {
            self.hellos = 0;
            self.send_hello(now, local, out);
        }
        if self.capabilities.is_some() {
            self.path.wake(now);
        }
    }

    /// Nothing waits for or uses the session any more.
    pub fn deactivate(&mut self) {
        self.is_active = false;
        self.check_at = None;
        self.hello_at = None;
    }

    /// Takes what the registry says about the peer. A known endpoint that works is kept.
    pub fn on_record(
        &mut self,
        now: Instant,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) {
        self.identity_key = Some(identity_key);
        if self.suite().is_none() || self.endpoint.is_none() {
            self.endpoint = endpoint.or(self.endpoint);
        } else if let Some(other) = endpoint.filter(|other| self.endpoint != Some(*other)) {
            // It may have restarted elsewhere. What is authentic from there will move the endpoint.
            if self.is_silent(now, REFRESH) {
                self.push_keys(other, true, local, out);
            }
        }
        // A frame of another identity proves nothing later either.
        if let Some((frame, from)) =
            self.waiting.take().filter(|(frame, _)| frame.identity_key == identity_key)
        {
            let _ = self.on_signed_key(now, &frame, from, local, out);
        }
        if self.is_active {
            self.activate(now, local, out);
        }
    }

    /// Forgets every session and what the peer told in them; `own` is our next exchange key.
    pub fn forget_sessions(&mut self, own: ExchangeKey) {
        self.own = own;
        (self.current, self.candidate, self.previous) = (None, None, None);
        (self.capabilities, self.boot_id, self.is_legacy) = (None, None, false);
        (self.hello_at, self.probe_at, self.replied_at) = (None, None, None);
    }

    /// Sends our signed key to a peer with a session.
    pub fn announce(&mut self, local: &Local<'_>, out: &mut Outbox) {
        if let Some(endpoint) = self.endpoint.filter(|_| self.current.is_some()) {
            self.push_keys(endpoint, false, local, out);
        }
    }

    /// What is known of a signed key without checking it: it is in use, or was.
    pub fn recall(&self, frame: &SignedKey) -> Option<KeyVerdict> {
        let known = [self.current.as_ref(), self.candidate.as_ref().map(|(session, _)| session)];
        let is_known = known.into_iter().flatten().any(|session| session.peer_key == frame.exchange_key);
        if is_known && self.identity_key == Some(frame.identity_key) {
            return Some(KeyVerdict::Accepted);
        }
        self.retired.contains(&frame.exchange_key).then_some(KeyVerdict::Refused)
    }

    /// Takes a signed key frame.
    pub fn on_signed_key(
        &mut self,
        now: Instant,
        frame: &SignedKey,
        from: SocketAddr,
        local: &mut Local<'_>,
        out: &mut Outbox,
    ) -> KeyVerdict {
        if let Some(verdict) = self.recall(frame) {
            return verdict;
        }
        if self.identity_key != Some(frame.identity_key) {
            self.waiting = Some((frame.clone(), from));
            return KeyVerdict::NeedsIdentity;
        }
        if verify_signed_key(frame).is_err() {
            return KeyVerdict::Refused;
        }
        let Ok(session) = Session::new(now, &self.own, frame.exchange_key, local.entropy.next_u32()) else {
            return KeyVerdict::Refused;
        };
        self.last_rx = now;
        self.hello_at = None;
        if self.current.is_none() {
            self.current = Some(session);
            self.current_rx = now;
            self.endpoint = Some(from);
        } else {
            self.candidate = Some((session, from));
        }
        // A key that is proved and new is answered at once, however lately another one was.
        self.replied_at = None;
        self.reply(now, from, local, out);
        self.probes = 0;
        self.send_probe(now, local, out);
        KeyVerdict::Accepted
    }

    /// Takes a bare key frame: it proves nothing, and asks for our signed one.
    pub fn on_bare_key(&mut self, now: Instant, from: SocketAddr, local: &mut Local<'_>, out: &mut Outbox) {
        self.reply(now, from, local, out);
    }

    /// A sealed frame arrived that no session opens: the peer may hold a session that we lost.
    pub fn on_unopened(&mut self, now: Instant, from: SocketAddr, local: &mut Local<'_>, out: &mut Outbox) {
        let is_early = self.recovery_at.is_some_and(|at| now < at + RECOVERY_INTERVAL);
        if is_early || self.suite().is_some() {
            return;
        }
        self.recovery_at = Some(now);
        self.push_keys(from, true, local, out);
    }

    /// Opens a sealed frame: in place if `true` is returned, else into `scratch`. The flag beside it
    /// says whether a new session was promoted.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &mut self,
        now: Instant,
        header: SealedHeader,
        frame: &mut [u8],
        scratch: &mut Vec<u8>,
        from: SocketAddr,
    ) -> Result<(bool, bool), OpenError> {
        let is_alone = self.candidate.is_none() && self.previous.is_none();
        let Some(current) = self.current.as_mut() else { return Err(OpenError::Unauthentic) };
        if is_alone && current.is_settled() {
            current.open_in_place(header, frame)?;
            self.on_opened(now, from);
            return Ok((true, false));
        }
        let mut result = current.open_to(header, frame, scratch);
        if result.is_ok() {
            self.on_opened(now, from);
            return Ok((false, false));
        }
        if let Some((candidate, _)) = self.candidate.as_mut()
            && candidate.open_to(header, frame, scratch).is_ok()
        {
            self.promote(now);
            self.on_opened(now, from);
            return Ok((false, true));
        }
        if let Some((previous, until)) = self.previous.as_mut() {
            if now >= *until {
                self.previous = None;
            } else if previous.open_to(header, frame, scratch).is_ok() {
                if now.saturating_since(self.current_rx) >= REINSTATE {
                    self.reinstate(now);
                    self.on_opened(now, from);
                    return Ok((false, true));
                }
                result = Ok(());
                self.last_rx = now;
                self.is_late = true;
            }
        }
        result.map(|()| (false, false))
    }

    fn on_opened(&mut self, now: Instant, from: SocketAddr) {
        self.last_rx = now;
        self.current_rx = now;
        self.is_late = false;
        // Roaming: what is authentic comes from where the peer is.
        if self.endpoint != Some(from) {
            self.endpoint = Some(from);
            self.path.fail(now);
        }
    }

    fn promote(&mut self, now: Instant) {
        let Some((candidate, _)) = self.candidate.take() else { return };
        self.install(now, candidate);
    }

    /// The peer goes on under the session before the current one: what an earlier process had sent, its
    /// key and a frame under it, came late and was taken for news. The frame that shows it is no replay,
    /// since the replay windows of that session have lived on.
    fn reinstate(&mut self, now: Instant) {
        let Some((previous, _)) = self.previous.take() else { return };
        self.retired.retain(|key| *key != previous.peer_key);
        self.install(now, previous);
        // Ask anew who that is.
        (self.probes, self.probe_at) = (0, Some(now));
    }

    fn install(&mut self, now: Instant, session: Session) {
        self.current_rx = now;
        if let Some(old) = self.current.replace(session) {
            if self.retired.len() == MAX_RETIRED {
                self.retired.pop_front();
            }
            self.retired.push_back(old.peer_key);
            self.previous = Some((old, now + PREVIOUS_LIFETIME));
        }
        self.capabilities = None;
        self.is_legacy = false;
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
        self.path.wake(now);
        let is_new = self.capabilities.replace(capabilities) != Some(capabilities);
        let before = self.boot_id.replace(capabilities.boot_id);
        if before.is_some_and(|id| id != capabilities.boot_id) {
            Change::Restarted
        } else if is_new {
            Change::Ready
        } else {
            Change::None
        }
    }

    /// Whether the peer ever told a boot id, so that a new key alone does not mean a new process.
    pub fn tells_restarts(&self) -> bool {
        self.boot_id.is_some()
    }

    /// Pings the peer unless that is under way already.
    pub fn ask_capabilities(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) {
        if self.probe_at.is_none() {
            self.probes = 0;
            self.send_probe(now, local, out);
        }
    }

    /// The peer shows that it tells no capabilities. `true` if that is new.
    fn on_legacy(&mut self) -> bool {
        if self.capabilities.is_some() || self.is_legacy {
            return false;
        }
        self.probe_at = None;
        self.is_legacy = true;
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
        let path_at = self.path.poll_timeout().filter(|_| self.may_probe_path());
        [self.hello_at, self.probe_at, self.check_at, path_at].into_iter().flatten().min()
    }

    /// Acts on passed deadlines.
    pub fn handle_timeout(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) -> Liveness {
        let mut liveness = Liveness::Fine;
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            if self.probes < PROBE_ATTEMPTS {
                self.send_probe(now, local, out);
            } else if self.candidate.take().is_none() && self.suite().is_none() {
                // Whoever sent this key is gone, and may be back elsewhere with another.
                self.current = None;
                if self.is_active {
                    self.hellos = 0;
                    self.send_hello(now, local, out);
                    liveness = Liveness::Stalled;
                }
            }
        }
        if self.check_at.is_some_and(|at| at <= now) {
            self.check_at = self.is_active.then_some(now + CHECK_INTERVAL);
            if self.check(now, local, out) {
                liveness = Liveness::Stalled;
            }
        }
        if self.hello_at.is_some_and(|at| at <= now) {
            self.hello_at = None;
            if self.hellos >= HELLO_ATTEMPTS {
                return Liveness::Unreachable;
            }
            self.send_hello(now, local, out);
        }
        if self.may_probe_path()
            && let Some(probe) = self.path.handle_timeout(now)
        {
            self.send_path_probe(now, probe, local, out);
        }
        liveness
    }

    /// Paths are probed while they are used, with peers that answer padded pings by short ones.
    fn may_probe_path(&self) -> bool {
        self.is_active && self.capabilities.is_some() && self.is_ready()
    }

    fn send_path_probe(&mut self, now: Instant, probe: PathProbe, local: &Local<'_>, out: &mut Outbox) {
        let Some(endpoint) = self.endpoint else { return };
        let header = self.ping(local, PATH_PORT, SeqNumber::new(probe.serial));
        let end = SEALED_HEADER_LEN + HEADER_LEN + probe.size;
        let mut frame = vec![0; end + TAG_LEN];
        let packet = &mut frame[SEALED_HEADER_LEN..end];
        packet[HEADER_LEN..].copy_from_slice(&local.capabilities.emit_padded(probe.size));
        if header.emit(packet) && self.seal(now, local.address.node, &mut frame).is_ok() {
            out.push_back((endpoint, frame));
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

    /// Whether something was sent and nothing came back for as long as `silence`.
    pub fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        now.saturating_since(self.last_rx) >= silence
    }

    /// Keeps an active path alive, and exchanges keys anew when it seems dead. Returns whether it
    /// does.
    fn check(&mut self, now: Instant, local: &mut Local<'_>, out: &mut Outbox) -> bool {
        let Some(endpoint) = self.endpoint.filter(|_| self.suite().is_some()) else { return false };
        let is_stalled = self.last_tx > self.last_rx && self.is_silent(now, STALL);
        if is_stalled || self.current.as_ref().is_some_and(Session::is_exhausted) {
            self.push_keys(endpoint, true, local, out);
            self.send_probe(now, local, out);
        } else if now.saturating_since(self.last_tx) >= KEEPALIVE {
            self.send_probe(now, local, out);
        }
        self.probe_at = self.probe_at.filter(|_| !self.is_ready());
        is_stalled
    }

    fn send_hello(&mut self, now: Instant, local: &Local<'_>, out: &mut Outbox) {
        let Some(endpoint) = self.endpoint else { return };
        self.hellos += 1;
        // Repeats ask for an answer even from a peer that believes to have our key.
        self.push_keys(endpoint, self.hellos > 1, local, out);
        let wait = Duration::from_secs(1 << self.hellos.min(3).saturating_sub(1));
        self.hello_at = Some(now + wait);
    }

    fn reply(&mut self, now: Instant, to: SocketAddr, local: &Local<'_>, out: &mut Outbox) {
        if self.replied_at.is_some_and(|at| now < at + REPLY_INTERVAL) {
            return;
        }
        self.replied_at = Some(now);
        self.push_keys(to, false, local, out);
    }

    fn push_keys(&self, to: SocketAddr, asks_back: bool, local: &Local<'_>, out: &mut Outbox) {
        let exchange_key = self.own.public_key();
        let sender = local.address.node;
        if let Ok(frame) = local.identity.sign_exchange_key(sender, exchange_key) {
            out.push_back((to, frame.emit().to_vec()));
        }
        if asks_back {
            out.push_back((to, BareKey { sender, exchange_key }.emit().to_vec()));
        }
    }

    /// Pings the peer under the newest keys, which tells the suite, the capabilities and whether the
    /// path works.
    fn send_probe(&mut self, now: Instant, local: &Local<'_>, out: &mut Outbox) {
        let header = self.ping(local, PING_PORT, SeqNumber::new(self.probes + 1));
        let (session, to) = match (&mut self.candidate, &mut self.current, self.endpoint) {
            (Some((session, from)), _, _) => (session, *from),
            (None, Some(session), Some(endpoint)) => (session, endpoint),
            (None, _, _) => return,
        };
        self.probes += 1;
        let mut packet = vec![0; HEADER_LEN + Capabilities::LEN];
        packet[HEADER_LEN..].copy_from_slice(&local.capabilities.emit());
        if header.emit(&mut packet) {
            out.extend(session.seal_both(local.address.node, &packet).into_iter().map(|frame| (to, frame)));
        }
        self.last_tx = now;
        let wait = Duration::from_millis(250 << self.probes.min(4).saturating_sub(1));
        self.probe_at = Some(now + wait);
    }
}
