//! Send times of sealed frames by nonce counter, to date frames that ICMP quotes.

use std::collections::VecDeque;

use crate::time::Instant;

/// Entries kept: some kilobytes for a peer that is sent much.
const MAX_ENTRIES: usize = 256;

/// First counter per send time; older entries are thinned.
#[derive(Debug, Default)]
pub(super) struct Departures {
    entries: VecDeque<(u64, Instant)>,
}

impl Departures {
    /// Records a sent frame; counters and time only grow.
    pub(super) fn on_sent(&mut self, now: Instant, counter: u64) {
        if self.entries.back().is_some_and(|(_, at)| *at == now) {
            return;
        }
        if self.entries.len() == MAX_ENTRIES {
            // Old send times need less precision.
            let mut at = 0;
            self.entries.retain(|_| {
                at += 1;
                at > MAX_ENTRIES / 2 || at % 2 == 1
            });
        }
        self.entries.push_back((counter, now));
    }

    /// Send time of a frame, rounded down.
    pub(super) fn sent_at(&self, counter: u64) -> Option<Instant> {
        let after = self.entries.partition_point(|(first, _)| *first <= counter);
        self.entries.get(after.checked_sub(1)?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_send_times_are_exact_and_older_ones_rounded_down() {
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
