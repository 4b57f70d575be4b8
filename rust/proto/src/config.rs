//! Every tunable of the core, with its unit, its source and any deviation from that source.
//!
//! Parameters of streams are listed in `docs/reference/protocol/transport.md#parameters`. "Protocol" marks
//! values that the protocol fixes; where such a value departs from an RFC it takes precedence, and the
//! deviation is stated.

use core::{fmt, str::FromStr, time::Duration};
use std::sync::Arc;

use crate::trace::Detail;

/// Which congestion controller a connection uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Algorithm {
    /// AIMD (RFC 5681).
    Reno,
    /// RFC 9438.
    #[default]
    Cubic,
    /// draft-ietf-ccwg-bbr, version 3 of BBR.
    Bbr,
}

impl Algorithm {
    /// All algorithms, in the order of their numbers on the daemon's socket, which start at 1.
    pub const ALL: [Self; 3] = [Self::Reno, Self::Cubic, Self::Bbr];

    /// The algorithm with this number; `None` for 0 and unknown numbers.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The name used in options and statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reno => "reno",
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of a congestion controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown congestion controller; there are reno, cubic and bbr")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// Parameters of one connection.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Timeout of the first SYN, doubled for each retransmission. Protocol.
    pub syn_rto: Duration,
    /// Upper bound of the SYN timeout. Protocol.
    pub syn_rto_max: Duration,
    /// SYN retransmissions before the attempt fails. Sooner retransmissions do not shorten the attempt.
    /// Protocol.
    pub syn_retries: u32,
    /// Timeout of the first SYN to a legacy peer that was heard recently, which therefore dropped that SYN.
    /// Deviates from the protocol; [`Self::syn_rto`] is the upper bound.
    pub legacy_syn_rto: Duration,
    /// RTO before the first round-trip sample. RFC 6298 (2.1).
    pub rto_initial: Duration,
    /// Lower bound of the RTO. Protocol; deviates from RFC 6298 (2.4), which asks for one second.
    pub rto_min: Duration,
    /// Upper bound of the RTO. Protocol; deviates from RFC 6298 (2.5), which asks for 60 seconds.
    pub rto_max: Duration,
    /// Clock granularity G of RFC 6298. Protocol.
    pub clock_granularity: Duration,
    /// Consecutive timeouts after which a connection with a legacy peer is aborted. Protocol.
    pub max_retransmissions: u32,
    /// Time without progress after which a connection with a native peer is aborted: R2 of RFC 1122 section
    /// 4.2.3.5, which requires at least 100 seconds. Deviates from the protocol, whose eight attempts may
    /// take only four seconds.
    pub give_up_after: Duration,
    /// FIN retransmissions to legacy peers, which may no longer know the connection.
    pub legacy_fin_retries: u32,
    /// Interval before the first window probe; doubles for each. RFC 9293 section 3.8.6.1.
    pub persist_min: Duration,
    /// Upper bound of the window probe interval.
    pub persist_max: Duration,
    /// Longest time that Nagle's algorithm holds a small write. Protocol (RFC 9293 section 3.7.4 sets no
    /// bound).
    pub nagle_delay: Duration,
    /// Upper bound of the delayed acknowledgement. Protocol.
    pub ack_delay_max: Duration,
    /// Delay of an acknowledgement that is not due at once.
    pub ack_delay: Duration,
    /// Segments after the handshake that are acknowledged at once, so that the peer's window opens.
    pub quick_acks: u32,
    /// Full segments after which an acknowledgement is due. Protocol, RFC 9293 section 3.8.6.3.
    pub ack_every: u32,
    /// Idle time before the first keepalive. Protocol.
    pub keepalive: Duration,
    /// Interval between unanswered keepalives to native peers.
    pub keepalive_repeat: Duration,
    /// A connection on which nothing arrives for this long is closed. Protocol. For native peers it counts
    /// from the first unanswered keepalive, so that an outage shorter than [`Self::give_up_after`] closes no
    /// idle stream.
    pub idle_timeout: Duration,
    /// A connection closed by its application is reset after this time without progress.
    pub orphan_timeout: Duration,
    /// Duration of TIME-WAIT. Protocol; deviates from RFC 9293 section 3.6.1 (2 MSL).
    pub time_wait: Duration,
    /// Initial congestion window, bytes: 10 segments of 4,096. Protocol, RFC 6928.
    pub initial_window: usize,
    /// The default congestion controller.
    pub congestion: Algorithm,
    /// Initial slow-start threshold for legacy peers, bytes; unlimited for native ones (RFC 5681 section
    /// 3.1).
    pub legacy_ssthresh: usize,
    /// Upper bound of the congestion window for legacy peers, bytes. Protocol.
    pub legacy_max_cwnd: usize,
    /// Upper bound of the congestion window, bytes. Deviates from the protocol's megabyte, which is less than
    /// the bandwidth-delay product of long paths.
    pub max_cwnd: usize,
    /// Length of a burst, as time at the pacing rate; about the resolution of kernel timers.
    pub pacing_quantum: Duration,
    /// Segments of appropriate byte counting in slow start, L of RFC 3465, towards legacy peers. Our own
    /// peers acknowledge whole batches at once, so every byte counts there.
    pub abc_limit: usize,
    /// Duplicate acknowledgements that trigger fast retransmit. RFC 5681 section 3.2.
    pub dup_ack_threshold: u32,
    /// Upper bound of unacknowledged segments for legacy peers, which hold no more out of order.
    pub legacy_outstanding: usize,
    /// Upper bound of unacknowledged segments for native peers.
    pub native_outstanding: usize,
    /// Upper bound of received segments held out of order.
    pub out_of_order_segments: usize,
    /// Initial size of the send buffer (data written and not acknowledged), bytes.
    pub send_buffer: usize,
    /// Largest size of the send buffer, bytes; reached when the congestion window is large.
    pub max_send_buffer: usize,
    /// Upper bound of data written and not sent, bytes; keeps the backlog in cache.
    pub send_backlog: usize,
    /// Initial size of the receive buffer, bytes; the advertised window is its free part.
    pub recv_buffer: usize,
    /// Largest size of the receive buffer, bytes; reached when the reader keeps up on a long path.
    pub max_recv_buffer: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            syn_rto: Duration::from_secs(1),
            syn_rto_max: Duration::from_secs(8),
            syn_retries: 5,
            legacy_syn_rto: Duration::from_millis(100),
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(10),
            clock_granularity: Duration::from_millis(10),
            max_retransmissions: 8,
            give_up_after: Duration::from_secs(120),
            legacy_fin_retries: 5,
            persist_min: Duration::from_millis(500),
            persist_max: Duration::from_secs(30),
            nagle_delay: Duration::from_millis(40),
            ack_delay_max: Duration::from_millis(40),
            ack_delay: Duration::from_millis(5),
            quick_acks: 32,
            ack_every: 2,
            keepalive: Duration::from_secs(30),
            keepalive_repeat: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(120),
            orphan_timeout: Duration::from_secs(120),
            time_wait: Duration::from_secs(10),
            initial_window: 10 * MAX_SEGMENT,
            congestion: Algorithm::Cubic,
            legacy_ssthresh: 512 * 1024,
            legacy_max_cwnd: 1024 * 1024,
            max_cwnd: 64 * 1024 * 1024,
            pacing_quantum: Duration::from_millis(1),
            abc_limit: 2,
            dup_ack_threshold: 3,
            legacy_outstanding: 128,
            native_outstanding: 32_768,
            out_of_order_segments: 32_768,
            send_buffer: 2 * 1024 * 1024,
            max_send_buffer: 64 * 1024 * 1024,
            send_backlog: 256 * 1024,
            recv_buffer: RECV_SLOTS * MAX_SEGMENT,
            max_recv_buffer: 32 * 1024 * 1024,
        }
    }
}

