//! When frames left, by their counters.

use std::collections::VecDeque;

use crate::time::Instant;

/// Entries kept: some kilobytes for a peer that is sent much.
const MAX_ENTRIES: usize = 256;

/// The first counter of every moment in which frames left; of moments long ago, of some.
#[derive(Debug, Default)]
pub(super) struct Departures {
    entries: VecDeque<(u64, Instant)>,
}

impl Departures {
    /// A frame leaves; counters and time only grow.
    pub(super) fn on_sent(&mut self, now: Instant, counter: u64) {
        if self.entries.back().is_some_and(|(_, at)| *at == now) {
            return;
        }
        if self.entries.len() == MAX_ENTRIES {
            // The longer ago, the less exactly it need be known.
            let mut at = 0;
            self.entries.retain(|_| {
                at += 1;
                at > MAX_ENTRIES / 2 || at % 2 == 1
            });
        }
        self.entries.push_back((counter, now));
    }

    /// When a frame left, or a moment shortly before.
    pub(super) fn sent_at(&self, counter: u64) -> Option<Instant> {
        let after = self.entries.partition_point(|(first, _)| *first <= counter);
        self.entries.get(after.checked_sub(1)?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_lately_is_known_to_the_moment_and_the_rest_from_below() {
        let mut departures = Departures::default();
        let sent_at = |counter: u64| Instant::from_millis(counter / 3);
        for counter in 1..=100_000 {
            departures.on_sent(sent_at(counter), counter);
            assert!(departures.entries.len() <= MAX_ENTRIES);
        }
        assert_eq!(departures.sent_at(0), None);
        for counter in 99_650..=100_000 {
            assert_eq!(departures.sent_at(counter), Some(sent_at(counter)), "{counter}");
        }
        for counter in 1..=100_000 {
            let at = departures.sent_at(counter).unwrap();
            assert!(at <= sent_at(counter), "{counter}");
        }
    }
}
