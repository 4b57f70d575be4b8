//! Discover: a node asks where it is seen, and thereby says where it is.

use core::net::SocketAddr;

use super::{
    Arrival, Beacon,
    claims::{Probe, Waiting},
    cookies::{cookie_for, is_valid},
    nodes::{Announcement, Outcome, Proof},
};
use crate::{
    crypto::identity,
    time::Instant,
    wire::{
        addr::NodeId,
        beacon::{AddressCookie, Message},
        tunnel::PUNCH,
    },
};

impl Beacon {
    pub(super) fn on_discover(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        bytes: &[u8],
        (node, key, is_extended): (NodeId, Option<[u8; 32]>, bool),
    ) {
        let from = arrival.from;
        if !self.limits.discovers.take(now, self.source_of(from)) {
            self.counters.dropped_rate += 1;
            return;
        }
        let mut reply = Vec::new();
        Message::DiscoverReply(from).emit(&mut reply);
        // Whoever asks before it has an id asks with 0.
        if node.0 != 0 {
            let cookie = key.and_then(|_| AddressCookie::in_discover(bytes));
            let has_proof = cookie.is_some_and(|cookie| is_valid(&self.prf, now, from, cookie));
            let announcement = Announcement { node, endpoint: from, key, is_extended, proof: Proof::Nothing };
            let signature = AddressCookie::signature_in_discover(bytes);
            let proof = match (cookie.filter(|_| has_proof), signature) {
                (Some(cookie), Some(signature)) if self.is_signed(now, &announcement, cookie, &signature) => {
                    Proof::Identity
                }
                (Some(_), _) => Proof::Address,
                (None, _) if self.is_trusted(from.ip()) => Proof::Address,
                (None, _) => Proof::Nothing,
            };
            self.announce(now, arrival, Announcement { proof, ..announcement });
            // Only who names a key is one of those that know cookies.
            if key.is_some() && !has_proof && self.nodes.wants_proof(now, node, from) {
                cookie_for(&self.prf, now, from).emit(&mut reply);
            }
        }
        self.counters.discovered += 1;
        self.send_bytes(from, reply);
    }

    /// Whether an announcement is signed by its key. A signature takes 50 µs to check, so only as many are
    /// checked as the sender's host may ask for, and none that changes nothing.
    fn is_signed(
        &mut self,
        now: Instant,
        announcement: &Announcement,
        cookie: AddressCookie,
        signature: &[u8; 64],
    ) -> bool {
        let Some(key) = announcement.key else { return false };
        if self.nodes.is_signed(now, announcement) {
            return true;
        }
        if !self.limits.signatures.take(now, self.source_of(announcement.endpoint)) {
            self.counters.dropped_rate += 1;
            return false;
        }
        identity::verify(&key, &cookie.signed_text(announcement.node), signature).is_ok()
    }

    /// Takes what an announcement says, as far as it proves it.
    pub(super) fn announce(&mut self, now: Instant, arrival: &Arrival, announcement: Announcement) {
        let node = announcement.node;
        let outcome = if self.is_refuted(now, &announcement) {
            Outcome::KeyRefused
        } else {
            self.nodes.announce(now, &announcement)
        };
        self.confirm(now, &announcement, outcome == Outcome::KeyRefused);
        match outcome {
            Outcome::Refreshed => {}
            Outcome::Proven => {
                self.counters.proven += 1;
                self.counters.signed += u64::from(announcement.proof == Proof::Identity);
                self.arm_sweep(now);
                let waiting = self.claims.remove(node).map(|claim| claim.into_waiting());
                for waiting in waiting.into_iter().flatten() {
                    self.resume(now, node, waiting);
                }
            }
            Outcome::Unproven => {
                let place = (announcement.endpoint, arrival.local);
                self.claims.announce(now, node, place, announcement.key, announcement.is_extended);
            }
            Outcome::KeyRefused => self.counters.dropped_key += 1,
            Outcome::TooSoon => self.counters.dropped_move += 1,
            Outcome::Full => self.counters.dropped_full += 1,
        }
    }

    /// Takes a datagram at one of the ports for proofs.
    pub fn handle_probe(&mut self, now: Instant, port: usize, from: SocketAddr, bytes: &[u8]) {
        self.flow = None;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let proven =
            if bytes.starts_with(&PUNCH) { self.claims.probe(now, from, port) } else { Probe::Nothing };
        let Probe::Proven(node, claim) = proven else {
            self.counters.dropped_probe += 1;
            return;
        };
        let announcement = Announcement {
            node,
            endpoint: claim.endpoint,
            key: claim.key,
            is_extended: claim.is_extended,
            proof: Proof::Address,
        };
        let arrival = Arrival { from: claim.endpoint, local: claim.local, stride: 0 };
        self.announce(now, &arrival, announcement);
        for waiting in claim.into_waiting() {
            self.resume(now, node, waiting);
        }
    }

    /// Asks a claim to prove its address, unless it was asked a moment ago.
    pub(super) fn challenge(&mut self, now: Instant, node: NodeId) {
        let ports = self.config.probe_ports.len();
        let asked = self.claims.challenge(now, node, ports, &mut self.entropy);
        let Some((endpoint, local, port)) = asked else { return };
        let is_same_family = |ip: &core::net::IpAddr| ip.is_ipv4() == endpoint.ip().is_ipv4();
        let public = self.config.public_ips.iter().copied().find(is_same_family);
        let ours = public.or(local.map(|ip| ip.to_canonical()).filter(is_same_family));
        let (Some(ours), Some(port)) = (ours, self.config.probe_ports.get(port)) else { return };
        self.counters.challenges += 1;
        self.send_small(endpoint, &Message::PunchCommand(SocketAddr::new(ours, *port)));
    }

    fn resume(&mut self, now: Instant, node: NodeId, waiting: Waiting) {
        match waiting {
            Waiting::Punch { requester, target } => self.punch(now, requester, target),
            Waiting::Notify(kind) => self.notify(now, node, kind),
        }
    }

    /// Tells a node that something waits for it at the registry, if it is known here. A datagram may be lost;
    /// nodes ask from time to time anyway.
    pub fn notify(&mut self, now: Instant, node: NodeId, kind: u8) {
        self.flow = None;
        if self.command(now, node, &Message::Notify { kind }, Waiting::Notify(kind)) {
            self.counters.notified += 1;
        }
    }

    /// Sends a node a command, if its address is proven or has that much credit; else it is challenged, and
    /// `waiting` is done when it has proven its address.
    pub(super) fn command(
        &mut self,
        now: Instant,
        node: NodeId,
        message: &Message<'_>,
        waiting: Waiting,
    ) -> bool {
        if let Some(endpoint) = self.nodes.find(now, node).map(|node| node.endpoint) {
            self.send_small(endpoint, message);
            return true;
        }
        let Some(endpoint) = self.claims.find(now, node).map(|claim| claim.endpoint) else { return false };
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        if self.claims.spend(node, bytes.len()) {
            self.send_bytes(endpoint, bytes);
            return true;
        }
        self.claims.wait(node, waiting);
        self.challenge(now, node);
        self.counters.dropped_unproven += 1;
        false
    }
}
