//! Bulk transfers of a pattern that depends on the offset only, so that data is verified without a copy.

use std::sync::LazyLock;

use crate::rng::Rng;
use pilot_proto::{
    node::ConnectionId,
    time::Instant,
    transport::{CloseReason, Stats},
};

/// Period of the pattern, bytes; a prime, so that a shift by a window or a power of two is detected.
const PERIOD: usize = 1_048_573;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng(0x5eed);
    (0..PERIOD).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
});

/// Up to `max` bytes of the pattern from `offset` on.
pub fn pattern(offset: u64, max: u64) -> &'static [u8] {
    let pattern: &'static [u8] = &PATTERN;
    let from = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(PERIOD - from);
    &pattern[from..from + len]
}

/// Names a host: its index, from 0.
pub type HostId = usize;

/// Identifies a transfer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowId(pub(crate) usize);

/// One transfer, from the host that dialled to the host that accepted.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Dialling and sending host.
    pub from: HostId,
    /// Accepting and receiving host.
    pub to: HostId,
    /// Bytes to send.
    pub total: u64,
    /// Bytes written so far.
    pub sent: u64,
    /// Bytes read and verified so far.
    pub received: u64,
    /// Start time.
    pub started: Instant,
    /// When the connection was established.
    pub connected: Option<Instant>,
    /// When the last byte was read.
    pub finished: Option<Instant>,
    /// Close reason of the sender's connection.
    pub closed: Option<CloseReason>,
    /// Whether the receiver is reading.
    pub is_reading: bool,
    /// Latest statistics of the sender.
    pub stats: Stats,
    /// An end crashed; its connection id may be reused.
    pub(crate) is_orphan: bool,
    pub(crate) sender: ConnectionId,
    pub(crate) receiver: Option<ConnectionId>,
    /// Whether the receiver echoes the data.
    pub(crate) is_echo: bool,
    pub(crate) echoed: u64,
    pub(crate) returned: u64,
}

impl Flow {
    /// Bytes per second from establishment to the end, or to `now`.
    pub fn goodput(&self, now: Instant) -> f64 {
        let Some(connected) = self.connected else { return 0.0 };
        let seconds = self.finished.unwrap_or(now).saturating_since(connected).as_secs_f64();
        if seconds > 0.0 { self.received as f64 / seconds } else { 0.0 }
    }

    /// Echoed bytes received.
    pub fn returned(&self) -> u64 {
        self.returned
    }
}
