//! A steady arrival of frames, whose end is noticed before anything times out.
//!
//! Who only receives has nothing unanswered: when its own address changes without notice, nobody can tell it. So a
//! pause much longer than those before is a reason to ask.

use core::time::Duration;

use crate::time::Instant;

/// A pause of this length ends a run.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long a run lasts before its end means anything.
const RUN: Duration = Duration::from_millis(250);
/// The longest pause counts for one to two of these.
const WINDOW: Duration = Duration::from_millis(250);
/// The least silence that is noticed.
const QUIET_MIN: Duration = Duration::from_millis(100);

/// The arrivals by one path.
#[derive(Debug, Default)]
pub(super) struct Steady {
    heard_at: Instant,
    /// Since when there was no long pause.
    since: Instant,
    window_at: Instant,
    /// The longest pauses in the current window and the one before.
    pauses: [Duration; 2],
    /// The end of this run was noticed.
    is_noticed: bool,
}

impl Steady {
    /// A frame arrived.
    pub(super) fn on_heard(&mut self, now: Instant) {
        let pause = now.saturating_since(self.heard_at);
        if pause > PAUSE_MAX || self.is_noticed {
            *self = Self { heard_at: now, since: now, window_at: now, ..Self::default() };
            return;
        }
        self.heard_at = now;
        if now.saturating_since(self.window_at) >= WINDOW {
            self.pauses = [Duration::ZERO, self.pauses[0]];
            self.window_at = now;
        }
        self.pauses[0] = self.pauses[0].max(pause);
    }

    /// When the silence means that something is wrong, if nothing arrives until then.
    pub(super) fn quiet_at(&self) -> Option<Instant> {
        let is_steady = self.heard_at.saturating_since(self.since) >= RUN && !self.is_noticed;
        let longest = self.pauses[0].max(self.pauses[1]);
        is_steady.then(|| self.heard_at + (2 * longest).max(QUIET_MIN))
    }

    /// The silence was noticed.
    pub(super) fn on_noticed(&mut self) {
        self.is_noticed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Hears a frame after each of these pauses.
    fn hear(steady: &mut Steady, begin: Instant, pauses: impl IntoIterator<Item = u32>) -> Instant {
        pauses.into_iter().fold(begin, |now, pause| {
            let now = now + pause * MS;
            steady.on_heard(now);
            now
        })
    }

    #[test]
    fn the_end_of_a_steady_arrival_is_noticed_once() {
        let begin = Instant::from_millis(1000);
        for (pause, count, quiet) in
            [(1, 300, Some(100)), (10, 30, Some(100)), (80, 10, Some(160)), (10, 20, None), (250, 9, None)]
        {
            let mut steady = Steady::default();
            let now = hear(&mut steady, begin, (0..=count).map(|_| pause));
            let expected = quiet.map(|quiet| now + quiet * MS);
            assert_eq!(steady.quiet_at(), expected, "{pause} ms");
            steady.on_noticed();
            assert_eq!(steady.quiet_at(), None);
        }
    }

    #[test]
    fn bursts_are_no_end() {
        let mut steady = Steady::default();
        let bursts = (0..10).flat_map(|_| [90, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
        let now = hear(&mut steady, Instant::from_millis(1000), bursts);
        assert_eq!(steady.quiet_at(), Some(now + 180 * MS));
    }
}
