//! A token bucket: a sustained rate with a bounded burst.

use crate::time::Instant;

const NANOS: u64 = 1_000_000_000;

/// Allows `rate` events per second on average and `burst` at once.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    /// Tokens, in billionths.
    level: u64,
    rate: u32,
    burst: u32,
    updated_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate_per_second: u32, burst: u32, now: Instant) -> Self {
        Self { level: u64::from(burst) * NANOS, rate: rate_per_second, burst, updated_at: now }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.level < NANOS {
            return false;
        }
        self.level -= NANOS;
        true
    }

    /// Whether the bucket is full again and can be dropped.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level == u64::from(self.burst) * NANOS
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = u64::try_from(now.saturating_since(self.updated_at).as_nanos()).unwrap_or(u64::MAX);
        self.updated_at = now;
        self.level = self
            .level
            .saturating_add(elapsed.saturating_mul(u64::from(self.rate)))
            .min(u64::from(self.burst) * NANOS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 3, Instant::ZERO);
        let taken =
            |bucket: &mut TokenBucket, ms| (0..100).filter(|_| bucket.take(Instant::from_millis(ms))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 99), 0);
        assert_eq!(taken(&mut bucket, 100), 1);
        assert_eq!(taken(&mut bucket, 10_000), 3);
        assert!(!bucket.is_full(Instant::from_millis(10_100)));
        assert!(bucket.is_full(Instant::from_millis(10_300)));
    }
}
