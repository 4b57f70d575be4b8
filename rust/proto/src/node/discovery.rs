//! Discovery of our own endpoint (the reflexive address of RFC 8489) by asking beacons
//! (`docs/reference/protocol/beacon.md#how-a-node-learns-its-endpoint`).
//!
//! A reply echoes nothing of its request, so anyone who can spoof a beacon's source address can forge one. A
//! reply counts only while a request to that beacon is open. The first address is accepted at once. A known
//! address is replaced only if several consecutive requests, sent at unpredictable times, were all answered
//! with the same new address and with no contradicting reply. If one beacon has never seen the address that
//! another one reports, a NAT maps each to another port, and only the reporter's replies count.

#[cfg(test)]
mod tests;

use core::{net::SocketAddr, time::Duration};

use super::{Event, Node, TimerOwner, trace::count_drop};
use crate::{
    crypto::entropy::Entropy,
    time::Instant,
    tunnel::{
        KEEPALIVE, Peer, is_usable,
        prediction::{NatBehaviour, Observation},
    },
    wire::beacon::{AddressCookie, Message},
};

/// How long a request is open for its reply, and for one that contradicts it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// First retry interval of an unanswered request, and the same where frames wait for the answer. It grows up to the
/// beacon interval: by half at first, and doubles later.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const URGENT_RETRY: Duration = Duration::from_millis(100);
/// Shortest interval between two occasions on which a silent peer makes us ask.
const SELDOM: Duration = Duration::from_secs(1);
/// Unanswered requests after which a beacon is no longer our home.
const MAX_UNANSWERED: u32 = 3;
/// Consecutive equal replies required to replace a known address.
const CONFIRMATIONS: u32 = 3;
/// Interval and jitter of confirming requests. Within it the true reply arrives if the first one was forged.
const CONFIRM_AFTER: Duration = Duration::from_millis(400);
const CONFIRM_JITTER_MS: u32 = 200;
/// Peers heard within this time are told of a change of our address.
const RECENT: Duration = Duration::from_secs(120);
/// Shortest interval between two changes of the known address.
const MOVE_INTERVAL: Duration = Duration::from_secs(5);

/// An open request to a beacon.
#[derive(Clone, Copy, Debug)]
struct Request {
    until: Instant,
    reply: Option<SocketAddr>,
    proof: Proof,
}

/// Whether a request was repeated with what proves our address, which has a reply of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proof {
    Nothing,
    Sent,
    Answered,
}

/// State of one beacon.
#[derive(Debug)]
struct Beacon {
    address: SocketAddr,
    request: Option<Request>,
    ask_at: Instant,
    retry: Duration,
    /// The address that it reported last, confirmed.
    seen: Option<SocketAddr>,
    /// An address other than the known one, with the number of consecutive replies that named it.
    proposal: Option<(SocketAddr, u32)>,
    /// Consecutive requests without a reply, and the number of the first one.
    unanswered: u32,
    asked: Option<u64>,
    /// It answered, and did not leave [`MAX_UNANSWERED`] requests unanswered since.
    is_alive: bool,
}

impl Beacon {
    fn new(now: Instant, address: SocketAddr) -> Self {
        Self {
            address,
            request: None,
            ask_at: now,
            retry: FIRST_RETRY,
            seen: None,
            proposal: None,
            unanswered: 0,
            asked: None,
            is_alive: false,
        }
    }
}

/// Outcome of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// No request is open, or it was answered already.
    Unsolicited,
    /// It changes nothing, or is not confirmed yet.
    Unchanged,
    /// The first address, or one to be reported again.
    Learned,
    /// The known address was replaced.
    Moved,
}

/// Our endpoint as reported by the beacons.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    beacons: Vec<Beacon>,
    known: Option<SocketAddr>,
    /// The beacon that reported it. A NAT may show others another one.
    reporter: Option<SocketAddr>,
    /// Whether the endpoint was reported since the beacons were set.
    is_reported: bool,
    moved_at: Option<Instant>,
    /// When a silent peer made us ask.
    asked_at: Option<Instant>,
    /// Requests so far.
    requests: u64,
}

