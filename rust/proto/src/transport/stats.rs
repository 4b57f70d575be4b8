//! What a connection has done, for `connections` and `info`.

use super::Algorithm;

crate::counters! {
    /// Counters since the connection was made.
    pub struct Counters {
        /// Bytes of user data sent, each counted once.
        bytes_sent,
        /// Bytes of user data received in order.
        bytes_recv,
        /// Data segments sent, with retransmissions.
        segs_sent,
        /// Data segments received, with duplicates.
        segs_recv,
        /// Segments retransmitted because the timer expired.
        retransmits,
        /// Segments retransmitted because of acknowledgements.
        fast_retx,
        /// Segments sent to probe for the loss of a tail.
        loss_probes,
        /// Retransmissions whose first copy turned out to have arrived.
        spurious_retx,
        /// Duplicate acknowledgements received.
        dup_acks,
        /// SACK blocks sent.
        sack_sent,
        /// SACK blocks received.
        sack_recv,
        /// Segments dropped: outside the window, or acknowledging what was never sent.
        unacceptable,
        /// Data segments dropped because they were held already.
        duplicates,
        /// Segments dropped for lack of room or memory.
        reassembly_overflow,
    }
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
