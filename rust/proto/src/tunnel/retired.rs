//! Retired exchange keys of a peer, which only a replay can present again.

use std::collections::VecDeque;

/// Peer keys retired under one exchange key of ours before ours is replaced. Frames sealed under those keys
/// then never open again, even when the keys are no longer remembered.
const MAX_PER_KEY: usize = 16;
/// Upper bound of remembered keys, so that most replays need no signature check.
const MAX_KEYS: usize = 2 * MAX_PER_KEY;

/// Retired keys, oldest first.
#[derive(Debug, Default)]
pub(super) struct Retired {
    keys: VecDeque<[u8; 32]>,
    /// Number of keys retired under our current key.
    under_key: usize,
}

impl Retired {
    /// Whether a key was retired.
    pub(super) fn contains(&self, key: &[u8; 32]) -> bool {
        self.keys.contains(key)
    }

    /// Retires a key.
    pub(super) fn push(&mut self, key: [u8; 32]) {
        if self.keys.len() == MAX_KEYS {
            self.keys.pop_front();
        }
        self.keys.push_back(key);
        self.under_key += 1;
    }

    /// A key is in use again.
    pub(super) fn remove(&mut self, key: &[u8; 32]) {
        self.keys.retain(|retired| retired != key);
    }

    /// Whether our own key must be replaced.
    pub(super) fn is_full(&self) -> bool {
        self.under_key >= MAX_PER_KEY
    }

    /// Our own key was replaced.
    pub(super) fn on_own_key(&mut self) {
        self.under_key = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_key_is_replaced_before_a_retired_key_is_dropped() {
        let mut retired = Retired::default();
        let key = |n: usize| [u8::try_from(n).unwrap(); 32];
        let mut since = 0;
        for n in 0..200 {
            retired.push(key(n));
            assert!(retired.keys.len() <= MAX_KEYS);
            // Every key retired under the current key is remembered.
            assert!((since..=n).all(|under| retired.contains(&key(under))), "{n}");
            if retired.is_full() {
                retired.on_own_key();
                since = n + 1;
            }
        }
        assert!(since > 100);
        retired.remove(&key(199));
        assert!(!retired.contains(&key(199)) && retired.contains(&key(198)));
    }
}