impl Discovery {
    /// Sets the beacons. All are asked again, because we may have another id; a reply that is being confirmed stays
    /// so.
    fn set_beacons(&mut self, now: Instant, beacons: Vec<SocketAddr>) {
        let mut known = core::mem::take(&mut self.beacons);
        for address in beacons {
            let same = known.iter().position(|beacon| beacon.address == address);
            self.beacons.push(match same.map(|at| known.swap_remove(at)) {
                Some(beacon) if beacon.proposal.is_some() => Beacon { ask_at: now, ..beacon },
                before => Beacon {
                    is_alive: before.as_ref().is_some_and(|beacon| beacon.is_alive),
                    seen: before.and_then(|beacon| beacon.seen),
                    ..Beacon::new(now, address)
                },
            });
        }
        self.is_reported = false;
    }

    /// The known endpoint is no longer valid.
    fn forget_endpoint(&mut self) {
        self.known = None;
        self.is_reported = false;
        for beacon in &mut self.beacons {
            beacon.request = None;
            beacon.seen = None;
            beacon.proposal = None;
        }
    }

    /// Whether a beacon other than this one reported the known endpoint, and answers.
    fn has_other_reporter(&self, beacon: SocketAddr) -> bool {
        let is_reporter = |other: &Beacon| Some(other.address) == self.reporter && other.is_alive;
        self.reporter != Some(beacon) && self.beacons.iter().any(is_reporter)
    }

    /// Whether an address belongs to a beacon.
    pub(super) fn is_beacon(&self, address: SocketAddr) -> bool {
        self.beacons.iter().any(|beacon| beacon.address == address)
    }

    /// Whether there is a beacon at all.
    pub(super) fn has_beacons(&self) -> bool {
        !self.beacons.is_empty()
    }

    /// The home beacon: the first one in order of preference that answers.
    pub(super) fn home(&self) -> Option<SocketAddr> {
        self.beacons.iter().find(|beacon| beacon.is_alive).map(|beacon| beacon.address)
    }

    /// The endpoint that the beacons reported.
    pub(super) fn known(&self) -> Option<SocketAddr> {
        self.known
    }

    /// Asks every beacon now, unless a request is open.
    fn ask_again(&mut self, now: Instant) {
        for beacon in &mut self.beacons {
            let is_open =
                beacon.request.is_some_and(|request| now < request.until && request.reply.is_none());
            if !is_open {
                (beacon.ask_at, beacon.retry) = (now, URGENT_RETRY);
            }
        }
    }

    /// The same because a peer is silent, which may mean little.
    fn ask_again_seldom(&mut self, now: Instant) {
        let is_early = self.asked_at.is_some_and(|at| now < at + SELDOM);
        if !is_early {
            self.asked_at = Some(now);
            self.ask_again(now);
        }
    }

    /// The number of the request that a reply of this beacon answers, the first one that may have reached it.
    fn take_asked(&mut self, beacon: SocketAddr) -> u64 {
        let asked = self.beacons.iter_mut().find(|other| other.address == beacon);
        asked.and_then(|beacon| beacon.asked.take()).unwrap_or(self.requests)
    }

    /// Whether this beacon saw us last at another endpoint than the known one, which is not confirmed.
    fn is_seen_elsewhere(&self, beacon: SocketAddr) -> bool {
        self.beacons.iter().any(|other| other.address == beacon && other.proposal.is_some())
    }

    /// When the next request is due.
    fn poll_timeout(&self) -> Option<Instant> {
        self.beacons.iter().map(|beacon| beacon.ask_at).min()
    }

