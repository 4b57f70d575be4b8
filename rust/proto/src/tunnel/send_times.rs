//! Send times of frames, by nonce counter.

use std::collections::VecDeque;

use crate::time::Instant;

/// Upper bound of entries, a few kilobytes per busy peer.
const MAX_ENTRIES: usize = 256;

/// First counter per send time; older entries are thinned.
#[derive(Debug, Default)]
pub(super) struct SendTimes {
    entries: VecDeque<(u64, Instant)>,
}

impl SendTimes {
    /// Records a sent frame. Counters and times must not decrease.
    pub(super) fn on_sent(&mut self, now: Instant, counter: u64) {
        if self.entries.back().is_some_and(|(_, at)| *at == now) {
            return;
        }
        if self.entries.len() == MAX_ENTRIES {
            // Drop every other entry of the older half: old times may be less exact.
            let mut at = 0;
            self.entries.retain(|_| {
                at += 1;
                at > MAX_ENTRIES / 2 || at % 2 == 1
            });
        }
        self.entries.push_back((counter, now));
    }

    /// When a frame was sent: exact for recent frames, a lower bound for older ones.
    pub(super) fn sent_at(&self, counter: u64) -> Option<Instant> {
        let after = self.entries.partition_point(|(first, _)| *first <= counter);
        self.entries.get(after.checked_sub(1)?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_times_are_exact_and_older_ones_lower_bounds() {
        let mut send_times = SendTimes::default();
        let sent_at = |counter: u64| Instant::from_millis(counter / 3);
        for counter in 1..=100_000 {
            send_times.on_sent(sent_at(counter), counter);
            assert!(send_times.entries.len() <= MAX_ENTRIES);
        }
        assert_eq!(send_times.sent_at(0), None);
        for counter in 99_650..=100_000 {
            assert_eq!(send_times.sent_at(counter), Some(sent_at(counter)), "{counter}");
        }
        for counter in 1..=100_000 {
            let at = send_times.sent_at(counter).unwrap();
            assert!(at <= sent_at(counter), "{counter}");
        }
    }
}
