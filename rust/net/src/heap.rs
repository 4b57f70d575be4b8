//! Returns freed memory to the system after a peak, which the allocator would keep.

use std::time::Duration;

use pilot_proto::time::Instant;

/// Bytes freed since the peak that are worth returning.
const WORTHWHILE: usize = 16 << 20;
/// Time without a new peak after which memory is returned.
const CALM: Duration = Duration::from_secs(1);

/// Follows how much memory is in use.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    peak: usize,
    /// When the use was last so high that nothing was to be given back.
    high_at: Option<Instant>,
    /// Something is to be given back when [`CALM`] is over.
    is_waiting: bool,
}

impl Heap {
    /// When [`Self::follow`] must be called though nothing else happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.is_waiting.then(|| self.high_at.map(|at| at + CALM)).flatten()
    }

    /// Is told the bytes that are in use, and gives back what has not been needed for a while.
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
            self.is_waiting = false;
            return false;
        }
        self.is_waiting = now.saturating_since(high_at) < CALM;
        if self.is_waiting {
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
        let mut at = |millis: u64, mib: usize| {
            let is_over = heap.is_over(Instant::from_millis(millis), mib << 20);
            (is_over, heap.poll_timeout().map(|at| at.as_nanos() / 1_000_000))
        };
        assert_eq!(at(0, 1), (false, None));
        assert_eq!(at(200, 100), (false, None));
        assert_eq!(at(400, 60), (false, None), "still in use");
        assert_eq!(at(600, 10), (false, Some(1400)));
        assert_eq!(at(1200, 10), (false, Some(1400)));
        assert_eq!(at(1200, 90), (false, None), "another peak");
        assert_eq!(at(1400, 10), (false, Some(2200)));
        assert_eq!(at(2200, 10), (true, None));
        assert_eq!(at(9000, 10), (false, None), "once");
        assert_eq!(at(9900, 0), (false, None), "too little");
    }
}
