//! A session: keys, nonce counter and replay windows derived from two exchange keys.

use super::send_times::SendTimes;
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
    /// It carries our own nonce prefix: our frame was reflected.
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

/// Frames under G2 after which the suite is settled; more than a peer ever sends under both suites.
const SETTLED: u32 = 64;

/// One key agreement with a peer. The replay windows live as long as the keys.
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
    send_times: SendTimes,
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
            send_times: SendTimes::default(),
            windows: PrefixWindows::default(),
        })
    }

    /// The detected suite: the one under which a frame of the peer opened.
    pub fn suite(&self) -> Option<Suite> {
        self.suite
    }

    /// Whether the peer certainly uses the detected suite, so that a frame that does not open under it is not
    /// from the peer. Before that, the first pings, which are sent under both suites, may have arrived in
    /// different orders on the two sides.
    pub fn is_settled(&self) -> bool {
        self.suite == Some(Suite::G2) && self.g2_opened >= SETTLED
    }

    /// Whether the peer used up the nonce prefixes, so that a new key is needed.
    pub fn is_exhausted(&self) -> bool {
        self.windows.is_full()
    }

    fn key(&self, suite: Suite) -> &TunnelKey {
        match suite {
            Suite::G1 => &self.g1,
            Suite::G2 => &self.g2,
        }
    }

    /// Seals `frame`, whose packet is between header and tag, under the detected suite.
    ///
    /// # Errors
    /// [`CryptoError::Key`] before the suite is known.
    pub fn seal(&mut self, now: Instant, sender: NodeId, frame: &mut [u8]) -> Result<(), CryptoError> {
        let suite = self.suite.ok_or(CryptoError::Key)?;
        self.counter += 1;
        self.send_times.on_sent(now, self.counter);
        let nonce = Nonce { prefix: self.prefix, counter: self.counter };
        self.key(suite).seal(SealedHeader { sender, nonce }, frame)
    }

    /// When a frame with this nonce was sent, as a lower bound. An off-path attacker does not know the
    /// prefix.
    pub fn sent_at(&self, nonce: Nonce) -> Option<Instant> {
        let is_ours = nonce.prefix == self.prefix && nonce.counter <= self.counter;
        self.send_times.sent_at(nonce.counter).filter(|_| is_ours)
    }

    /// Seals one packet under both suites with the same counter: the only way to reach a peer of unknown
    /// suite. The keys differ, so no nonce is reused.
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

    /// Opens a frame in place. Returns whether no frame sent later arrived before. A failure destroys the
    /// ciphertext, so only the single session that can have sealed the frame may be tried.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_in_place(&mut self, header: SealedHeader, frame: &mut [u8]) -> Result<bool, OpenError> {
        let suite = self.suite.ok_or(OpenError::Unauthentic)?;
        self.check(header.nonce)?;
        self.key(suite).open(header, frame).map_err(|_| OpenError::Unauthentic)?;
        Ok(self.windows.commit(header.nonce.prefix, header.nonce.counter))
    }

    /// Opens a frame into `packet`, trying the detected suite first. Success detects the suite, and G2 takes
    /// precedence over G1. Without a rule common to both sides, two peers that each received the other's
    /// first ping under a different suite would never agree. Returns whether no frame sent later arrived
    /// before.
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
        // Both directions use the same key, and G1 does not bind the sender: our own frames would open.
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
    fn send_times_are_known_for_sent_nonces_only() {
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
    fn both_sides_agree_on_a_suite_after_reordered_pings() {
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
        // In one direction the copy under G1 arrives first.
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
