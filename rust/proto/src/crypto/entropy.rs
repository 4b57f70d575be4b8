//! Deterministic random generator: all secrets and identifiers derive from one seed, so that the core needs
//! no source of randomness and the same seed gives the same bytes.

use core::fmt;

use aws_lc_rs::hmac;

/// HMAC-SHA256 of a counter, keyed with the seed.
pub struct Entropy {
    key: hmac::Key,
    counter: u64,
}

impl Entropy {
    /// A generator from a secret seed, which must never be used twice outside tests.
    pub fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0 }
    }

    /// The next 32 bytes.
    pub fn next_32(&mut self) -> [u8; 32] {
        self.counter += 1;
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// The next random number.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.next_32();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The next random number.
    pub fn next_u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next_32();
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}
