//! One UDP address of a peer: its validation and its anti-amplification credit (RFC 9000 section 8).

use core::{net::SocketAddr, time::Duration};

use super::challenge::{Challenge, Token};
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
    /// The peer may no longer be reachable there; it is not used until it answers again.
    pub(super) is_suspect: bool,
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
            is_suspect: false,
            received: 0,
            sent: 0,
            is_credit_blocked: false,
            challenge: None,
            until: now + CANDIDATE_LIFETIME,
            mtu: PathMtu::default(),
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

    pub(super) fn is_answered_by(&self, from: SocketAddr, token: Token) -> bool {
        self.address == from && self.challenge.is_some_and(|challenge| challenge.token == token)
    }

    /// Starts a challenge, unless one is outstanding or has failed recently.
    pub(super) fn challenge(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.challenge.as_ref().is_none_or(|last| last.is_over(now)) {
            self.challenge = Some(Challenge::new(now, entropy));
        }
    }
}
