//! What a connection has done, for `connections` and `info`.

use super::Algorithm;

/// Counters since the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of user data sent, each counted once.
    pub bytes_sent: u64,
    /// Bytes of user data received in order.
    pub bytes_recv: u64,
    /// Data segments sent, with retransmissions.
    pub segs_sent: u64,
    /// Data segments received, with duplicates.
    pub segs_recv: u64,
    /// Segments retransmitted because the timer expired.
    pub retransmits: u64,
    /// Segments retransmitted because of acknowledgements.
    pub fast_retx: u64,
    /// Segments sent to probe for the loss of a tail.
    pub loss_probes: u64,
    /// Retransmissions whose first copy turned out to have arrived.
    pub spurious_retx: u64,
    /// Duplicate acknowledgements received.
    pub dup_acks: u64,
    /// SACK blocks sent.
    pub sack_sent: u64,
    /// SACK blocks received.
    pub sack_recv: u64,
    /// Segments dropped: outside the window, or acknowledging what was never sent.
    pub unacceptable: u64,
    /// Data segments dropped because they were held already.
    pub duplicates: u64,
    /// Segments dropped for lack of room or memory.
    pub reassembly_overflow: u64,
}

/// A view of one connection's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Counters since the start.
    pub counters: Counters,
    /// Congestion window, bytes.
    pub cwnd: usize,
    /// Slow-start threshold, bytes.
    pub ssthresh: usize,
    /// The congestion controller.
    pub congestion: Algorithm,
    /// Bytes per second at which segments may leave; 0 when that is not limited.
    pub pacing_rate: u64,
    /// Bytes per second that the path last delivered.
    pub delivery_rate: u64,
    /// Bytes sent and neither acknowledged, selectively acknowledged nor deemed lost.
    pub in_flight: usize,
    /// Smoothed round-trip time, nanoseconds; 0 before the first sample.
    pub srtt_ns: u64,
    /// Its variation, nanoseconds.
    pub rttvar_ns: u64,
    /// The shortest sample, nanoseconds.
    pub min_rtt_ns: u64,
    /// Segments sent and not acknowledged.
    pub unacked: usize,
    /// Segments held out of order.
    pub ooo_buf: usize,
    /// The peer's advertised window, bytes.
    pub snd_wnd: usize,
    /// Our advertised window, bytes.
    pub rcv_wnd: usize,
    /// Bytes of the largest segment that leaves.
    pub max_segment: usize,
    /// Whether a loss is being repaired.
    pub in_recovery: bool,
}
