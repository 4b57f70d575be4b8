//! Rate limiting in constant memory: the generic cell rate algorithm (ITU-T I.371), which keeps one number
//! per source, and a fixed-size table of such limiters for any number of sources.

use core::{
    fmt,
    hash::{Hash, Hasher},
};
use std::hash::DefaultHasher;

use crate::time::{Duration, Instant};

/// A sustained rate with a bounded burst.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Nanoseconds between events at the sustained rate.
    interval: u64,
    /// Tolerance: how far ahead of that rate an event may be, nanoseconds.
    tolerance: u64,
}

impl Pace {
    /// `rate` events per second on average, `burst` at once.
    pub const fn per_second(rate: u32, burst: u32) -> Self {
        Self::every(Duration::from_nanos(1_000_000_000 / rate as u64), burst)
    }

    /// One event per `interval` on average, `burst` at once.
    pub const fn every(interval: Duration, burst: u32) -> Self {
        let interval = interval.as_nanos() as u64;
        Self { interval, tolerance: interval * (burst as u64 - 1) }
    }

    fn allows(self, now: Instant, due: u64) -> bool {
        due <= now.as_nanos().saturating_add(self.tolerance)
    }

    fn next_due(self, now: Instant, due: u64) -> u64 {
        due.max(now.as_nanos()).saturating_add(self.interval)
    }
}

/// A single limiter.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    /// Theoretical arrival time of the next event, nanoseconds.
    due: u64,
}

impl Pacer {
    /// An unused limiter.
    pub fn new(pace: Pace) -> Self {
        Self { pace, due: 0 }
    }

    /// Whether an event may happen.
    pub fn allows(&self, now: Instant) -> bool {
        self.pace.allows(now, self.due)
    }

    /// Counts an event.
    pub fn take(&mut self, now: Instant) {
        self.due = self.pace.next_due(now, self.due);
    }
}

/// A fixed number of limiters for any number of keys. Keys that hash to the same slot share its rate; without
/// the seed nobody can predict which do.
pub struct PacerTable {
    pace: Pace,
    due: Box<[u64]>,
    seed: u64,
}

impl PacerTable {
    /// `slots` limiters; `seed` must be secret.
    pub fn new(pace: Pace, slots: usize, seed: u64) -> Self {
        Self { pace, due: vec![0; slots.max(1)].into_boxed_slice(), seed }
    }

    /// Whether an event of `key` may happen.
    pub fn allows(&self, now: Instant, key: &impl Hash) -> bool {
        self.due.get(self.slot(key)).is_some_and(|due| self.pace.allows(now, *due))
    }

    /// Counts an event of `key`.
    pub fn take(&mut self, now: Instant, key: &impl Hash) {
        let slot = self.slot(key);
        if let Some(due) = self.due.get_mut(slot) {
            *due = self.pace.next_due(now, *due);
        }
    }

    fn slot(&self, key: &impl Hash) -> usize {
        slot(keyed_hash(self.seed, key), self.due.len())
    }
}

impl fmt::Debug for PacerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacerTable").field("pace", &self.pace).finish_non_exhaustive()
    }
}

/// A hash that cannot be predicted without the seed.
pub fn keyed_hash(seed: u64, key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    key.hash(&mut hasher);
    hasher.finish()
}

/// Maps a hash to one of `slots`.
pub fn slot(hash: u64, slots: usize) -> usize {
    usize::try_from(hash % slots.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut pacer = Pacer::new(Pace::per_second(10, 3));
        let mut passed = |ms| {
            let now = Instant::from_millis(ms);
            (0..100).filter(|_| pacer.allows(now).then(|| pacer.take(now)).is_some()).count()
        };
        assert_eq!([0, 99, 100, 10_000].map(&mut passed), [3, 0, 1, 3]);
    }

    #[test]
    fn a_table_limits_each_key_and_never_grows() {
        let mut table = PacerTable::new(Pace::every(Duration::from_secs(3), 2), 4096, 7);
        let now = Instant::from_millis(5);
        let mut passed = |key: u32, now| {
            (0..9).filter(|_| table.allows(now, &key).then(|| table.take(now, &key)).is_some()).count()
        };
        assert_eq!((passed(1, now), passed(1, now), passed(2, now)), (2, 0, 2));
        assert_eq!(passed(1, now + Duration::from_secs(3)), 1);
        for key in 0..1_000_000 {
            passed(key, now);
        }
        assert_eq!(table.due.len(), 4096);
        // Another seed gives other collisions.
        let place = |seed, key: &u32| slot(keyed_hash(seed, key), 4096);
        let is_same = |key: &u32| place(7, key) == place(8, key);
        assert!((0..1000).filter(is_same).count() < 10);
    }
}