/// Largest segment sent, bytes. Protocol.
pub const MAX_SEGMENT: usize = 4096;

/// Segment size on a path of unknown MTU, bytes: with all headers it fits the 1,280 bytes that IPv6
/// guarantees. Path MTU discovery may raise it (RFC 8899).
pub const SAFE_SEGMENT: usize = 1152;

/// The smallest segment size, bytes: with all headers and a relay it fits a link of 600 bytes.
pub const MIN_SEGMENT: usize = 473;

/// Receive slots that every known peer advertises initially.
const RECV_SLOTS: usize = 512;

/// Parameters of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Parameters of every connection.
    pub transport: Arc<TransportConfig>,
    /// Connections in all states except TIME-WAIT. Deviates from the protocol (4,096), which assumes one
    /// process per agent, not one that serves many.
    pub max_connections: usize,
    /// Inbound connections among them: three quarters, so that outbound dials always have room. One peer may
    /// use as many as are left free, so a single peer gets at most half.
    pub max_inbound_connections: usize,
    /// Connections per listening port, shared among peers in the same way. Deviates from the protocol (1,024)
    /// for the same reason.
    pub max_connections_per_port: usize,
    /// Connections in TIME-WAIT; beyond that the oldest are removed.
    pub max_time_wait: usize,
    /// Rate (per second) and burst of SYNs accepted from one authenticated peer. The protocol has 100 per
    /// second for all peers together, because its SYNs are not authenticated.
    pub syn_rate: (u32, u32),
    /// Rate (per second) and burst of SYNs sent to one legacy peer, which drops more than a hundred per
    /// second.
    pub legacy_syn_pace: (u32, u32),
    /// Entries of the peer table: authenticated peers and dialled ones. Dials may exceed it.
    pub max_peers: usize,
    /// Datagrams queued until a peer's session is established. Protocol.
    pub max_pending: usize,
    /// Memory for received and unread data of all connections, bytes. A peer may hold a third of what is
    /// free, so a single peer gets at most a quarter.
    pub recv_memory: usize,
    /// Memory for written and unacknowledged data of all connections, bytes.
    pub send_memory: usize,
    /// A peer without connections is removed after this silence.
    pub peer_lifetime: Duration,
    /// Interval of the expiry sweep.
    pub sweep_interval: Duration,
    /// Interval of discovery requests to the beacons. Protocol.
    pub beacon_interval: Duration,
    /// Detail of the trace read by [`Node::poll_trace`](crate::node::Node::poll_trace); `None` for none.
    pub trace: Option<Detail>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            transport: Arc::default(),
            max_connections: 65_536,
            max_inbound_connections: 49_152,
            max_connections_per_port: 32_768,
            max_time_wait: 65_536,
            syn_rate: (20_000, 8_192),
            legacy_syn_pace: (80, 20),
            max_peers: 16_384,
            max_pending: 64,
            recv_memory: 1 << 30,
            send_memory: 512 << 20,
            peer_lifetime: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(60),
            beacon_interval: Duration::from_secs(30),
            trace: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_names_and_numbers_round_trip() {
        for (number, algorithm) in (1..).zip(Algorithm::ALL) {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(Algorithm::from_number(number), Some(algorithm));
        }
        assert_eq!([0, 255].map(Algorithm::from_number), [None; 2]);
        assert_eq!("vegas".parse::<Algorithm>(), Err(UnknownAlgorithm));
    }
}
