//! What a node has done and dropped.

crate::counters! {
    /// Counters since the start. Everything that is dropped is counted under a name.
    pub struct NodeCounters {
        /// Datagrams sent on the UDP socket.
        pkts_sent,
        /// Datagrams received.
        pkts_recv,
        /// Bytes sent.
        bytes_sent,
        /// Bytes received.
        bytes_recv,
        /// Frames that opened.
        opened,
        /// Frames no key opened.
        dropped_unauthentic,
        /// Frames whose counter was accepted before.
        dropped_replayed,
        /// Frames that we sealed ourselves, and keys of ours, that were sent back.
        dropped_reflected,
        /// Bytes that are no frame, beacon message or packet.
        dropped_malformed,
        /// Packets in the clear.
        dropped_plaintext,
        /// Packets whose source is not the peer that sealed them, or that are for another node.
        dropped_misaddressed,
        /// Beacon messages from elsewhere than our beacons.
        dropped_beacon,
        /// Key frames that prove nothing.
        dropped_keys,
        /// Bare keys over the rate of answers.
        dropped_bare_keys,
        /// Signed keys over the rate of checks.
        dropped_key_checks,
        /// Signed keys over the rate of questions to the registry.
        dropped_questions,
        /// Cookies that answer no key of ours, or came again too soon.
        dropped_cookies,
        /// Cookies handed to senders of signed keys over a rate.
        cookies_sent,
        /// Datagrams, SYNs and peers over a rate or a bound.
        dropped_limited,
        /// Connections that were never used and reset to make room for others.
        dropped_unused,
        /// Stream packets without a connection.
        dropped_unknown,
        /// SYNs of peers that a private node does not let in.
        dropped_stranger_syns,
        /// Datagrams of such peers.
        dropped_stranger_datagrams,
        /// Anything else of such peers.
        dropped_strangers,
        /// Packets for addresses on networks that we are not in.
        dropped_networks,
        /// Peers that were found to be at another address.
        moved,
        /// Peers whose identity key changed, and with it their sessions.
        rekeyed,
        /// Datagrams to a port nobody bound.
        dropped_unbound,
        /// Reports of datagrams too large for their path that showed something new.
        ptb_recv,
        /// Such reports about what we did not send, or that say nothing new.
        dropped_ptb,
    }
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
