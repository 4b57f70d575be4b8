//! A peer's addresses and their validation (RFC 9000 sections 8 and 9).
//!
//! A frame proves who sealed it and not where that is: anybody on its way can send it on from elsewhere,
//! and its sender can write any source address. So an address is validated by a challenge: a sealed ping
//! whose port and number nobody can guess, which every generation of peers answers with both. Until the
//! answer comes from there, at most three times what came from an address goes to it, and traffic stays
//! with the address that was validated before. That is asked as well: if it answers, the peer has not
//! moved (section 9.3.3).

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use super::path_mtu::PathMtu;
use crate::{
    crypto::entropy::Entropy,
    time::Instant,
    wire::{addr::Port, seq::SeqNumber},
};

/// Bytes that may be sent per byte received before validation (RFC 9000 section 8.1).
const AMPLIFICATION: u64 = 3;
/// Bytes of the headers of IPv4 and UDP, which count too.
const AROUND: u64 = 20 + 8;
/// Addresses being validated besides the active one.
const MAX_CANDIDATES: usize = 4;
/// Challenges sent to an address, and the wait for the first answer, which doubles.
const MAX_CHALLENGES: u32 = 4;
const CHALLENGE_TIMER: Duration = Duration::from_millis(250);
/// An address whose challenges were not answered is challenged again when it is heard after this.
const RETRY: Duration = Duration::from_secs(1);
/// A candidate that is not challenged is forgotten after this.
const LIFETIME: Duration = Duration::from_secs(10);
/// How long a refuted address is ignored.
const HOLD: Duration = Duration::from_secs(2);
/// Addresses that only the registry names are called this often while there is a session, and some at
/// once: a peer that crashes again and again comes back elsewhere each time.
const TOLD_INTERVAL: Duration = Duration::from_secs(4);
const TOLD_BURST: u32 = 4;
/// Bytes counted as received from such an address: three times so many may go there, enough for both of our
/// keys and all challenges.
const CALL_CREDIT: u64 = 240;
/// The least port of challenges: half of all, and none of other pings.
const FIRST_PORT: u16 = 0x8000;

/// What an answer repeats: 15 bits of a port and 32 of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token {
    /// Source port of the ping.
    pub(super) port: Port,
    /// Its number.
    pub(super) seq: SeqNumber,
}

impl Token {
    fn new(entropy: &mut Entropy) -> Self {
        let [high, low, ..] = entropy.next_u32().to_be_bytes();
        Self {
            port: Port(FIRST_PORT | u16::from_be_bytes([high, low])),
            seq: SeqNumber::new(entropy.next_u32()),
        }
    }

    /// Whether a port is one of challenges.
    pub(super) fn is_token(port: Port) -> bool {
        port.0 >= FIRST_PORT
    }
}

#[derive(Clone, Copy, Debug)]
struct Challenge {
    token: Token,
    tries: u32,
    due: Instant,
}

impl Challenge {
    fn new(now: Instant, entropy: &mut Entropy) -> Self {
        Self { token: Token::new(entropy), tries: 0, due: now }
    }

    fn is_exhausted(&self) -> bool {
        self.tries >= MAX_CHALLENGES
    }
}

/// One address of a peer.
#[derive(Debug)]
pub(super) struct Path {
    /// The address.
    address: SocketAddr,
    /// Whether the peer answered a challenge from there.
    is_validated: bool,
    /// Whether the registry named it, so that we call first.
    is_told: bool,
    /// Whether a sealed frame of the peer came from there.
    is_heard: bool,
    /// Bytes received from and sent to it before validation.
    received: u64,
    sent: u64,
    /// Whether the limit held something back.
    is_starved: bool,
    challenge: Option<Challenge>,
    /// Expiry of a candidate.
    until: Instant,
    /// Path MTU discovery.
    pub(super) mtu: PathMtu,
}

impl Path {
    fn new(now: Instant, address: SocketAddr) -> Self {
        Self {
            address,
            is_validated: false,
            is_told: false,
            is_heard: false,
            received: 0,
            sent: 0,
            is_starved: false,
            challenge: None,
            until: now + LIFETIME,
            mtu: PathMtu::default(),
        }
    }

    fn until(self, until: Instant) -> Self {
        Self { until, ..self }
    }

    fn on_received(&mut self, len: usize) {
        if !self.is_validated {
            self.received = self.received.saturating_add(len as u64 + AROUND);
        }
    }

    fn has_credit(&self, len: usize) -> bool {
        let most = self.received.saturating_mul(AMPLIFICATION);
        self.is_validated || self.sent.saturating_add(len as u64 + AROUND) <= most
    }

