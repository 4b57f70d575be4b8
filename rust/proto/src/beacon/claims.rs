//! Nodes whose address is not proven: those that know no cookies, until they have punched.
//!
//! Anybody can send an announcement in the name of any address. So a claim is sent no more bytes than came
//! from its address, beside the replies to its announcements, until its address is proven. Nodes of earlier
//! generations give a proof without knowing: told to punch at one of several ports of the beacon, they send
//! datagrams there, which somebody who only forges their address cannot know.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    crypto::entropy::Entropy,
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// Claims kept; beyond that the oldest goes.
pub(super) const MAX_CLAIMS: usize = 65_536;
/// A claim that is not repeated for this long is forgotten.
const CLAIM_TTL: Duration = Duration::from_secs(600);
/// Time for the answer to a challenge.
const CHALLENGE_TTL: Duration = Duration::from_secs(5);
/// Least time between two challenges of one claim, and after one whose answer was wrong.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(20);
const AFTER_WRONG: Duration = Duration::from_secs(60);
/// Time in which another address cannot take the place of a claim under challenge.
const HOLD: Duration = Duration::from_secs(1);
/// Most bytes that a claim may save up.
const MAX_CREDIT: u32 = 65_536;
/// What waits for the proof of one claim.
const MAX_WAITING: usize = 4;
/// Claims of one IP address among which a punch is looked for.
const MAX_COMPARED: usize = 64;

/// What is done when a claim is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waiting {
    /// Two nodes are told to punch at each other.
    Punch {
        /// The one that asked.
        requester: NodeId,
        /// The other.
        target: NodeId,
    },
    /// The node is told that something waits at the registry.
    Notify(u8),
}

#[derive(Clone, Copy, Debug)]
struct Challenge {
    /// Which of the beacon's ports it named.
    port: usize,
    at: Instant,
}

/// A node that may be at an address.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) endpoint: SocketAddr,
    /// The address of ours that it wrote to.
    pub(super) local: Option<IpAddr>,
    pub(super) key: Option<[u8; 32]>,
    pub(super) is_extended: bool,
    heard: Instant,
    number: u64,
    credit: u32,
    challenge: Option<Challenge>,
    challenge_after: Instant,
    waiting: Vec<Waiting>,
}

/// What a punch at one of our ports means.
#[derive(Debug)]
pub(super) enum Probe {
    /// It proves this node's claim.
    Proven(NodeId, Box<Claim>),
    /// It proves nothing.
    Nothing,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: BTreeMap<NodeId, Claim>,
    /// Oldest first.
    order: BTreeMap<u64, NodeId>,
    /// Those under challenge.
    challenged: BTreeSet<(IpAddr, NodeId)>,
    next: u64,
}

