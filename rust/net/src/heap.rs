//! Gives memory back to the system after a peak. The allocator keeps what was freed for the next peak,
//! which for a daemon may never come.

use std::time::Duration;

use pilot_proto::time::Instant;

/// What must have been given back since the peak to be worth the effort.
const WORTHWHILE: usize = 16 << 20;
/// A peak is over when it was not reached again for so long.
const CALM: Duration = Duration::from_secs(5);

/// Follows how much memory is in use.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    peak: usize,
    /// When the use was last so high that nothing was to be given back.
    high_at: Option<Instant>,
}

impl Heap {
    /// Takes the octets that are in use, and gives back what has not been needed for a while.
    pub(crate) fn follow(&mut self, now: Instant, in_use: usize) {
        if self.is_over(now, in_use) {
            give_back();
        }
    }

    fn is_over(&mut self, now: Instant, in_use: usize) -> bool {
        self.peak = self.peak.max(in_use);
        let high_at = *self.high_at.get_or_insert(now);
        if in_use > self.peak / 2 || self.peak - in_use < WORTHWHILE {
            self.high_at = Some(now);
            return false;
        }
        if now.saturating_since(high_at) < CALM {
            return false;
        }
        self.peak = in_use;
        self.high_at = Some(now);
        true
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: takes a number and touches free memory only.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_once_when_a_peak_is_over() {
        let mut heap = Heap::default();
        let mut at = |seconds: u64, mib: usize| heap.is_over(Instant::from_millis(seconds * 1000), mib << 20);
        assert!(!at(0, 1));
        assert!(!at(1, 100));
        assert!(!at(2, 60), "still in use");
        assert!(!at(3, 10));
        assert!(!at(6, 10));
        assert!(!at(6, 90), "another peak");
        assert!(!at(7, 10));
        assert!(!at(10, 10));
        assert!(at(12, 10));
        assert!(!at(60, 10), "once");
        assert!(!at(70, 0), "too little");
    }
}
