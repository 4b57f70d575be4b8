//! The keys and counters that two exchange keys give.

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
}

/// One agreement with a peer. The replay windows live as long as the keys.
#[derive(Debug)]
pub struct Session {
    /// The peer's exchange key.
    pub peer_key: [u8; 32],
    g1: TunnelKey,
    g2: TunnelKey,
    suite: Option<Suite>,
    prefix: u32,
    counter: u64,
    windows: PrefixWindows,
    /// When the keys were derived.
    pub installed_at: Instant,
}

impl Session {
    /// Derives the keys of both suites. `random` makes the nonce prefix.
    ///
    /// # Errors
    /// [`CryptoError::Key`] for a low-order key.
    pub fn new(
        now: Instant,
        own: &ExchangeKey,
        peer_key: [u8; 32],
        random: u32,
    ) -> Result<Self, CryptoError> {
        let keys = own.agree(&peer_key)?;
        let side = u32::from(own.public_key() > peer_key);
        Ok(Self {
            peer_key,
            g1: TunnelKey::new(Suite::G1, keys.key(Suite::G1))?,
            g2: TunnelKey::new(Suite::G2, keys.key(Suite::G2))?,
            suite: None,
            prefix: random & !1 | side,
            counter: 0,
            windows: PrefixWindows::default(),
            installed_at: now,
        })
    }

    /// The suite that a frame of the peer opened under.
    pub fn suite(&self) -> Option<Suite> {
        self.suite
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
    pub fn seal(&mut self, sender: NodeId, frame: &mut [u8]) -> Result<(), CryptoError> {
        let suite = self.suite.ok_or(CryptoError::Key)?;
        self.counter += 1;
        let nonce = Nonce { prefix: self.prefix, counter: self.counter };
        self.key(suite).seal(SealedHeader { sender, nonce }, frame)
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

    /// Opens a frame in place. On failure the ciphertext is gone, so this is for the one session
    /// that can have sealed it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_in_place(&mut self, header: SealedHeader, frame: &mut [u8]) -> Result<(), OpenError> {
        let suite = self.suite.ok_or(OpenError::Unauthentic)?;
        self.check(header.nonce)?;
        self.key(suite).open(header, frame).map_err(|_| OpenError::Unauthentic)?;
        self.windows.commit(header.nonce.prefix, header.nonce.counter);
        Ok(())
    }

    /// Opens a frame into `packet`, trying the detected suite first; success latches the suite.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to(
        &mut self,
        header: SealedHeader,
        frame: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        self.check(header.nonce)?;
        let order =
            if self.suite == Some(Suite::G1) { [Suite::G1, Suite::G2] } else { [Suite::G2, Suite::G1] };
        for suite in order {
            if self.key(suite).open_to(header, frame, packet).is_ok() {
                self.suite = Some(suite);
                self.windows.commit(header.nonce.prefix, header.nonce.counter);
                return Ok(());
            }
        }
        Err(OpenError::Unauthentic)
    }

    fn check(&self, nonce: Nonce) -> Result<(), OpenError> {
        if nonce.counter == 0 || !self.windows.check(nonce.prefix, nonce.counter) {
            return Err(OpenError::Replayed);
        }
        Ok(())
    }
}