    fn on_sent(&mut self, len: usize) {
        if !self.is_validated {
            self.sent = self.sent.saturating_add(len as u64 + AROUND);
        }
    }

    fn is_answered_by(&self, from: SocketAddr, token: Token) -> bool {
        self.address == from && self.challenge.is_some_and(|challenge| challenge.token == token)
    }

    /// Starts a challenge, unless one is under way or was given up just now.
    fn challenge(&mut self, now: Instant, entropy: &mut Entropy) {
        let is_over = |last: &Challenge| last.is_exhausted() && now >= last.due + RETRY;
        if self.challenge.as_ref().is_none_or(is_over) {
            self.challenge = Some(Challenge::new(now, entropy));
        }
    }
}

/// Result of an answered challenge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Nothing new.
    Nothing,
    /// The peer is where we thought.
    Validated,
    /// The peer is elsewhere, and that is where frames go now.
    Moved,
}

/// The addresses of one peer.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The address in use.
    active: Option<Path>,
    /// Addresses being validated, oldest first.
    candidates: Vec<Path>,
    /// The previous address, while it is still being challenged.
    former: Option<Path>,
    /// Refuted addresses, ignored for a while.
    held: VecDeque<(SocketAddr, Instant)>,
    /// When the budget of calls on the registry's word is full again.
    told_until: Instant,
}

