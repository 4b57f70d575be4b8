//! Watch over the direct path in use: whether the peer is still there while something is unanswered.
//!
//! After one retransmission timeout (RTO) of silence the address is pinged, after two again, and after three
//! the path has failed. The round-trip time is measured by challenges (RFC 6298).

use core::time::Duration;

use crate::time::Instant;

/// Bounds of the timeout.
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_MAX: Duration = Duration::from_secs(3);
/// The timeout before the first measurement.
const RTO_INITIAL: Duration = Duration::from_millis(500);
/// Timeouts of silence after which the path has failed.
const FAILED_AFTER: u32 = 3;
/// A timer processed this late shows that this process was suspended.
const SUSPENSION: Duration = Duration::from_secs(1);

/// Round-trip time of one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Rtt {
    pub(super) fn on_sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(rtt), rtt / 2),
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// The smoothed round-trip time.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    fn rto(&self) -> Duration {
        let rto = self.smoothed.map_or(RTO_INITIAL, |smoothed| smoothed + self.variation * 4);
        rto.clamp(RTO_MIN, RTO_MAX)
    }
}

/// What the watch asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alarm {
    /// A ping.
    Ping,
    /// Another path.
    Failed,
}

/// The watch over one path.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when something is unanswered.
    unanswered_since: Option<Instant>,
    due: Option<Instant>,
    pings: u32,
    /// When a frame of the peer last came by this path.
    heard_at: Instant,
    /// Lower bound of the timeout: the largest one of the peer's connections.
    pub(super) rto_floor: Duration,
}

impl Watch {
    /// When the silence is looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn rto(&self, rtt: &Rtt) -> Duration {
        rtt.rto().max(self.rto_floor.min(RTO_MAX))
    }

    /// Something was sent that the peer answers. Returns whether that set the timer.
    pub(super) fn on_sent(&mut self, now: Instant, rtt: &Rtt) -> bool {
        if self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
        let is_new = self.due.is_none();
        if is_new {
            self.due = Some(now + self.rto(rtt));
        }
        is_new
    }

    /// A frame of the peer came by this path.
    pub(super) fn on_heard(&mut self, now: Instant) {
        (self.unanswered_since, self.pings, self.heard_at) = (None, 0, now);
    }

    /// Whether the path has been silent for a timeout.
    pub(super) fn is_silent(&self, now: Instant, rtt: &Rtt) -> bool {
        now.saturating_since(self.heard_at) >= self.rto(rtt)
    }

    /// Forgets everything: another path is used.
    pub(super) fn reset(&mut self) {
        *self = Self { rto_floor: self.rto_floor, heard_at: self.heard_at, ..Self::default() };
    }

    /// The timer expired.
    pub(super) fn handle_timeout(&mut self, now: Instant, rtt: &Rtt) -> Option<Alarm> {
        let due = self.due.filter(|due| *due <= now)?;
        let Some(since) = self.unanswered_since else {
            self.due = None;
            return None;
        };
        let rto = self.rto(rtt);
        if now.saturating_since(due) >= SUSPENSION {
            // Nobody could be heard meanwhile.
            (self.unanswered_since, self.pings) = (Some(now), 0);
            self.due = Some(now + rto);
            return Some(Alarm::Ping);
        }
        let next = since + rto * (self.pings + 1);
        if now < next {
            self.due = Some(next);
            return None;
        }
        self.pings += 1;
        if self.pings >= FAILED_AFTER {
            self.reset();
            return Some(Alarm::Failed);
        }
        self.due = Some(since + rto * (self.pings + 1));
        Some(Alarm::Ping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rtt(ms: u32) -> Rtt {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.on_sample(ms * MS);
        }
        rtt
    }

    /// Alarms until nothing is due, with the time since the first frame was sent.
    fn alarms(watch: &mut Watch, begin: Instant, rtt: &Rtt) -> Vec<(u128, Alarm)> {
        let mut found = Vec::new();
        while let Some(at) = watch.poll_timeout() {
            found.extend(
                watch.handle_timeout(at, rtt).map(|alarm| (at.saturating_since(begin).as_millis(), alarm)),
            );
        }
        found
    }

    #[test]
    fn three_timeouts_of_silence_fail_the_path() {
        let begin = Instant::from_millis(1000);
        for (ms, rto) in [(10, 200), (300, 300)] {
            let (mut watch, rtt) = (Watch::default(), rtt(ms));
            assert!(watch.on_sent(begin, &rtt));
            assert!(!watch.on_sent(begin + MS, &rtt), "the timer is set already");
            let expected = [(rto, Alarm::Ping), (2 * rto, Alarm::Ping), (3 * rto, Alarm::Failed)];
            assert_eq!(alarms(&mut watch, begin, &rtt), expected);
        }
        // The connections measured a longer round-trip time since.
        let mut watch = Watch { rto_floor: 700 * MS, ..Watch::default() };
        watch.on_sent(begin, &rtt(10));
        assert_eq!(alarms(&mut watch, begin, &rtt(10)).last(), Some(&(2100, Alarm::Failed)));
    }

    #[test]
    fn an_answer_starts_the_count_again() {
        let begin = Instant::from_millis(1000);
        let (mut watch, rtt) = (Watch::default(), rtt(10));
        watch.on_sent(begin, &rtt);
        watch.on_heard(begin);
        assert!(alarms(&mut watch, begin, &rtt).is_empty());
        watch.on_sent(begin, &rtt);
        assert_eq!(watch.handle_timeout(begin + 200 * MS, &rtt), Some(Alarm::Ping));
        watch.on_heard(begin + 250 * MS);
        assert!(!watch.is_silent(begin + 449 * MS, &rtt) && watch.is_silent(begin + 450 * MS, &rtt));
        watch.on_sent(begin + 300 * MS, &rtt);
        assert_eq!(watch.handle_timeout(begin + 400 * MS, &rtt), None);
        assert_eq!(watch.poll_timeout(), Some(begin + 500 * MS));
    }

    #[test]
    fn a_suspension_of_this_process_is_no_silence_of_the_peer() {
        let begin = Instant::from_millis(1000);
        let (mut watch, rtt) = (Watch::default(), rtt(10));
        watch.on_sent(begin, &rtt);
        let later = begin + Duration::from_secs(60);
        assert_eq!(watch.handle_timeout(later, &rtt), Some(Alarm::Ping));
        assert_eq!(watch.poll_timeout(), Some(later + 200 * MS));
    }
}