    /// Marks the due requests as sent and returns their beacons.
    fn handle_timeout(&mut self, now: Instant, interval: Duration) -> Vec<SocketAddr> {
        let mut asked = Vec::new();
        for beacon in self.beacons.iter_mut().filter(|beacon| beacon.ask_at <= now) {
            beacon.request =
                Some(Request { until: now + REQUEST_TIMEOUT, reply: None, proof: Proof::Nothing });
            beacon.is_alive &= beacon.unanswered < MAX_UNANSWERED;
            beacon.unanswered = beacon.unanswered.saturating_add(1);
            self.requests += 1;
            beacon.asked.get_or_insert(self.requests);
            beacon.ask_at = now + beacon.retry.min(interval);
            let is_urgent = beacon.retry < FIRST_RETRY;
            beacon.retry = (if is_urgent { beacon.retry * 3 / 2 } else { beacon.retry * 2 }).min(interval);
            asked.push(beacon.address);
        }
        asked
    }

    /// Whether the open request to a beacon may be repeated as a proof; once only. If that or its reply is lost, the
    /// beacon is asked again soon.
    fn start_proof(&mut self, now: Instant, address: SocketAddr) -> bool {
        let Some(beacon) = self.beacons.iter_mut().find(|beacon| beacon.address == address) else {
            return false;
        };
        let request = beacon.request.as_mut().filter(|request| request.proof == Proof::Nothing);
        let Some(request) = request else { return false };
        request.proof = Proof::Sent;
        beacon.ask_at = beacon.ask_at.min(now + REQUEST_TIMEOUT);
        true
    }

    fn on_reply(
        &mut self,
        now: Instant,
        interval: Duration,
        from: SocketAddr,
        endpoint: SocketAddr,
        entropy: &mut Entropy,
    ) -> Outcome {
        let known = self.known;
        let has_other_reporter = self.has_other_reporter(from);
        let jitter = Duration::from_millis(u64::from(entropy.next_u32() % CONFIRM_JITTER_MS));
        let Some(beacon) = self.beacons.iter_mut().find(|beacon| beacon.address == from) else {
            return Outcome::Unsolicited;
        };
        let Some(request) = beacon.request.as_mut().filter(|request| now < request.until) else {
            return Outcome::Unsolicited;
        };
        if let Some(reply) = request.reply {
            if reply != endpoint {
                // One of the two is forged.
                beacon.request = None;
                beacon.proposal = None;
                beacon.ask_at = beacon.ask_at.min(now + CONFIRM_AFTER + jitter);
            } else if request.proof == Proof::Sent {
                request.proof = Proof::Answered;
                beacon.ask_at = beacon.ask_at.max(now + interval);
                return Outcome::Unchanged;
            }
            return Outcome::Unsolicited;
        }
        request.reply = Some(endpoint);
        (beacon.unanswered, beacon.is_alive) = (0, true);
        beacon.ask_at = now + interval;
        beacon.retry = FIRST_RETRY;
        if known.is_none_or(|known| known == endpoint) {
            beacon.seen = Some(endpoint);
            self.reporter = if has_other_reporter { self.reporter } else { Some(from) };
            return self.keep(endpoint);
        }
        if has_other_reporter && beacon.seen == Some(endpoint) {
            // The NAT maps each beacon to another port, and nothing has changed.
            beacon.proposal = None;
            return Outcome::Unchanged;
        }
        let count = match beacon.proposal {
            Some((proposed, count)) if proposed == endpoint => count + 1,
            _ => 1,
        };
        beacon.proposal = Some((endpoint, count));
        let is_early = self.moved_at.is_some_and(|at| now < at + MOVE_INTERVAL);
        if count < CONFIRMATIONS || is_early {
            let wait = if count < CONFIRMATIONS { CONFIRM_AFTER } else { MOVE_INTERVAL };
            beacon.ask_at = now + (wait + jitter).min(interval);
            return Outcome::Unchanged;
        }
        beacon.proposal = None;
        let has_agreed = beacon.seen == known;
        beacon.seen = Some(endpoint);
        if has_other_reporter && !has_agreed {
            // Either a NAT maps each beacon to another port, or the known address is wrong.
            let is_reporter = |other: &&mut Beacon| Some(other.address) == self.reporter;
            for reporter in self.beacons.iter_mut().filter(is_reporter) {
                reporter.ask_at = reporter.ask_at.min(now + jitter);
            }
            return Outcome::Unchanged;
        }
        self.known = Some(endpoint);
        self.reporter = Some(from);
        self.moved_at = Some(now);
        self.is_reported = true;
        Outcome::Moved
    }