impl Claims {
    /// Takes an announcement that proves nothing.
    pub(super) fn announce(
        &mut self,
        now: Instant,
        node: NodeId,
        (endpoint, local): (SocketAddr, Option<IpAddr>),
        key: Option<[u8; 32]>,
        is_extended: bool,
    ) {
        if let Some(claim) = self.claims.get_mut(&node) {
            if claim.endpoint == endpoint {
                claim.heard = now;
                claim.key = key.or(claim.key);
                claim.is_extended |= is_extended;
                return;
            }
            if claim.challenge.is_some_and(|challenge| now < challenge.at + HOLD) {
                return;
            }
        }
        self.remove(node);
        if self.claims.len() >= MAX_CLAIMS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.remove(oldest);
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, node);
        let claim = Claim {
            endpoint,
            local,
            key,
            is_extended,
            heard: now,
            number,
            credit: 0,
            challenge: None,
            challenge_after: now,
            waiting: Vec::new(),
        };
        self.claims.insert(node, claim);
    }

    pub(super) fn find(&self, now: Instant, node: NodeId) -> Option<&Claim> {
        self.claims.get(&node).filter(|claim| now < claim.heard + CLAIM_TTL)
    }

    pub(super) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Notes that a datagram of this many payload bytes came from a claim's address.
    pub(super) fn on_received(&mut self, node: NodeId, from: SocketAddr, bytes: usize) {
        if let Some(claim) = self.claims.get_mut(&node).filter(|claim| claim.endpoint == from) {
            claim.credit = claim.credit.saturating_add(on_the_wire(from, bytes)).min(MAX_CREDIT);
        }
    }

    /// Whether a datagram of this many payload bytes may be sent to a claim; if so, it is charged.
    pub(super) fn spend(&mut self, node: NodeId, bytes: usize) -> bool {
        let Some(claim) = self.claims.get_mut(&node) else { return false };
        match claim.credit.checked_sub(on_the_wire(claim.endpoint, bytes)) {
            Some(left) => {
                claim.credit = left;
                true
            }
            None => false,
        }
    }

    /// Remembers what shall be done when the claim is proven.
    pub(super) fn wait(&mut self, node: NodeId, waiting: Waiting) {
        if let Some(claim) = self.claims.get_mut(&node)
            && claim.waiting.len() < MAX_WAITING
            && !claim.waiting.contains(&waiting)
        {
            claim.waiting.push(waiting);
        }
    }

    /// Whether a claim is to be challenged now; if so, where it is, and which of our `ports` it shall punch
    /// at.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        node: NodeId,
        ports: usize,
        entropy: &mut Entropy,
    ) -> Option<(SocketAddr, Option<IpAddr>, usize)> {
        let claim = self.claims.get_mut(&node).filter(|claim| now >= claim.challenge_after)?;
        let port = usize::try_from(entropy.next_u64().checked_rem(u64::try_from(ports).ok()?)?).ok()?;
        claim.challenge = Some(Challenge { port, at: now });
        claim.challenge_after = now + CHALLENGE_INTERVAL;
        self.challenged.insert((claim.endpoint.ip(), node));
        Some((claim.endpoint, claim.local, port))
    }

    /// Takes a punch from `from` at one of our ports. A NAT whose mapping depends on the port shows another
    /// port than the claim has; so its IP address and our secret port decide.
    pub(super) fn probe(&mut self, now: Instant, from: SocketAddr, port: usize) -> Probe {
        let ip = from.ip();
        let candidates: Vec<_> = self
            .challenged
            .range((ip, NodeId(0))..=(ip, NodeId(u32::MAX)))
            .take(MAX_COMPARED)
            .map(|(_, node)| *node)
            .collect();
        let mut wrong = None;
        let mut right = None;
        for node in candidates {
            let Some(claim) = self.claims.get(&node) else { continue };
            let Some(challenge) = claim.challenge.filter(|challenge| now < challenge.at + CHALLENGE_TTL)
            else {
                continue;
            };
            let is_exact = claim.endpoint == from;
            if challenge.port != port {
                wrong = wrong.or(is_exact.then_some(node));
            } else if is_exact || right.is_none() {
                right = Some(node);
            }
        }
        if let Some(node) = right {
            return self.remove(node).map_or(Probe::Nothing, |claim| Probe::Proven(node, Box::new(claim)));
        }
        // Whoever tries one port after the other gets no second attempt.
        if let Some(claim) = wrong.and_then(|node| self.claims.get_mut(&node)) {
            claim.challenge = None;
            claim.challenge_after = now + AFTER_WRONG;
        }
        Probe::Nothing
    }

    /// Forgets a claim.
    pub(super) fn remove(&mut self, node: NodeId) -> Option<Claim> {
        let claim = self.claims.remove(&node)?;
        self.order.remove(&claim.number);
        self.challenged.remove(&(claim.endpoint.ip(), node));
        Some(claim)
    }
}

impl Claim {
    /// What waited for the proof.
    pub(super) fn into_waiting(self) -> Vec<Waiting> {
        self.waiting
    }
}

