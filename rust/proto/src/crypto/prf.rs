//! A keyed pseudo-random function: values that only this node can compute, so that it need not store them.

use core::fmt;

use aws_lc_rs::{constant_time, hmac};

/// HMAC-SHA256 under a secret.
pub struct Prf {
    key: hmac::Key,
}

impl Prf {
    /// The function keyed with this secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The value for a label and some bytes. Labels of fixed length separate the uses.
    pub fn value(&self, label: [u8; 4], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&label);
        for part in parts {
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        bytes
    }
}

impl fmt::Debug for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prf(..)")
    }
}

/// Constant-time comparison; its time depends on the lengths only.
pub fn is_equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
