//! The keys and counters that two exchange keys give.

use super::departures::Departures;
use crate::{
    crypto::{CryptoError, Suite, aead::TunnelKey, exchange::ExchangeKey, replay::PrefixWindows},
    time::Instant,
    wire::{
        addr::NodeId,
        tunnel::{Nonce, SEALED_HEADER_LEN, SealedHeader, TAG_LEN},
    },
};

/// Why a sealed frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// No key opens it.
    Unauthentic,
    /// Its counter was accepted before, or is too old.
    Replayed,
    /// It carries our own nonce: we sealed it, and somebody sent it back.
    Reflected,
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

/// More frames under G2 than a peer sends under both suites.
const SETTLED: u32 = 64;

/// One agreement with a peer. The replay windows live as long as the keys.
#[derive(Debug)]
pub struct Session {
    /// Our exchange key.
    pub own_key: [u8; 32],
    /// The peer's exchange key.
    pub peer_key: [u8; 32],
    g1: TunnelKey,
    g2: TunnelKey,
    suite: Option<Suite>,
    /// Frames that opened under G2.
    g2_opened: u32,
    prefix: u32,
    counter: u64,
    departures: Departures,
    windows: PrefixWindows,
}

impl Session {
    /// Derives the keys of both suites. `random` makes the nonce prefix.
    ///
    /// # Errors
    /// [`CryptoError::Key`] for a low-order key.
    pub fn new(own: &ExchangeKey, peer_key: [u8; 32], random: u32) -> Result<Self, CryptoError> {
        let keys = own.agree(&peer_key)?;
        let side = u32::from(own.public_key() > peer_key);
        Ok(Self {
            own_key: own.public_key(),
            peer_key,
            g1: TunnelKey::new(Suite::G1, keys.key(Suite::G1))?,
            g2: TunnelKey::new(Suite::G2, keys.key(Suite::G2))?,
            suite: None,
            g2_opened: 0,
            prefix: random & !1 | side,
            counter: 0,
            departures: Departures::default(),
            windows: PrefixWindows::default(),
        })
    }

    /// The suite that a frame of the peer opened under.
    pub fn suite(&self) -> Option<Suite> {
        self.suite
    }

    /// Whether the peer surely seals under the suite detected here, so that a frame that it does not
    /// open is no frame of the peer. What was sealed twice, before the peer knew, may have arrived in
    /// another order there than here.
    pub fn is_settled(&self) -> bool {
        self.suite == Some(Suite::G2) && self.g2_opened >= SETTLED
    }

    /// Whether the peer uses up prefixes so fast that a new key is needed.
    pub fn is_exhausted(&self) -> bool {
        self.windows.is_full()
    }

    fn key(&self, suite: Suite) -> &TunnelKey {
        match suite {
            Suite::G1 => &self.g1,
            Suite::G2 => &self.g2,
        }
    }

    /// Seals `frame`, whose packet lies between header and tag, under the detected suite.
    ///
    /// # Errors
    /// [`CryptoError::Key`] before the suite is known.
    pub fn seal(&mut self, now: Instant, sender: NodeId, frame: &mut [u8]) -> Result<(), CryptoError> {
        let suite = self.suite.ok_or(CryptoError::Key)?;
        self.counter += 1;
        self.departures.on_sent(now, self.counter);
        let nonce = Nonce { prefix: self.prefix, counter: self.counter };
        self.key(suite).seal(SealedHeader { sender, nonce }, frame)
    }

    /// Send time of the frame with this nonce, rounded down. Only whoever saw a frame knows the prefix.
    pub fn sent_at(&self, nonce: Nonce) -> Option<Instant> {
        let is_ours = nonce.prefix == self.prefix && nonce.counter <= self.counter;
        self.departures.sent_at(nonce.counter).filter(|_| is_ours)
    }

    /// Seals one packet under both suites with the same counter, the only way to make a peer of an
    /// unknown suite answer. The keys differ, so no nonce repeats.
    pub fn seal_both(&mut self, sender: NodeId, packet: &[u8]) -> Vec<Vec<u8>> {
        self.counter += 1;
        let nonce = Nonce { prefix: self.prefix, counter: self.counter };
        let suites = self.suite.map_or_else(|| vec![Suite::G2, Suite::G1], |suite| vec![suite]);
        let mut frames = Vec::with_capacity(suites.len());
        for suite in suites {
            let mut frame = vec![0; SEALED_HEADER_LEN + packet.len() + TAG_LEN];
            frame[SEALED_HEADER_LEN..SEALED_HEADER_LEN + packet.len()].copy_from_slice(packet);
            if self.key(suite).seal(SealedHeader { sender, nonce }, &mut frame).is_ok() {
                frames.push(frame);
            }
        }
        frames
    }

