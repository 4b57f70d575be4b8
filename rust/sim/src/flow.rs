//! Bulk transfers whose bytes are known by their place, so that nothing is kept to compare.

use std::sync::LazyLock;

use crate::rng::Rng;
use pilot_proto::{
    node::ConnectionId,
    time::Instant,
    transport::{CloseReason, Stats},
};

/// Bytes after which the pattern repeats; a prime, so that no shift by a window or a power of two
/// maps it onto itself.
const PERIOD: usize = 1_048_573;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng(0x5eed);
    (0..PERIOD).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
});

/// Up to `max` bytes that a transfer carries from `offset` on.
pub fn pattern(offset: u64, max: u64) -> &'static [u8] {
    let pattern: &'static [u8] = &PATTERN;
    let from = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(PERIOD - from);
    &pattern[from..from + len]
}

/// Names a host: its index, from 0.
pub type HostId = usize;

/// Names a transfer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowId(pub(crate) usize);

/// One transfer, from the host that dialled to the host that accepted.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who dialled and sends.
    pub from: HostId,
    /// Who accepted and receives.
    pub to: HostId,
    /// Bytes to be sent.
    pub total: u64,
    /// Bytes written so far.
    pub sent: u64,
    /// Bytes read so far, all of them right.
    pub received: u64,
    /// When it was started.
    pub started: Instant,
    /// When the connection was up.
    pub connected: Option<Instant>,
    /// When the last byte was read.
    pub finished: Option<Instant>,
    /// Why the sender's connection ended.
    pub closed: Option<CloseReason>,
    /// Whether the receiver reads.
    pub is_reading: bool,
    /// The sender's statistics when they were last looked at.
    pub stats: Stats,
    /// An end crashed; its connection's number means another one now.
    pub(crate) is_orphan: bool,
    pub(crate) sender: ConnectionId,
    pub(crate) receiver: Option<ConnectionId>,
    /// Whether the receiver sends everything back.
    pub(crate) is_echo: bool,
    pub(crate) echoed: u64,
    pub(crate) returned: u64,
}

impl Flow {
    /// Bytes per second between the connection's being up and its end, or `now`.
    pub fn goodput(&self, now: Instant) -> f64 {
        let Some(connected) = self.connected else { return 0.0 };
        let seconds = self.finished.unwrap_or(now).saturating_since(connected).as_secs_f64();
        if seconds > 0.0 { self.received as f64 / seconds } else { 0.0 }
    }

    /// Bytes that came back from an echo.
    pub fn returned(&self) -> u64 {
        self.returned
    }
}
