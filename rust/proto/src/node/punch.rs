//! Hole punching through a beacon (`docs/reference/protocol/beacon.md#hole-punching`): requests for our own
//! dials, and commands of beacons.
//!
//! A command is not authenticated, so whoever can write a beacon's address as a source can make us send a few
//! empty datagrams somewhere: they are limited per beacon and in all, and are never three times as long as
//! the command.

use core::{net::SocketAddr, time::Duration};
use std::collections::{BTreeMap, VecDeque};

use super::{Node, TimerOwner, trace::count_drop};
use crate::{
    storage::token_bucket::TokenBucket,
    time::Instant,
    tunnel::Route,
    wire::{addr::NodeId, beacon::Message, tunnel::PUNCH},
};

/// When the datagrams of one command are sent after it.
const SPREAD: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(150)];
/// Rate (per second) and burst of commands that are carried out, of one beacon and of all.
const OF_BEACON: (u32, u32) = (16, 32);
const OF_ALL: (u32, u32) = (32, 64);
/// Rate (per second) and burst of requests; a beacon answers few of one source.
const REQUESTS: (u32, u32) = (4, 32);
/// How long a command may answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Open requests.
const MAX_REQUESTS: usize = 64;

/// A request that a command may answer.
#[derive(Clone, Copy, Debug)]
struct Request {
    beacon: SocketAddr,
    target: NodeId,
    until: Instant,
}

/// State of hole punching.
#[derive(Debug)]
pub(super) struct Punching {
    of_all: TokenBucket,
    of_beacon: BTreeMap<SocketAddr, TokenBucket>,
    requests_bucket: TokenBucket,
    requests: VecDeque<Request>,
    /// Datagrams to be sent, in order of time.
    due: VecDeque<(Instant, SocketAddr)>,
}

impl Punching {
    pub(super) fn new(now: Instant) -> Self {
        let bucket = |(rate, burst)| TokenBucket::new(rate, burst, now);
        Self {
            of_all: bucket(OF_ALL),
            of_beacon: BTreeMap::new(),
            requests_bucket: bucket(REQUESTS),
            requests: VecDeque::new(),
            due: VecDeque::new(),
        }
    }

    /// Forgets beacons that are no longer ours.
    pub(super) fn retain(&mut self, is_beacon: impl Fn(SocketAddr) -> bool) {
        self.of_beacon.retain(|beacon, _| is_beacon(*beacon));
    }

    fn take(&mut self, now: Instant, beacon: SocketAddr) -> bool {
        let (rate, burst) = OF_BEACON;
        let of_beacon = self.of_beacon.entry(beacon).or_insert_with(|| TokenBucket::new(rate, burst, now));
        of_beacon.take(now) && self.of_all.take(now)
    }

    /// The targets that a command of this beacon may be about: it does not say which.
    fn targets(&mut self, now: Instant, beacon: SocketAddr) -> Vec<NodeId> {
        self.requests.retain(|request| now < request.until);
        self.requests
            .iter()
            .filter(|request| request.beacon == beacon)
            .map(|request| request.target)
            .collect()
    }

    /// Queues the datagrams of a command.
    fn schedule(&mut self, now: Instant, to: SocketAddr) {
        self.due.extend(SPREAD.map(|after| (now + after, to)));
        self.due.make_contiguous().sort_by_key(|(at, _)| *at);
    }
}

impl Node {
    /// Asks our home beacon to make a peer and us punch towards each other.
    pub(super) fn request_punch(&mut self, now: Instant, target: NodeId) {
        let Some(beacon) = self.home else { return };
        let punching = &mut self.punching;
        punching.requests.retain(|request| now < request.until && request.target != target);
        if punching.requests.len() >= MAX_REQUESTS || !punching.requests_bucket.take(now) {
            return;
        }
        punching.requests.push_back(Request { beacon, target, until: now + REQUEST_TIMEOUT });
        let mut bytes = Vec::new();
        Message::PunchRequest { requester: self.address.node, target }.emit(&mut bytes);
        self.counters.punch_requests += 1;
        self.outbox.push_back((Route::Direct(beacon), bytes));
    }

    /// One of our beacons tells us to punch towards an endpoint, which is that of a peer if we asked for it.
    pub(super) fn on_punch_command(&mut self, now: Instant, beacon: SocketAddr, to: SocketAddr) {
        if !self.candidates.may_reach(to) || self.discovery.is_beacon(to) {
            count_drop!(self, dropped_beacon);
            return;
        }
        if !self.punching.take(now, beacon) {
            count_drop!(self, dropped_limited);
            return;
        }
        self.punching.schedule(now, to);
        self.send_punches(now);
        for target in self.punching.targets(now, beacon) {
            self.with_peer(target, |peer, local, out| peer.on_punched(now, to, local, out));
        }
    }

    /// Sends the punch datagrams that are due.
    pub(super) fn send_punches(&mut self, now: Instant) {
        while let Some((_, to)) = self.punching.due.front().copied().filter(|(at, _)| *at <= now) {
            self.punching.due.pop_front();
            self.counters.punches_sent += 1;
            self.outbox.push_back((Route::Direct(to), PUNCH.to_vec()));
        }
        if let Some((at, _)) = self.punching.due.front() {
            self.arm(*at, TimerOwner::Punch);
        }
    }
}