    /// A beacon reported the known endpoint, or the first one.
    fn keep(&mut self, endpoint: SocketAddr) -> Outcome {
        self.known = Some(endpoint);
        for beacon in &mut self.beacons {
            beacon.proposal = None;
        }
        if core::mem::replace(&mut self.is_reported, true) { Outcome::Unchanged } else { Outcome::Learned }
    }
}

impl Node {
    /// Sets our beacons and sends discovery requests to them, now and at intervals.
    pub fn set_beacons(&mut self, now: Instant, beacons: Vec<SocketAddr>) {
        self.recorder.now = now;
        self.discovery.set_beacons(now, beacons);
        let discovery = &self.discovery;
        self.punching.retain(|beacon| discovery.is_beacon(beacon));
        self.send_discovery(now);
    }

    /// Sends the discovery requests that are due.
    pub(super) fn send_discovery(&mut self, now: Instant) {
        let interval = self.beacon_interval();
        for beacon in self.discovery.handle_timeout(now, interval) {
            let bytes = self.discover();
            self.outbox.push_back((beacon.into(), bytes));
        }
        self.update_home(now);
        self.arm_discovery();
    }

    /// The interval of questions: less where bindings towards peers turned out to be short, because those towards
    /// beacons are.
    fn beacon_interval(&self) -> Duration {
        let shortest = self.peers.values().filter_map(Peer::keepalive).min();
        self.config
            .beacon_interval
            .min(shortest.filter(|shortest| *shortest < KEEPALIVE).unwrap_or(Duration::MAX))
    }

    fn discover(&self) -> Vec<u8> {
        let message = Message::Discover {
            node: self.address.node,
            identity_key: Some(self.identity.public_key()),
            is_extended: false,
        };
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        bytes
    }

    /// Returns a cookie to its beacon with a signature: we receive at our address, and the key is ours. Only
    /// then it relays for us, and nobody else takes our place there.
    fn prove_address(&mut self, now: Instant, beacon: SocketAddr, cookie: AddressCookie) {
        if !self.discovery.start_proof(now, beacon) {
            return;
        }
        let mut bytes = self.discover();
        cookie.emit(&mut bytes);
        let Ok(signature) = self.identity.sign(&cookie.signed_text(self.address.node)) else { return };
        bytes.extend(signature);
        self.outbox.push_back((beacon.into(), bytes));
        self.on_beacon_ready(now, beacon);
    }

