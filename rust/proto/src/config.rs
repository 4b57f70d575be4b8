//! Every tunable, with its unit, its source and any deviation from the source.
//!
//! Parameters of streams are listed in `docs/reference/protocol/transport.md#parameters`. "Protocol" marks
//! values that the protocol itself sets; where one departs from an RFC it wins, and the departure is stated.

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
    /// All of them, in the order of their numbers on the daemon's socket, which begin at 1.
    pub const ALL: [Self; 3] = [Self::Reno, Self::Cubic, Self::Bbr];

    /// The one with this number; 0, and numbers that nobody has, are none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its name in options and statistics.
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

/// No controller has this name.
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
    /// First SYN retransmission after this. Protocol.
    pub syn_rto: Duration,
    /// SYN retransmissions never wait longer than this. Protocol.
    pub syn_rto_max: Duration,
    /// SYN retransmissions before the attempt fails, which takes the same time when they come sooner.
    /// Protocol.
    pub syn_retries: u32,
    /// First SYN retransmission to an old peer that was heard lately, and so dropped the first one.
    /// Deviates from the protocol, with [`Self::syn_rto`] as the upper bound.
    pub legacy_syn_rto: Duration,
    /// RTO before the first round-trip sample. RFC 6298 (2.1).
    pub rto_initial: Duration,
    /// Lower bound of the RTO. Protocol; deviates from RFC 6298 (2.4), which asks for one second.
    pub rto_min: Duration,
    /// Upper bound of the RTO. Protocol; deviates from RFC 6298 (2.5), which asks for 60 seconds.
    pub rto_max: Duration,
    /// Clock granularity G of RFC 6298. Protocol.
    pub clock_granularity: Duration,
    /// Timeouts without progress before a connection with an old peer is given up. Protocol.
    pub max_retransmissions: u32,
    /// Time without progress before a connection with one of our own peers is given up: R2 of RFC 1122
    /// section 4.2.3.5, which asks for 100 seconds at least. Deviates from the protocol, whose eight
    /// attempts may be over in four seconds.
    pub give_up_after: Duration,
    /// FIN retransmissions towards old peers, which may have forgotten the connection.
    pub legacy_fin_retries: u32,
    /// First window probe after this; doubles. RFC 9293 section 3.8.6.1.
    pub persist_min: Duration,
    /// Window probes never wait longer than this.
    pub persist_max: Duration,
    /// Small writes wait no longer than this for an acknowledgement. Protocol (RFC 9293 section 3.7.4
    /// sets no bound).
    pub nagle_delay: Duration,
    /// An acknowledgement waits no longer than this. Protocol.
    pub ack_delay_max: Duration,
    /// What an acknowledgement waits on a path faster than [`Self::ack_delay_max`].
    pub ack_delay: Duration,
    /// Segments after the handshake that are acknowledged at once, to open the peer's window.
    pub quick_acks: u32,
    /// Full segments after which an acknowledgement is due. Protocol, RFC 9293 section 3.8.6.3.
    pub ack_every: u32,
    /// An idle connection is probed after this. Protocol.
    pub keepalive: Duration,
    /// Our own peers are probed so often while no probe is answered.
    pub keepalive_repeat: Duration,
    /// A connection on which nothing arrives for this long is closed. Protocol. Towards our own peers it
    /// counts from the first probe that is not answered, so that an outage as long as
    /// [`Self::give_up_after`] ends no idle stream.
    pub idle_timeout: Duration,
    /// A connection that its application has closed is reset after this time without progress.
    pub orphan_timeout: Duration,
    /// TIME-WAIT. Protocol; deviates from RFC 9293 section 3.6.1 (2 MSL).
    pub time_wait: Duration,
    /// Initial congestion window, bytes: 10 segments of 4,096. Protocol, RFC 6928.
    pub initial_window: usize,
    /// The congestion controller of connections that ask for none.
    pub congestion: Algorithm,
    /// Initial slow-start threshold towards old peers, bytes; towards our own there is none
    /// (RFC 5681 section 3.1).
    pub legacy_ssthresh: usize,
    /// Congestion window bound towards old peers, bytes. Protocol.
    pub legacy_max_cwnd: usize,
    /// Congestion window bound, bytes. Deviates from the protocol's megabyte, which long paths outgrow.
    pub max_cwnd: usize,
    /// How long a burst may last at the pacing rate; a kernel's timers are no finer than this.
    pub pacing_quantum: Duration,
    /// Segments of appropriate byte counting in slow start, L of RFC 3465, towards old peers. Our own
    /// peers acknowledge whole batches at once, so there each byte counts.
    pub abc_limit: usize,
    /// Duplicate acknowledgements that mean loss. RFC 5681 section 3.2.
    pub dup_ack_threshold: u32,
    /// Unacknowledged segments that an old peer can hold out of order.
    pub legacy_outstanding: usize,
    /// Unacknowledged segments towards our own peers.
    pub native_outstanding: usize,
    /// Segments held out of order.
    pub out_of_order_segments: usize,
    /// Bytes of data written and not acknowledged, at least.
    pub send_buffer: usize,
    /// The same at most, while the window is large.
    pub max_send_buffer: usize,
    /// Bytes of data written and not sent; keeps the backlog in cache.
    pub send_backlog: usize,
    /// Bytes received and not read, at first; what the advertised window promises.
    pub recv_buffer: usize,
    /// The same at most, for a reader that keeps up on a long path.
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

