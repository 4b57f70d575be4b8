//! Watch over the direct path in use: whether the peer is still there while something is unanswered.
//!
//! After one retransmission timeout (RTO) of silence the address is pinged, later again, and then the path has
//! failed, so early that what is sent through the relay instead arrives within three. The round-trip time is
//! measured by challenges (RFC 6298). When frames came steadily, the end of that is noticed sooner, and also where
//! nothing is unanswered.

use core::time::Duration;

use super::steady::Steady;
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
/// Bounds of the time in which a ping after the end of a steady arrival is answered.
const ANSWER: (Duration, Duration) = (Duration::from_millis(80), Duration::from_secs(1));
/// A timer processed this late shows that this process had no time: what arrived meanwhile is still to be read.
const LATE: Duration = Duration::from_millis(20);
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
    /// A ping by which we say where we are: frames have ceased to come.
    Quiet,
    /// Another path, until this one answers.
    Unanswered,
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
    steady: Steady,
    /// When the steady arrival is looked at, or the ping after its end.
    quiet_due: Option<Instant>,
    /// Since when an answer to that ping is waited for.
    asked_at: Option<Instant>,
    /// Since when the path is known to be silent.
    silent_since: Option<Instant>,
}

impl Watch {
    /// When the silence is looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.quiet_due).min()
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
        (self.asked_at, self.silent_since) = (None, None);
        self.steady.on_heard(now);
    }

    /// A frame of the peer came from another address: it is there, but perhaps no longer at this one.
    pub(super) fn on_heard_elsewhere(&mut self) {
        (self.steady, self.quiet_due, self.asked_at) = (Steady::default(), None, None);
    }

    /// Looks at the end of the steady arrival, if there is one. Returns whether that set the timer.
    pub(super) fn await_end(&mut self) -> bool {
        let is_new = self.quiet_due.is_none();
        if is_new {
            self.quiet_due = self.steady.quiet_at();
        }
        is_new && self.quiet_due.is_some()
    }

    /// Since when the path is known to be silent.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.silent_since
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
        let Self { of_connections, heard_at, since, silent_since, .. } = *self;
        *self = Self { of_connections, heard_at, since, silent_since, ..Self::default() };
    }

    /// The timer of the steady arrival expired.
    fn handle_quiet(&mut self, now: Instant, rtt: &Rtt) -> Option<Alarm> {
        let due = self.quiet_due.filter(|due| *due <= now)?;
        let is_late = now.saturating_since(due) >= LATE;
        if self.asked_at.is_some() {
            if is_late {
                self.quiet_due = Some(now + LATE);
                return None;
            }
            (self.quiet_due, self.asked_at) = (None, None);
            return Some(Alarm::Unanswered);
        }
        self.quiet_due = self.steady.quiet_at();
        if self.quiet_due.is_none_or(|at| now < at) {
            return None;
        }
        if is_late {
            self.quiet_due = Some(now + LATE);
            return None;
        }
        self.steady.on_noticed();
        let (least, most) = ANSWER;
        let answer = rtt.smoothed().map_or(most, |rtt| rtt * 5 / 4).clamp(least, most);
        (self.asked_at, self.quiet_due) = (Some(now), Some(now + answer));
        self.silent_since.get_or_insert(now);
        Some(Alarm::Quiet)
    }

    /// The timer expired. Through the relay frames take `relay_delay`.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        relay_delay: Option<Duration>,
    ) -> Option<Alarm> {
        let quiet = self.handle_quiet(now, rtt);
        if quiet.is_some() {
            return quiet;
        }
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
        self.silent_since.get_or_insert(now);
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
    fn the_end_of_a_steady_arrival_fails_the_path_unless_it_answers() {
        let begin = Instant::from_millis(1000);
        let (mut watch, rtt) = (Watch::default(), rtt(100));
        let hear = |watch: &mut Watch, from: Instant| {
            (0..=30).for_each(|n| watch.on_heard(from + n * 10 * MS, &rtt));
            assert!(watch.await_end() && !watch.await_end(), "the timer is set once");
            from + 300 * MS
        };
        let now = hear(&mut watch, begin);
        assert_eq!(alarms(&mut watch, now, &rtt, None), [(100, Alarm::Quiet), (225, Alarm::Unanswered)]);
        assert_eq!(watch.silent_since(), Some(now + 100 * MS));
        let now = hear(&mut watch, now + 1000 * MS);
        assert_eq!(watch.silent_since(), None);
        let asked = watch.poll_timeout().unwrap();
        assert_eq!(watch.handle_timeout(asked, &rtt, None), Some(Alarm::Quiet));
        watch.on_heard(asked + 100 * MS, &rtt);
        assert!(alarms(&mut watch, now, &rtt, None).is_empty(), "it answered");
        // What came while this process had no time is read first.
        let now = hear(&mut watch, now + 1000 * MS);
        assert_eq!(watch.handle_timeout(now + 150 * MS, &rtt, None), None);
        watch.on_heard(now + 151 * MS, &rtt);
        assert_eq!(watch.handle_timeout(now + 200 * MS, &rtt, None), None);
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