    /// A beacon knows our address, or will before what is sent to it from now on arrives.
    fn on_beacon_ready(&mut self, now: Instant, beacon: SocketAddr) {
        if self.home != Some(beacon) {
            return;
        }
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.with_peer(id, |peer, local, out| peer.on_relay_ready(now, local, out));
        }
    }

    fn arm_discovery(&mut self) {
        let Some(at) = self.discovery.poll_timeout() else { return };
        if self.beacon_armed.is_none_or(|armed| at < armed) {
            self.beacon_armed = Some(at);
            self.arm(at, TimerOwner::Beacon(at));
        }
    }

    pub(super) fn on_beacon_timeout(&mut self, now: Instant, at: Instant) {
        if self.beacon_armed == Some(at) {
            self.beacon_armed = None;
            self.send_discovery(now);
        }
    }

    pub(super) fn on_beacon(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if !self.discovery.is_beacon(from) {
            count_drop!(self, dropped_beacon);
            return;
        }
        let endpoint = match Message::parse(bytes) {
            Ok(Message::DiscoverReply(endpoint)) if is_usable(endpoint) => endpoint,
            Ok(Message::PunchCommand(to)) => {
                self.on_punch_command(now, from, to);
                return;
            }
            Ok(_) => {
                count_drop!(self, dropped_beacon);
                return;
            }
            Err(_) => {
                count_drop!(self, dropped_malformed);
                return;
            }
        };
        let interval = self.beacon_interval();
        let outcome = self.discovery.on_reply(now, interval, from, endpoint, &mut self.entropy);
        if outcome != Outcome::Unsolicited {
            let asked = self.discovery.take_asked(from);
            self.nat.note(now, asked, Observation { local_port: 0, server: from, endpoint });
        }
        match outcome {
            Outcome::Unsolicited => count_drop!(self, dropped_beacon),
            Outcome::Unchanged if self.discovery.is_seen_elsewhere(from) => {
                self.on_seen_elsewhere(now, endpoint);
            }
            Outcome::Unchanged => {}
            Outcome::Learned => self.events.push_back(Event::EndpointDiscovered(endpoint)),
            Outcome::Moved => self.on_own_move(now, endpoint),
        }
        self.update_home(now);
        match AddressCookie::in_reply(bytes) {
            _ if outcome == Outcome::Unsolicited => {}
            Some(cookie) => self.prove_address(now, from, cookie),
            None => self.on_beacon_ready(now, from),
        }
        self.update_candidates(now);
        self.arm_discovery();
    }

    /// Our endpoint changed: reports it, and sends peers a frame from which they learn the new address.
    fn on_own_move(&mut self, now: Instant, endpoint: SocketAddr) {
        self.events.push_back(Event::EndpointDiscovered(endpoint));
        self.announce_address(now, Some(endpoint));
    }

    /// The address of this host changed. Earlier beacon replies are void, so the next one is accepted at
    /// once. Peers are sent a frame from the new address without waiting for it.
    pub fn on_own_address(&mut self, now: Instant) {
        self.recorder.now = now;
        self.discovery.forget_endpoint();
        self.nat.forget();
        // First, because a beacon relays only what comes from where the node announced itself.
        self.ask_beacons(now);
        self.announce_address(now, None);
        self.update_candidates(now);
    }

    /// What beacons report of the NAT in front of us.
    pub fn nat_behaviour(&self, now: Instant) -> NatBehaviour {
        self.nat.behaviour(now)
    }

    /// Whether [`Event::SocketsNeeded`] is understood.
    pub fn set_opens_sockets(&mut self, opens_sockets: bool) {
        self.nat.set_opens_sockets(opens_sockets);
    }

    /// A beacon saw us at another endpoint. That is no proof, but peers that are silent since are told through the
    /// relay, which takes nothing from anybody.
    fn on_seen_elsewhere(&mut self, now: Instant, endpoint: SocketAddr) {
        for peer in self.peers.values_mut() {
            peer.on_seen_elsewhere(now, endpoint);
        }
    }

    /// Asks every beacon because a peer is silent: we may have another address.
    pub(super) fn ask_beacons_seldom(&mut self, now: Instant) {
        self.discovery.ask_again_seldom(now);
        self.send_discovery(now);
    }

    /// Asks every beacon at once, because one may have died or forgotten us.
    pub(super) fn ask_beacons(&mut self, now: Instant) {
        self.discovery.ask_again(now);
        self.send_discovery(now);
    }

    /// Tells peers that our address is another one, unless they know of this `endpoint`.
    fn announce_address(&mut self, now: Instant, endpoint: Option<SocketAddr>) {
        let is_in_use = |peer: &Peer| peer.is_active() || !peer.is_silent(now, RECENT);
        let is_told = |peer: &mut Peer| endpoint.is_some_and(|endpoint| peer.knows_of_move(endpoint));
        let peers = self.peers.iter_mut().filter(|(_, peer)| is_in_use(peer));
        let ids: Vec<_> = peers.filter_map(|(id, peer)| (!is_told(peer)).then_some(*id)).collect();
        for id in ids {
            self.with_peer(id, |peer, local, out| peer.announce_address(now, local, out));
        }
    }
}
