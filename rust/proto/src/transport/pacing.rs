//! Pacing: spreads transmissions over time, in bursts suited to segmentation offload.

use core::time::Duration;

use crate::time::Instant;

/// Largest wake-up delay that is compensated; on a busy machine a thread may run this late.
const MAX_LATE: Duration = Duration::from_millis(10);

/// Allows `rate` bytes per second in bursts of one time quantum. Late wake-ups are compensated, idle time is
/// not.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Bytes per second, 0 for no limit.
    rate: u64,
    /// When all bytes sent so far would have been sent at `rate`.
    departure: Instant,
    /// The deadline last returned by [`Self::blocked_until`].
    awaited: Option<Instant>,
    /// Wake-up delay to be compensated.
    late: Duration,
}

impl Pacer {
    /// Sets the rate in bytes per second; `None` lifts the limit.
    pub(super) fn set_rate(&mut self, rate: Option<u64>) {
        self.rate = rate.unwrap_or(0);
    }

    /// Bytes per second, 0 for no limit.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// When the next segment may be sent, if not now.
    pub(super) fn blocked_until(&mut self, now: Instant, quantum: Duration) -> Option<Instant> {
        if self.rate > 0 && self.departure > now + quantum {
            // Waking only when a whole quantum has drained keeps bursts and sleeps long.
            self.awaited = Some(self.departure);
            return self.awaited;
        }
        if let Some(at) = self.awaited.take() {
            self.late = now.saturating_since(at).min(MAX_LATE);
        }
        None
    }

    /// Charges `size` bytes sent.
    pub(super) fn on_sent(&mut self, now: Instant, size: usize, quantum: Duration) {
        if self.rate == 0 {
            return;
        }
        let nanos = size as u64 * 1_000_000_000 / self.rate;
        let credit_from = now - quantum;
        self.departure = self.departure.max(credit_from - self.late) + Duration::from_nanos(nanos);
        if self.departure >= credit_from {
            self.late = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: Duration = Duration::from_millis(1);

    /// Bytes sent in a second when the caller wakes up `late` after each deadline.
    fn sent_in_a_second(rate: u64, late: Duration) -> u64 {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(rate));
        let mut now = Instant::from_millis(10_000);
        let end = now + Duration::from_secs(1);
        let mut sent = 0;
        while now < end {
            if let Some(at) = pacer.blocked_until(now, QUANTUM) {
                now = at + late;
                continue;
            }
            pacer.on_sent(now, 1000, QUANTUM);
            sent += 1000;
        }
        sent
    }

    #[test]
    fn compensation_of_late_wake_ups_is_bounded() {
        assert!(sent_in_a_second(1_000_000, Duration::from_millis(40)) < 400_000);
    }

    #[test]
    fn the_rate_is_kept_with_late_wake_ups() {
        for rate in [1_000_000, 50_000_000] {
            for late in [0, 400, 900, 5_000, 9_000] {
                let sent = sent_in_a_second(rate, Duration::from_micros(late));
                let error = sent.abs_diff(rate);
                assert!(error <= rate / 150 + 2000, "{sent} bytes at {rate}/s, {late} us late");
            }
        }
    }

    #[test]
    fn removing_the_rate_unblocks_at_once() {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(1000));
        pacer.on_sent(Instant::ZERO, 1000, QUANTUM);
        assert!(pacer.blocked_until(Instant::ZERO, QUANTUM).is_some());
        pacer.set_rate(None);
        assert_eq!(pacer.blocked_until(Instant::ZERO, QUANTUM), None);
    }

    #[test]
    fn idle_time_gives_no_credit() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.blocked_until(Instant::ZERO, QUANTUM), None);
        pacer.set_rate(Some(1_000_000));
        let now = Instant::from_millis(60_000);
        let mut burst = 0;
        while pacer.blocked_until(now, QUANTUM).is_none() {
            pacer.on_sent(now, 1000, QUANTUM);
            burst += 1000;
        }
        assert_eq!(burst, 3000);
    }
}