impl Paths {
    /// Where frames go.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.active.as_ref().map(|path| path.address)
    }

    /// Whether the peer has shown to be there.
    pub(super) fn is_validated(&self) -> bool {
        self.active.as_ref().is_some_and(|path| path.is_validated)
    }

    /// Whether anything but a key, which a stranger may have sent on, says where the peer is.
    pub(super) fn is_likely(&self) -> bool {
        self.active.as_ref().is_some_and(|path| path.is_told || path.is_heard || path.is_validated)
    }

    /// Whether the peer is at `address` for all we know and no other is asked.
    pub(super) fn is_settled(&self, address: SocketAddr) -> bool {
        self.is_validated() && self.endpoint() == Some(address)
    }

    /// The path in use.
    pub(super) fn active(&self) -> Option<&Path> {
        self.active.as_ref()
    }

    /// The path in use, to be changed.
    pub(super) fn active_mut(&mut self) -> Option<&mut Path> {
        self.active.as_mut()
    }

    /// Whether something sealed came from where frames go.
    pub(super) fn is_heard(&self) -> bool {
        self.active.as_ref().is_some_and(|path| path.is_heard)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        self.active.iter_mut().chain(&mut self.candidates).chain(&mut self.former)
    }

    fn find_mut(&mut self, address: SocketAddr) -> Option<&mut Path> {
        self.all_mut().find(|path| path.address == address)
    }

    /// Whoever has shown to be anywhere is not the peer any more.
    pub(super) fn forget_proofs(&mut self, now: Instant) {
        let active = self.active.take();
        let active = active.map(|path| Path { is_told: path.is_told, ..Path::new(now, path.address) });
        *self = Self { active, ..Self::default() };
    }

    /// The registry says where the peer is, and nothing else is known that works. Returns whether frames go
    /// elsewhere than before.
    pub(super) fn on_told(&mut self, now: Instant, address: SocketAddr) -> bool {
        if let Some(path) = self.active.as_mut().filter(|path| path.address == address) {
            path.is_told = true;
            return false;
        }
        let known = self.candidates.iter().position(|path| path.address == address);
        let path = known.map_or_else(|| Path::new(now, address), |at| self.candidates.remove(at));
        let before = self.active.replace(Path { is_told: true, ..path });
        self.candidates
            .extend(before.filter(|path| !path.is_validated).map(|path| path.until(now + LIFETIME)));
        self.candidates.truncate(MAX_CANDIDATES);
        true
    }

    /// The registry names another address than the one in use: asks both, within the budget of calls.
    pub(super) fn on_told_elsewhere(
        &mut self,
        now: Instant,
        address: SocketAddr,
        entropy: &mut Entropy,
    ) -> bool {
        let told_until = self.told_until.max(now) + TOLD_INTERVAL;
        if told_until > now + TOLD_BURST * TOLD_INTERVAL {
            return false;
        }
        self.held.retain(|(held, _)| *held != address);
        let Some(path) = self.candidate(now, address, true) else { return false };
        path.is_told = true;
        path.received += CALL_CREDIT;
        path.challenge(now, entropy);
        self.question_active(now, entropy);
        self.told_until = told_until;
        true
    }

    /// A key that the peer signed came from here, which anybody may have sent.
    pub(super) fn on_key(&mut self, now: Instant, from: SocketAddr, len: usize) {
        if self.active.is_none() {
            self.active = Some(Path::new(now, from));
        }
        let path = match self.find_mut(from) {
            Some(path) => Some(path),
            None => self.candidate(now, from, false),
        };
        if let Some(path) = path {
            path.on_received(len);
        }
    }

    /// Something that proves nothing came from here; it counts for what may be answered.
    pub(super) fn on_unproven(&mut self, from: SocketAddr, len: usize) {
        if let Some(path) = self.find_mut(from) {
            path.on_received(len);
        }
    }

    /// A sealed frame of the peer came from here. Frames that were overtaken do not start anything
    /// (RFC 9000 section 9.3).
    pub(super) fn on_sealed(
        &mut self,
        now: Instant,
        from: SocketAddr,
        len: usize,
        is_newest: bool,
        entropy: &mut Entropy,
    ) {
        if let Some(path) = self.active.as_mut().filter(|path| path.address == from) {
            if !path.is_validated {
                path.is_heard = true;
                path.on_received(len);
                path.challenge(now, entropy);
            }
            return;
        }
        if !is_newest {
            self.on_unproven(from, len);
            return;
        }
        self.held.retain(|(_, until)| now < *until);
        if self.held.iter().any(|(held, _)| *held == from) {
            return;
        }
        if let Some(path) = self.candidate(now, from, true) {
            path.is_heard = true;
            path.on_received(len);
            path.challenge(now, entropy);
        }
        if self.active.as_ref().is_none_or(|path| !path.is_validated && !path.is_heard) {
            // The peer is not where it was thought to be; it may be told so later.
            let at = self.candidates.iter().position(|path| path.address == from);
            let heard = at.map(|at| self.candidates.remove(at));
            let told = core::mem::replace(&mut self.active, heard);
            self.candidates.extend(told.map(|path| path.until(now + LIFETIME)));
            self.candidates.truncate(MAX_CANDIDATES);
        } else {
            self.question_active(now, entropy);
        }
    }

    /// Asks whether the peer is still where it was.
    fn question_active(&mut self, now: Instant, entropy: &mut Entropy) {
        if let Some(path) = &mut self.active {
            path.challenge(now, entropy);
        }
    }

    /// The candidate at an address. When there are too many, the oldest goes; for one that need not be
    /// the peer's, only another such one.
    fn candidate(&mut self, now: Instant, address: SocketAddr, is_proven: bool) -> Option<&mut Path> {
        if self.former.as_ref().is_some_and(|path| path.address == address) {
            return self.former.as_mut();
        }
        if let Some(at) = self.candidates.iter().position(|path| path.address == address) {
            return self.candidates.get_mut(at);
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let is_weak = |path: &Path| !path.is_heard && !path.is_told;
            let victim = self.candidates.iter().position(is_weak).or(is_proven.then_some(0))?;
            self.candidates.remove(victim);
        }
        self.candidates.push(Path::new(now, address));
        self.candidates.last_mut()
    }

    /// Whether `len` bytes may go to an address now; if so, they count.
    pub(super) fn spend(&mut self, to: SocketAddr, len: usize) -> bool {
        let Some(path) = self.find_mut(to) else { return false };
        let has_credit = path.has_credit(len);
        if has_credit {
            path.on_sent(len);
        }
        path.is_starved |= !has_credit;
        has_credit
    }

    /// The same for the keys with which a dial calls: they go where the registry says that the peer is,
    /// whatever came from there.
    pub(super) fn call(&mut self, to: SocketAddr, len: usize) -> bool {
        self.find_mut(to).is_some_and(|path| path.is_told) || self.spend(to, len)
    }

    /// What a frame of `len` bytes that proves nothing pays for, where nothing else is known of its
    /// source; 0 for one that was counted.
    pub(super) fn credit_of(&mut self, from: SocketAddr, len: usize) -> u64 {
        if len == 0 {
            return 0;
        }
        self.on_unproven(from, len);
        AMPLIFICATION * (len as u64 + AROUND)
    }

    /// As [`Self::spend`]; an address that is none of the peer's is paid for by `credit`.
    pub(super) fn spend_of(&mut self, credit: &mut u64, to: SocketAddr, len: usize) -> bool {
        if self.find_mut(to).is_some() {
            return self.spend(to, len);
        }
        let left = credit.checked_sub(len as u64 + AROUND);
        *credit = left.unwrap_or(*credit);
        left.is_some()
    }

    /// Whether `len` bytes may go to where frames go.
    pub(super) fn has_credit(&mut self, len: usize) -> bool {
        self.active.as_mut().is_some_and(|path| {
            let has_credit = path.has_credit(len);
            path.is_starved |= !has_credit;
            has_credit
        })
    }

    /// Counts what went to where frames go.
    pub(super) fn on_sent(&mut self, len: usize) {
        if let Some(path) = &mut self.active {
            path.on_sent(len);
        }
    }

    /// Whether something waited for leave to be sent and may try again.
    pub(super) fn take_starved(&mut self) -> bool {
        self.active.as_mut().is_some_and(|path| core::mem::take(&mut path.is_starved))
    }

    /// What a ping to an address carries so that its answer validates the address; nothing if that was
    /// done. The ping counts as the first challenge.
    pub(super) fn token_for(&mut self, now: Instant, to: SocketAddr, entropy: &mut Entropy) -> Option<Token> {
        let path = self.find_mut(to).filter(|path| !path.is_validated)?;
        path.challenge(now, entropy);
        let challenge = path.challenge.as_mut()?;
        challenge.due = challenge.due.max(now + CHALLENGE_TIMER);
        Some(challenge.token)
    }

    /// The next deadline.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due =
            |path: &Path| path.challenge.as_ref().filter(|last| !last.is_exhausted()).map(|last| last.due);
        let all = self.active.iter().chain(&self.candidates).chain(&self.former).filter_map(due);
        all.chain(self.candidates.iter().map(|path| path.until)).min()
    }

    /// The challenges that are due, and forgets what did not answer. `asked` is pinged anyway.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        asked: Option<SocketAddr>,
    ) -> Vec<(SocketAddr, Token)> {
        let is_over = |path: &Path| path.challenge.is_some_and(|last| last.is_exhausted() && last.due <= now);
        self.candidates.retain(|path| path.until > now && !is_over(path));
        self.former.take_if(|path| is_over(path));
        let mut due = Vec::new();
        for path in self.all_mut() {
            let Some(challenge) = path.challenge.as_mut().filter(|last| last.due <= now) else { continue };
            if challenge.is_exhausted() {
                if path.is_validated {
                    path.challenge = None;
                }
                continue;
            }
            challenge.due = now + CHALLENGE_TIMER * (1 << challenge.tries);
            if asked == Some(path.address) {
                continue;
            }
            challenge.tries += 1;
            path.until = path.until.max(challenge.due + CHALLENGE_TIMER);
            due.push((path.address, challenge.token));
        }
        due
    }

    /// The peer answered a challenge from this address.
    pub(super) fn on_answer(&mut self, now: Instant, from: SocketAddr, token: Token) -> Proof {
        if let Some(path) = self.active.as_mut().filter(|path| path.is_answered_by(from, token)) {
            path.challenge = None;
            let is_new = !core::mem::replace(&mut path.is_validated, true);
            if is_new {
                return Proof::Validated;
            }
            self.hold_candidates(now);
            return Proof::Nothing;
        }
        if self.former.as_ref().is_some_and(|path| path.is_answered_by(from, token)) {
            // Whoever answered first is on the way to the peer, and the peer has not moved.
            let former = self.former.take();
            let elsewhere = core::mem::replace(&mut self.active, former);
            self.hold(now, elsewhere.map(|path| path.address));
            return self.settle(now);
        }
        let Some(at) = self.candidates.iter().position(|path| path.is_answered_by(from, token)) else {
            return Proof::Nothing;
        };
        let moved = self.candidates.remove(at);
        self.former = self.active.replace(moved).filter(|path| path.is_validated && path.challenge.is_some());
        self.settle(now)
    }

    /// Frames go along another path from now on.
    fn settle(&mut self, now: Instant) -> Proof {
        if let Some(path) = &mut self.active {
            path.is_validated = true;
            path.challenge = None;
            path.mtu.fail(now);
        }
        Proof::Moved
    }

    /// The peer is where it was: other addresses are those of somebody who sends its frames on.
    fn hold_candidates(&mut self, now: Instant) {
        let is_asked = |path: &mut Path| path.is_heard || path.is_told;
        let asked: Vec<_> = self.candidates.extract_if(.., is_asked).collect();
        self.hold(now, asked.iter().filter(|path| path.is_heard).map(|path| path.address));
    }

    fn hold(&mut self, now: Instant, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            if self.held.len() >= MAX_CANDIDATES {
                self.held.pop_front();
            }
            self.held.push_back((address, now + HOLD));
        }
    }
}