    /// Opens a frame in place, and tells whether none that left later came before. On failure the
    /// ciphertext is gone, so this is for the one session that can have sealed it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_in_place(&mut self, header: SealedHeader, frame: &mut [u8]) -> Result<bool, OpenError> {
        let suite = self.suite.ok_or(OpenError::Unauthentic)?;
        self.check(header.nonce)?;
        self.key(suite).open(header, frame).map_err(|_| OpenError::Unauthentic)?;
        Ok(self.windows.commit(header.nonce.prefix, header.nonce.counter))
    }

    /// Opens a frame into `packet`, trying the detected suite first. Success detects the suite, and
    /// one under G2 settles it: a peer that can seal so is spoken to so. Without a rule that is the
    /// same on both sides, two peers that each heard the other's first ping under another suite would
    /// never understand each other again. Tells whether none that left later came before.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to(
        &mut self,
        header: SealedHeader,
        frame: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<bool, OpenError> {
        self.check(header.nonce)?;
        let order =
            if self.suite == Some(Suite::G1) { [Suite::G1, Suite::G2] } else { [Suite::G2, Suite::G1] };
        for suite in order {
            if self.key(suite).open_to(header, frame, packet).is_ok() {
                if suite == Suite::G2 {
                    self.g2_opened = self.g2_opened.saturating_add(1);
                    self.suite = Some(suite);
                } else {
                    self.suite.get_or_insert(suite);
                }
                return Ok(self.windows.commit(header.nonce.prefix, header.nonce.counter));
            }
        }
        Err(OpenError::Unauthentic)
    }

    fn check(&self, nonce: Nonce) -> Result<(), OpenError> {
        // Both directions share the key, so what we sealed opens too: under G1, which binds no sender.
        if nonce.prefix == self.prefix {
            return Err(OpenError::Reflected);
        }
        if nonce.counter == 0 || !self.windows.check(nonce.prefix, nonce.counter) {
            return Err(OpenError::Replayed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_left_was_sent() {
        let keys = [1, 2].map(|n| ExchangeKey::from_secret(&[n; 32]).unwrap());
        let mut session = Session::new(&keys[0], keys[1].public_key(), 8).unwrap();
        session.suite = Some(Suite::G2);
        let times = [3, 3, 4].map(Instant::from_millis);
        for at in times {
            session.seal(at, NodeId(1), &mut [0; 50]).unwrap();
        }
        let prefix = session.prefix;
        let sent_at = |prefix, counter| session.sent_at(Nonce { prefix, counter });
        assert_eq!([1, 2, 3].map(|counter| sent_at(prefix, counter)), times.map(Some));
        for (prefix, counter) in [(prefix, 0), (prefix, 4), (prefix, u64::MAX), (prefix ^ 2, 2)] {
            assert_eq!(sent_at(prefix, counter), None, "{prefix} {counter}");
        }
    }

    #[test]
    fn sides_that_heard_the_first_ping_under_different_suites_agree_on_one() {
        let keys = [1, 2].map(|n| ExchangeKey::from_secret(&[n; 32]).unwrap());
        let session =
            |own: usize, peer: usize| Session::new(&keys[own], keys[peer].public_key(), own as u32).unwrap();
        let (mut a, mut b) = (session(0, 1), session(1, 0));
        let mut packet = Vec::new();
        let mut deliver = |from: &mut Session, to: &mut Session, at: usize| {
            let frame = from.seal_both(NodeId(1), b"ping").swap_remove(at);
            let header = match crate::wire::tunnel::Frame::parse(&frame) {
                Ok(crate::wire::tunnel::Frame::Sealed(header)) => header,
                other => panic!("{other:?}"),
            };
            to.open_to(header, &frame, &mut packet)
        };
        let (first_of_a, first_of_b) = (deliver(&mut a, &mut b, 0), deliver(&mut b, &mut a, 0));
        assert_eq!((first_of_a, first_of_b), (Ok(true), Ok(true)));
        let (mut a, mut b) = (session(0, 1), session(1, 0));
        let twins = a.seal_both(NodeId(1), b"ping").len();
        assert_eq!(twins, 2);
        // The copy under G1 overtakes the other in one direction.
        deliver(&mut b, &mut a, 1).unwrap();
        let (suite_of_a, suite_of_b) = (a.suite(), b.suite());
        assert_eq!((suite_of_a, suite_of_b), (Some(Suite::G1), None));
        a.suite = None;
        deliver(&mut a, &mut b, 0).unwrap();
        a.suite = Some(Suite::G1);
        assert_eq!(b.suite(), Some(Suite::G2));
        deliver(&mut a, &mut b, 0).unwrap();
        deliver(&mut b, &mut a, 0).unwrap();
        assert_eq!((a.suite(), b.suite()), (Some(Suite::G2), Some(Suite::G2)));
        for _ in 1..SETTLED {
            assert!(!a.is_settled());
            deliver(&mut b, &mut a, 0).unwrap();
        }
        assert!(a.is_settled());
    }
}
