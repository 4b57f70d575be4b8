//! What a node has done and dropped.

/// Counters since the start. Everything that is dropped is counted under a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Datagrams sent on the UDP socket.
    pub pkts_sent: u64,
    /// Datagrams received.
    pub pkts_recv: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_recv: u64,
    /// Frames that opened.
    pub opened: u64,
    /// Frames no key opened.
    pub dropped_unauthentic: u64,
    /// Frames whose counter was accepted before.
    pub dropped_replayed: u64,
    /// Frames that we sealed ourselves, and keys of ours, that were sent back.
    pub dropped_reflected: u64,
    /// Bytes that are no frame, beacon message or packet.
    pub dropped_malformed: u64,
    /// Packets in the clear.
    pub dropped_plaintext: u64,
    /// Packets whose source is not the peer that sealed them, or that are for another node.
    pub dropped_misaddressed: u64,
    /// Beacon messages from elsewhere than our beacons.
    pub dropped_beacon: u64,
    /// Key frames that prove nothing.
    pub dropped_keys: u64,
    /// Bare keys over the rate of answers.
    pub dropped_bare_keys: u64,
    /// Signed keys over the rate of checks.
    pub dropped_key_checks: u64,
    /// Signed keys over the rate of questions to the registry.
    pub dropped_questions: u64,
    /// Cookies that answer no key of ours, or came again too soon.
    pub dropped_cookies: u64,
    /// Cookies handed to senders of signed keys over a rate.
    pub cookies_sent: u64,
    /// Datagrams, SYNs and peers over a rate or a bound.
    pub dropped_limited: u64,
    /// Connections that were never used and reset to make room for others.
    pub dropped_unused: u64,
    /// Stream packets without a connection.
    pub dropped_unknown: u64,
    /// SYNs of peers that a private node does not let in.
    pub dropped_stranger_syns: u64,
    /// Datagrams of such peers.
    pub dropped_stranger_datagrams: u64,
    /// Anything else of such peers.
    pub dropped_strangers: u64,
    /// Packets for addresses on networks that we are not in.
    pub dropped_networks: u64,
    /// Peers that were found to be at another address.
    pub moved: u64,
    /// Peers whose identity key changed, and with it their sessions.
    pub rekeyed: u64,
    /// Datagrams to a port nobody bound.
    pub dropped_unbound: u64,
    /// Reports of datagrams too large for their path that showed something new.
    pub ptb_recv: u64,
    /// Such reports about what we did not send, or that say nothing new.
    pub dropped_ptb: u64,
}

/// A view of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStats {
    /// Counters since the start.
    pub counters: NodeCounters,
    /// Bytes of memory held for readers.
    pub held: usize,
    /// Bytes of memory held for what is to be sent or sent again.
    pub send_held: usize,
    /// Connections that are being opened or open.
    pub connections: usize,
    /// Bound ports.
    pub ports: usize,
    /// Known peers.
    pub peers: usize,
    /// Peers with a session.
    pub encrypted_peers: usize,
}
