//! Watch over the direct path in use: whether the peer is still there while something is unanswered.
//!
//! After one retransmission timeout (RTO) of silence the address is pinged, later again, and then the path has
//! failed, so early that what is sent through the relay instead arrives within three. The round-trip time is
//! measured by challenges (RFC 6298).

use core::time::Duration;

use crate::time::Instant;

/// Bounds of the timeout.
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_MAX: Duration = Duration::from_secs(3);
/// The timeout before the first measurement.
const RTO_INITIAL: Duration = Duration::from_millis(500);
/// Timeouts of silence after which the path has failed at the earliest and at the latest.
const FAILED_AFTER: (u32, u32) = (2, 3);
/// Silence that confirms a native peer's use of the relay, and how long before the path must have been in use:
/// what it sent through the relay before may arrive late.
const LULL: Duration = Duration::from_millis(100);
const SETTLED: Duration = Duration::from_secs(1);
/// What timers and applications add.
const GRAIN: Duration = Duration::from_millis(50);
/// Looks at the silence before the path has failed.
const PINGS: u32 = 2;
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
    /// When something was last sent that the peer answers.
    sent_at: Instant,
    /// When a frame of the peer last came by this path, and since when it is used.
    heard_at: Instant,
    since: Instant,
    /// The largest timeout of the peer's connections, which measure the path more often than challenges do.
    pub(super) of_connections: Option<Duration>,
}

impl Watch {
    /// When the silence is looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn rto(&self, rtt: &Rtt) -> Duration {
        self.of_connections.map_or_else(|| rtt.rto(), |rto| rto.clamp(RTO_MIN, RTO_MAX))
    }

    /// How long after the begin of the silence the `n`th look at it is.
    fn wait(&self, n: u32, rtt: &Rtt, relay_delay: Option<Duration>) -> Duration {
        let rto = self.rto(rtt);
        let (least, most) = FAILED_AFTER;
        let failed_after = (rto * most).saturating_sub(relay_delay.unwrap_or(rto) + GRAIN).max(rto * least);
        match n {
            0 => rto,
            1 => (rto + failed_after) / 2,
            _ => failed_after,
        }
    }

    /// Something was sent that the peer answers. Returns whether that set the timer.
    pub(super) fn on_sent(&mut self, now: Instant, rtt: &Rtt) -> bool {
        self.sent_at = now;
        if self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
        let is_new = self.due.is_none();
        if is_new {
            // The timeouts of connections are looked at when it is due.
            self.due = Some(now + self.rto(rtt).min(RTO_MIN));
        }
        is_new
    }

    /// A frame of the peer came by this path. What was sent just before cannot be answered yet, and perhaps nothing
    /// more is sent until it is.
    pub(super) fn on_heard(&mut self, now: Instant, rtt: &Rtt) {
        let is_answered = rtt.smoothed.is_none_or(|rtt| now >= self.sent_at + rtt * 3 / 4);
        self.unanswered_since = if is_answered { None } else { Some(now) };
        (self.pings, self.heard_at) = (0, now);
    }

    /// Whether the path has been silent for a moment, although the peer used it before.
    pub(super) fn is_lull(&self, now: Instant) -> bool {
        now.saturating_since(self.heard_at) >= LULL && self.heard_at.saturating_since(self.since) >= SETTLED
    }

    /// Whether the path has been silent for a timeout.
    pub(super) fn is_silent(&self, now: Instant, rtt: &Rtt) -> bool {
        now.saturating_since(self.heard_at) >= self.rto(rtt)
    }

    /// Another path is used, by which the peer has just been heard.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self { heard_at: now, since: now, ..Self::default() };
    }

    /// Forgets everything: another path is used.
    pub(super) fn reset(&mut self) {
        let Self { of_connections, heard_at, since, .. } = *self;
        *self = Self { of_connections, heard_at, since, ..Self::default() };
    }

    /// The timer expired. Through the relay frames take `relay_delay`.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        relay_delay: Option<Duration>,
    ) -> Option<Alarm> {
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
        let next = since + self.wait(self.pings, rtt, relay_delay);
        if now < next {
            self.due = Some(next);
            return None;
        }
        self.pings += 1;
        if self.pings > PINGS {
            self.reset();
            return Some(Alarm::Failed);
        }
        self.due = Some(since + self.wait(self.pings, rtt, relay_delay));
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
    fn alarms(
        watch: &mut Watch,
        begin: Instant,
        rtt: &Rtt,
        relay_delay: Option<Duration>,
    ) -> Vec<(u128, Alarm)> {
        let mut found = Vec::new();
        while let Some(at) = watch.poll_timeout() {
            found.extend(
                watch
                    .handle_timeout(at, rtt, relay_delay)
                    .map(|alarm| (at.saturating_since(begin).as_millis(), alarm)),
            );
        }
        found
    }

    #[test]
    fn silence_fails_the_path_so_that_the_relay_delivers_within_three_timeouts() {
        let begin = Instant::from_millis(1000);
        for (ms, rto, delay, failed) in
            [(10, 200, 0, 550), (10, 200, 80, 470), (10, 200, 500, 400), (300, 300, 100, 750)]
        {
            let (mut watch, rtt) = (Watch::default(), rtt(ms));
            assert!(watch.on_sent(begin, &rtt));
            assert!(!watch.on_sent(begin + MS, &rtt), "the timer is set already");
            let expected = [(rto, Alarm::Ping), ((rto + failed) / 2, Alarm::Ping), (failed, Alarm::Failed)];
            assert_eq!(alarms(&mut watch, begin, &rtt, Some(delay * MS)), expected);
        }
        // The connections measured a longer round-trip time since.
        let mut watch = Watch { of_connections: Some(700 * MS), ..Watch::default() };
        watch.on_sent(begin, &rtt(10));
        assert_eq!(
            alarms(&mut watch, begin, &rtt(10), Some(Duration::ZERO)).last(),
            Some(&(2050, Alarm::Failed))
        );
    }

    #[test]
    fn an_answer_starts_the_count_again() {
        let begin = Instant::from_millis(1000);
        let (mut watch, rtt) = (Watch::default(), rtt(10));
        watch.on_sent(begin, &rtt);
        watch.on_heard(begin + 10 * MS, &rtt);
        assert!(alarms(&mut watch, begin, &rtt, None).is_empty());
        watch.on_sent(begin, &rtt);
        assert_eq!(watch.handle_timeout(begin + 200 * MS, &rtt, None), Some(Alarm::Ping));
        watch.on_heard(begin + 250 * MS, &rtt);
        assert!(!watch.is_silent(begin + 449 * MS, &rtt) && watch.is_silent(begin + 450 * MS, &rtt));
        watch.on_sent(begin + 300 * MS, &rtt);
        assert_eq!(watch.handle_timeout(begin + 400 * MS, &rtt, None), None);
        assert_eq!(watch.poll_timeout(), Some(begin + 500 * MS));
    }

    #[test]
    fn a_suspension_of_this_process_is_no_silence_of_the_peer() {
        let begin = Instant::from_millis(1000);
        let (mut watch, rtt) = (Watch::default(), rtt(10));
        watch.on_sent(begin, &rtt);
        let later = begin + Duration::from_secs(60);
        assert_eq!(watch.handle_timeout(later, &rtt, None), Some(Alarm::Ping));
        assert_eq!(watch.poll_timeout(), Some(later + 200 * MS));
    }
}
