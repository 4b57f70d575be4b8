//! Keys that a peer does not use any more, which only a replay brings back.

use std::collections::VecDeque;

/// Keys that may be retired under one exchange key of ours. Then ours is replaced, so that whatever was
/// sealed under those keys never opens again, even if their names are forgotten.
const MAX_PER_KEY: usize = 16;
/// Keys remembered, so that most replays cost nothing.
const MAX_KEYS: usize = 2 * MAX_PER_KEY;

/// The keys, oldest first.
#[derive(Debug, Default)]
pub(super) struct Retired {
    keys: VecDeque<[u8; 32]>,
    /// How many were retired under our present key.
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
    fn memory_is_bounded_and_our_key_is_replaced_before_a_name_is_lost() {
        let mut retired = Retired::default();
        let key = |n: usize| [u8::try_from(n).unwrap(); 32];
        let mut since = 0;
        for n in 0..200 {
            retired.push(key(n));
            assert!(retired.keys.len() <= MAX_KEYS);
            // Whatever was retired under the present key has a name.
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