/// Bytes of the largest segment we send. Protocol.
pub const MAX_SEGMENT: usize = 4096;

/// Bytes of a segment on a path of unknown MTU: with all headers it fits 1,280 bytes of IPv6. The
/// path may turn out to carry more (RFC 8899).
pub const SAFE_SEGMENT: usize = 1152;

/// Receive slots advertised at first by all known peers.
const RECV_SLOTS: usize = 512;

/// Parameters of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Parameters of every connection.
    pub transport: Arc<TransportConfig>,
    /// Connections in all states but TIME-WAIT. Deviates from the protocol (4,096), which counts for one
    /// process per agent, not for one that serves many.
    pub max_connections: usize,
    /// Those of them that peers opened: three quarters, so that our own dials always have room. A peer
    /// may take as many as the others leave free, so one alone half of them.
    pub max_inbound_connections: usize,
    /// Connections of one listening port, shared among peers in the same way. Deviates from the protocol
    /// (1,024) for the same reason.
    pub max_connections_per_port: usize,
    /// Connections in TIME-WAIT; the oldest are forgotten beyond.
    pub max_time_wait: usize,
    /// SYNs per second and at once, from one authenticated peer. The protocol has 100 per second for all
    /// peers, because its SYNs are not authenticated.
    pub syn_rate: (u32, u32),
    /// SYNs per second and at once that we send to one old peer, which drops more than a hundred per
    /// second.
    pub legacy_syn_pace: (u32, u32),
    /// Peers that proved who they are, or that we call; those that we call may be more.
    pub max_peers: usize,
    /// Datagrams that wait for a peer's session. Protocol.
    pub max_pending: usize,
    /// Bytes of memory for what was received and not read, of all connections. A peer may hold a third
    /// of what is free, so one alone a quarter of all.
    pub recv_memory: usize,
    /// The same for what is written and not acknowledged.
    pub send_memory: usize,
    /// A peer without connections is forgotten after this silence.
    pub peer_lifetime: Duration,
    /// Interval of the expiry sweep.
    pub sweep_interval: Duration,
    /// Interval of announcements to beacons. Protocol.
    pub beacon_interval: Duration,
    /// What is recorded for [`Node::poll_trace`](crate::node::Node::poll_trace); `None` for nothing.
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
    fn names_and_numbers_of_controllers_are_read_back() {
        for (number, algorithm) in (1..).zip(Algorithm::ALL) {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(Algorithm::from_number(number), Some(algorithm));
        }
        assert_eq!([0, 255].map(Algorithm::from_number), [None; 2]);
        assert_eq!("vegas".parse::<Algorithm>(), Err(UnknownAlgorithm));
    }
}
