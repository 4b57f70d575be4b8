//! The only place that reads the clock.

use std::time::Instant as SystemInstant;

use pilot_proto::time::Instant;

/// Monotonic time since the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock(SystemInstant);

impl Clock {
    /// A clock that starts now, a little after zero.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn new() -> Self {
        Self(SystemInstant::now())
    }

    /// The time.
    pub fn now(&self) -> Instant {
        let elapsed = u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(elapsed.saturating_add(1_000_000_000))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
