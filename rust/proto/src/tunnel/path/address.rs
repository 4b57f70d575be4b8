//! One UDP address of a peer: its validation and its anti-amplification credit (RFC 9000 section 8).

use core::{net::SocketAddr, time::Duration};

use super::{
    challenge::{Challenge, Token},
    watch::Rtt,
};
use crate::{crypto::entropy::Entropy, time::Instant, tunnel::path_mtu::PathMtu};

/// Anti-amplification limit: bytes sent per byte received, RFC 9000 section 8.1.
pub(super) const AMPLIFICATION: u64 = 3;
/// Headers of IPv4 and UDP, which count too, bytes.
pub(super) const IP_UDP_HEADERS: u64 = 20 + 8;
/// A candidate without a challenge expires after this.
pub(super) const CANDIDATE_LIFETIME: Duration = Duration::from_secs(10);

/// One address of a peer.
#[derive(Debug)]
pub(super) struct Path {
    /// The address.
    pub(super) address: SocketAddr,
    /// The peer answered a challenge from this address.
    pub(super) is_validated: bool,
    /// The registry names this address, so that we may send first.
    pub(super) is_from_registry: bool,
    /// A sealed frame of the peer arrived from this address.
    pub(super) has_received: bool,
    /// Only the check list names it: what is sent there is paid from the reserve.
    pub(super) is_told: bool,
    /// The peer may no longer be reachable there; it is not used until it answers again, and not before
    /// `hold_until`.
    pub(super) is_suspect: bool,
    pub(super) hold_until: Instant,
    /// When it was validated first.
    pub(super) validated_at: Option<Instant>,
    /// Measured by challenges.
    pub(super) rtt: Rtt,
    /// Bytes received from and sent to the address before validation.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Something was not sent for lack of credit.
    pub(super) is_credit_blocked: bool,
    pub(super) challenge: Option<Challenge>,
    /// When a candidate expires.
    pub(super) until: Instant,
    /// Path MTU discovery.
    pub(super) mtu: PathMtu,
}

impl Path {
    pub(super) fn new(now: Instant, address: SocketAddr) -> Self {
        Self {
            address,
            is_validated: false,
            is_from_registry: false,
            has_received: false,
            is_told: false,
            is_suspect: false,
            hold_until: now,
            validated_at: None,
            rtt: Rtt::default(),
            received: 0,
            sent: 0,
            is_credit_blocked: false,
            challenge: None,
            until: now + CANDIDATE_LIFETIME,
            mtu: PathMtu::new(address, false),
        }
    }

    pub(super) fn until(self, until: Instant) -> Self {
        Self { until, ..self }
    }

    /// Whether it may be used without limits.
    pub(super) fn is_usable(&self) -> bool {
        self.is_validated && !self.is_suspect
    }

    pub(super) fn on_received(&mut self, len: usize) {
        if !self.is_validated {
            self.received = self.received.saturating_add(len as u64 + IP_UDP_HEADERS);
        }
    }

    pub(super) fn has_credit(&self, len: usize) -> bool {
        let most = self.received.saturating_mul(AMPLIFICATION);
        self.is_validated || self.sent.saturating_add(len as u64 + IP_UDP_HEADERS) <= most
    }

    pub(super) fn on_sent(&mut self, len: usize) {
        if !self.is_validated {
            self.sent = self.sent.saturating_add(len as u64 + IP_UDP_HEADERS);
        }
    }

    /// Whether an answer from an address is that to its challenge; `None` for an answer whose source does not
    /// count.
    pub(super) fn is_answered_by(&self, from: Option<SocketAddr>, token: Token) -> bool {
        from.is_none_or(|from| self.address == from)
            && self.challenge.is_some_and(|challenge| challenge.token == token)
    }

    /// The peer answered the challenge.
    pub(super) fn on_answered(&mut self, now: Instant) {
        if let Some(rtt) = self.challenge.take().and_then(|challenge| challenge.rtt(now)) {
            self.rtt.on_sample(rtt);
        }
        self.is_validated = true;
        self.validated_at.get_or_insert(now);
    }

    /// Challenges it from where we are now, so that the peer learns that, unless a challenge is outstanding.
    pub(super) fn announce(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.challenge.as_ref().is_none_or(|last| last.is_over(now)) {
            self.challenge = Some(Challenge::announcing(now, entropy));
        }
    }

    /// Challenges it in a round of the check list, unless a challenge is outstanding.
    pub(super) fn check(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.challenge.as_ref().is_none_or(Challenge::is_exhausted) {
            self.challenge = Some(Challenge::of_round(now, entropy));
        }
    }

    /// Starts a challenge, unless one is outstanding or has failed recently.
    pub(super) fn challenge(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.challenge.as_ref().is_none_or(|last| last.is_over(now)) {
            self.challenge = Some(Challenge::new(now, entropy));
        }
    }
}
