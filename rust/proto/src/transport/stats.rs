//! Statistics of a connection, for `connections` and `info`.

use super::Algorithm;

crate::counters! {
    /// Counters since the connection was created.
    pub struct Counters {
        /// Bytes of user data sent, each counted once.
        bytes_sent,
        /// Bytes of user data received in order.
        bytes_recv,
        /// Data segments sent, with retransmissions.
        segs_sent,
        /// Data segments received, with duplicates.
        segs_recv,
        /// Segments retransmitted after a timeout.
        retransmits,
        /// Segments retransmitted by loss detection (fast retransmit, RACK).
        fast_retx,
        /// Tail loss probes sent.
        loss_probes,
        /// Spurious retransmissions.
        spurious_retx,
        /// Duplicate acknowledgements received.
        dup_acks,
        /// SACK blocks sent.
        sack_sent,
        /// SACK blocks received.
        sack_recv,
        /// Segments dropped: outside the window, or acknowledging unsent data.
        unacceptable,
        /// Data segments dropped as duplicates.
        duplicates,
        /// Segments dropped for lack of room or memory.
        reassembly_overflow,
    }
}

/// A snapshot of one connection.
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
    /// Pacing rate, bytes per second; 0 if unlimited.
    pub pacing_rate: u64,
    /// Latest delivery rate sample, bytes per second.
    pub delivery_rate: u64,
    /// Bytes in flight: sent and neither (selectively) acknowledged nor marked lost.
    pub in_flight: usize,
    /// Smoothed round-trip time, nanoseconds; 0 before the first sample.
    pub srtt_ns: u64,
    /// Round-trip time variation, nanoseconds.
    pub rttvar_ns: u64,
    /// Minimum round-trip time, nanoseconds.
    pub min_rtt_ns: u64,
    /// Segments sent and not acknowledged.
    pub unacked: usize,
    /// Segments held out of order.
    pub ooo_buf: usize,
    /// The peer's advertised window, bytes.
    pub snd_wnd: usize,
    /// Our advertised window, bytes.
    pub rcv_wnd: usize,
    /// Largest segment sent, bytes.
    pub max_segment: usize,
    /// Whether the connection is in loss recovery.
    pub in_recovery: bool,
}
