//! Challenges: pings whose port and sequence number an answer must repeat.

use core::time::Duration;

use crate::{
    crypto::entropy::Entropy,
    time::Instant,
    wire::{addr::Port, seq::SeqNumber},
};

/// Challenges per address, and the timeout of the first one, which doubles.
const MAX_CHALLENGES: u32 = 4;
pub(super) const CHALLENGE_TIMER: Duration = Duration::from_millis(250);
/// An address that failed validation may be challenged again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Lowest source port of challenges; other pings use lower ports.
const FIRST_CHALLENGE_PORT: u16 = 0x8000;

/// Challenge data that the answer echoes: 15 bits of a port and a 32-bit sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tunnel) struct Token {
    /// Source port of the ping.
    pub(in crate::tunnel) port: Port,
    /// Its sequence number.
    pub(in crate::tunnel) seq: SeqNumber,
}

impl Token {
    fn new(entropy: &mut Entropy) -> Self {
        let [high, low, ..] = entropy.next_u32().to_be_bytes();
        Self {
            port: Port(FIRST_CHALLENGE_PORT | u16::from_be_bytes([high, low])),
            seq: SeqNumber::new(entropy.next_u32()),
        }
    }

    /// Whether a port belongs to a challenge.
    pub(in crate::tunnel) fn is_challenge_port(port: Port) -> bool {
        port.0 >= FIRST_CHALLENGE_PORT
    }
}

/// The outstanding challenge of an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Challenge {
    pub(super) token: Token,
    tries: u32,
    pub(super) due: Instant,
}

impl Challenge {
    pub(super) fn new(now: Instant, entropy: &mut Entropy) -> Self {
        Self { token: Token::new(entropy), tries: 0, due: now }
    }

    /// Whether every try was used.
    pub(super) fn is_exhausted(&self) -> bool {
        self.tries >= MAX_CHALLENGES
    }

    /// Whether the last try was not answered in time.
    pub(super) fn is_failed(&self, now: Instant) -> bool {
        self.is_exhausted() && self.due <= now
    }

    /// Whether it failed long enough ago to begin anew.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.is_exhausted() && now >= self.due + RETRY
    }

    /// Sets the time of the next try.
    pub(super) fn wait(&mut self, now: Instant) {
        self.due = now + CHALLENGE_TIMER * (1 << self.tries);
    }

    /// Counts a try.
    pub(super) fn on_sent(&mut self) {
        self.tries += 1;
    }
}
