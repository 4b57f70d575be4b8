//! Challenges: pings whose port and sequence number an answer must repeat.

use core::time::Duration;

use crate::{
    crypto::entropy::Entropy,
    time::Instant,
    wire::{addr::Port, seq::SeqNumber},
};

/// Challenges per address, and the timeout of the first one, which doubles.
const MAX_CHALLENGES: u32 = 4;
/// Challenges per address in a round of the check list, which is repeated.
const MAX_CHECKS: u32 = 2;
pub(super) const CHALLENGE_TIMER: Duration = Duration::from_millis(250);
/// An address that failed validation may be challenged again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Lowest source port of challenges; other pings use lower ports.
const FIRST_CHALLENGE_PORT: u16 = 0x4000;
/// Lowest source port of challenges that only try a path; the sender of the others says that it has moved
/// there.
const FIRST_PROBE_PORT: u16 = 0x8000;

/// Challenge data that the answer echoes: 14 or 15 bits of a port and a 32-bit sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tunnel) struct Token {
    /// Source port of the ping.
    pub(in crate::tunnel) port: Port,
    /// Its sequence number.
    pub(in crate::tunnel) seq: SeqNumber,
}

impl Token {
    /// A challenge that only tries a path.
    pub(in crate::tunnel) fn new(entropy: &mut Entropy) -> Self {
        let [high, low, ..] = entropy.next_u32().to_be_bytes();
        Self {
            port: Port(FIRST_PROBE_PORT | u16::from_be_bytes([high, low])),
            seq: SeqNumber::new(entropy.next_u32()),
        }
    }

    /// The same for a challenge by which we say that we have moved.
    fn announcing(entropy: &mut Entropy) -> Self {
        let Self { port, seq } = Self::new(entropy);
        Self { port: Port(port.0 & !FIRST_PROBE_PORT | FIRST_CHALLENGE_PORT), seq }
    }

    /// Whether a ping from this port only tries a path.
    pub(in crate::tunnel) fn is_probe_port(port: Port) -> bool {
        port.0 >= FIRST_PROBE_PORT
    }

    /// Whether a ping from this port says that its sender has moved.
    pub(in crate::tunnel) fn is_announcing_port(port: Port) -> bool {
        Self::is_challenge_port(port) && !Self::is_probe_port(port)
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
    most: u32,
    pub(super) due: Instant,
    sent_at: Instant,
}

impl Challenge {
    pub(super) fn new(now: Instant, entropy: &mut Entropy) -> Self {
        Self { token: Token::new(entropy), tries: 0, most: MAX_CHALLENGES, due: now, sent_at: now }
    }

    /// A challenge by which we say that we have moved.
    pub(super) fn announcing(now: Instant, entropy: &mut Entropy) -> Self {
        Self { token: Token::announcing(entropy), ..Self::new(now, entropy) }
    }

    /// A challenge of one round of the check list.
    pub(super) fn of_round(now: Instant, entropy: &mut Entropy) -> Self {
        Self { most: MAX_CHECKS, ..Self::new(now, entropy) }
    }

    /// Whether every try was used.
    pub(super) fn is_exhausted(&self) -> bool {
        self.tries >= self.most
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
    pub(super) fn on_sent(&mut self, now: Instant) {
        self.tries += 1;
        self.sent_at = now;
    }

    /// The round-trip time that an answer shows, unless it may answer an earlier try (Karn's algorithm).
    pub(super) fn rtt(&self, now: Instant) -> Option<Duration> {
        (self.tries <= 1).then(|| now.saturating_since(self.sent_at))
    }
}
