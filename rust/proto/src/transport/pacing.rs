//! Spreads departures over time, in bursts that a kernel can segment.

use core::time::Duration;

use crate::time::Instant;

/// How much of a wake-up's delay is made good. On a busy machine a thread may run this late, and the
/// path had nothing to carry meanwhile.
const MAX_LATE: Duration = Duration::from_millis(10);

/// Allows `rate` bytes per second, a quantum of time's worth at once. When its user comes later than
/// it was told to, the time is made good; when it had nothing to send, it is not.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Bytes per second, 0 for no limit.
    rate: u64,
    /// When the bytes that left so far would all have left at `rate`.
    departure: Instant,
    /// What its user was last told to wait for.
    awaited: Option<Instant>,
    /// By how much its user came too late.
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

    /// When the next segment may leave, if not now.
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

    /// `size` bytes leave.
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

    /// Bytes that leave in a second when the caller wakes `late` after each deadline.
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
    fn a_sleep_of_any_length_is_excused_up_to_a_bound() {
        assert!(sent_in_a_second(1_000_000, Duration::from_millis(40)) < 400_000);
    }

    #[test]
    fn the_rate_is_kept_even_when_wake_ups_are_late() {
        for rate in [1_000_000, 50_000_000] {
            for late in [0, 400, 900, 5_000, 9_000] {
                let sent = sent_in_a_second(rate, Duration::from_micros(late));
                let error = sent.abs_diff(rate);
                assert!(error <= rate / 150 + 2000, "{sent} bytes at {rate}/s, {late} us late");
            }
        }
    }

    #[test]
    fn a_lifted_limit_holds_nothing_back() {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(1000));
        pacer.on_sent(Instant::ZERO, 1000, QUANTUM);
        assert!(pacer.blocked_until(Instant::ZERO, QUANTUM).is_some());
        pacer.set_rate(None);
        assert_eq!(pacer.blocked_until(Instant::ZERO, QUANTUM), None);
    }

    #[test]
    fn no_rate_is_no_limit_and_idle_time_is_no_credit() {
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