/// Bytes of a datagram with its IP and UDP headers.
fn on_the_wire(address: SocketAddr, bytes: usize) -> u32 {
    let headers = if address.ip().to_canonical().is_ipv4() { 20 + 8 } else { 40 + 8 };
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1000);
    const NODE: NodeId = NodeId(7);
    const PORTS: usize = 16;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn claimed(port: u16) -> (Claims, Entropy) {
        let mut claims = Claims::default();
        claims.announce(START, NODE, (at(port), None), None, false);
        (claims, Entropy::new(&[1; 32]))
    }

    fn is_proven(claims: &mut Claims, now: Instant, from: SocketAddr, port: usize) -> bool {
        matches!(claims.probe(now, from, port), Probe::Proven(NODE, _))
    }

    #[test]
    fn a_punch_at_the_secret_port_proves_the_address() {
        let (mut claims, mut entropy) = claimed(1);
        assert!(!is_proven(&mut claims, START, at(1), 0), "not asked");
        let (endpoint, _, port) = claims.challenge(START, NODE, PORTS, &mut entropy).unwrap();
        assert_eq!(endpoint, at(1));
        // Seen through a NAT that maps each destination to another port.
        assert!(is_proven(&mut claims, START, at(9), port));
        assert_eq!((claims.len(), claims.order.len(), claims.challenged.len()), (0, 0, 0));
    }

    #[test]
    fn who_guesses_the_port_has_one_attempt_a_minute() {
        let mut proven = 0;
        let (mut claims, mut entropy) = claimed(1);
        for minute in 0..160 {
            let now = START + AFTER_WRONG * minute;
            claims.announce(now, NODE, (at(1), None), None, false);
            if claims.challenge(now, NODE, PORTS, &mut entropy).is_none() {
                panic!("a minute has passed");
            }
            assert!(claims.challenge(now, NODE, PORTS, &mut entropy).is_none());
            proven += (0..PORTS).filter(|port| is_proven(&mut claims, now, at(1), *port)).count();
        }
        // One in sixteen.
        assert!((2..=25).contains(&proven), "{proven}");
    }

    #[test]
    fn other_hosts_and_late_punches_prove_nothing() {
        let (mut claims, mut entropy) = claimed(1);
        let (_, _, port) = claims.challenge(START, NODE, PORTS, &mut entropy).unwrap();
        let other = SocketAddr::from(([192, 0, 2, 2], 1));
        assert!(!is_proven(&mut claims, START, other, port));
        assert!(!is_proven(&mut claims, START + CHALLENGE_TTL, at(1), port));
        assert!(claims.challenge(START, NODE, 0, &mut entropy).is_none(), "there are no ports");
    }

    #[test]
    fn a_claim_is_sent_what_came_from_its_address_and_no_more() {
        let (mut claims, _) = claimed(1);
        assert!(!claims.spend(NODE, 0));
        claims.on_received(NODE, at(2), 1000);
        assert!(!claims.spend(NODE, 0), "that came from elsewhere");
        claims.on_received(NODE, at(1), 100);
        assert!(claims.spend(NODE, 50) && !claims.spend(NODE, 23) && claims.spend(NODE, 22));
        for _ in 0..100 {
            claims.on_received(NODE, at(1), 60_000);
        }
        assert!(claims.spend(NODE, 65_508) && !claims.spend(NODE, 1));
    }

    #[test]
    fn claims_are_bounded_and_the_oldest_goes() {
        let mut claims = Claims::default();
        let most = u32::try_from(MAX_CLAIMS).unwrap();
        for node in 0..most + 9 {
            claims.announce(START, NodeId(node), (at(1), None), None, false);
        }
        assert_eq!((claims.len(), claims.order.len()), (MAX_CLAIMS, MAX_CLAIMS));
        assert!(claims.find(START, NodeId(8)).is_none() && claims.find(START, NodeId(9)).is_some());
        assert!(claims.find(START + CLAIM_TTL, NodeId(9)).is_none());
        for waiting in 0..9 {
            claims.wait(NodeId(9), Waiting::Notify(waiting));
        }
        assert_eq!(claims.remove(NodeId(9)).unwrap().into_waiting().len(), MAX_WAITING);
    }

    #[test]
    fn a_claim_under_challenge_is_not_displaced_at_once() {
        let (mut claims, mut entropy) = claimed(1);
        claims.challenge(START, NODE, PORTS, &mut entropy).unwrap();
        claims.announce(START, NODE, (at(2), None), None, false);
        assert_eq!(claims.find(START, NODE).unwrap().endpoint, at(1));
        claims.announce(START + HOLD, NODE, (at(2), None), None, false);
        assert_eq!(claims.find(START, NODE).unwrap().endpoint, at(2));
    }
}
