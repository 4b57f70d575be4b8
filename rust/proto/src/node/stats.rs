//! Counters of a node.

crate::counters! {
    /// Counters since the start. Every drop has a counter.
    pub struct NodeCounters {
        /// Datagrams sent on the UDP socket.
        pkts_sent,
        /// Datagrams received.
        pkts_recv,
        /// Bytes sent.
        bytes_sent,
        /// Bytes received.
        bytes_recv,
        /// Frames sent through a beacon.
        relayed_sent,
        /// Frames that came through a beacon.
        relayed_recv,
        /// Frames that opened.
        opened,
        /// Sealed frames that no key opened.
        dropped_unauthentic,
        /// Frames whose counter was accepted before.
        dropped_replayed,
        /// Our own sealed frames and keys that were sent back to us.
        dropped_reflected,
        /// Input that is not a valid frame, beacon message or packet.
        dropped_malformed,
        /// Unencrypted packets.
        dropped_plaintext,
        /// Packets whose source is not the peer that sealed them, or whose destination is another node.
        dropped_misaddressed,
        /// Beacon messages not from our beacons, or not requested.
        dropped_beacon,
        /// Key frames that fail verification.
        dropped_keys,
        /// Bare keys over the rate limit of answers.
        dropped_bare_keys,
        /// Signed keys over the rate limit of signature checks.
        dropped_key_checks,
        /// Signed keys over the rate limit of registry lookups.
        dropped_questions,
        /// Cookie replies that match none of our keys, or were repeated too soon.
        dropped_cookies,
        /// Cookie replies sent instead of a signature check.
        cookies_sent,
        /// Datagrams, SYNs and peers over a rate limit or another bound.
        dropped_limited,
        /// Unused connections reset to make room for others.
        dropped_unused,
        /// Stream packets without a connection.
        dropped_unknown,
        /// SYNs of peers that are not admitted.
        dropped_stranger_syns,
        /// Datagrams of peers that are not admitted.
        dropped_stranger_datagrams,
        /// Other packets of peers that are not admitted.
        dropped_strangers,
        /// Packets for networks that this node is not in.
        dropped_networks,
        /// SYNs and datagrams to ports that the policy of their network does not allow.
        dropped_prohibited,
        /// Peers that moved to another address.
        moved,
        /// Peers whose identity key changed, which ended their sessions.
        rekeyed,
        /// Datagrams to an unbound port.
        dropped_unbound,
        /// How often a path within a site or host came into use for a peer.
        path_lan,
        /// The same over the public IPv6 network.
        path_ipv6,
        /// The same over the public IPv4 network.
        path_direct,
        /// The same through a beacon.
        path_relay,
        /// Changes between the relay and an address of a peer.
        path_switches,
        /// Those among them to the relay.
        relay_fallbacks,
        /// Beacons asked to make a peer and us punch.
        punch_requests,
        /// Punch datagrams sent.
        punches_sent,
        /// PTB messages that were used.
        ptb_recv,
        /// PTB messages about datagrams that we did not send, or without new information.
        dropped_ptb,
    }
}

/// A snapshot of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStats {
    /// Counters since the start.
    pub counters: NodeCounters,
    /// Memory of receive buffers, bytes.
    pub held: usize,
    /// Memory of send buffers, bytes.
    pub send_held: usize,
    /// Connections in SYN-SENT, SYN-RECEIVED or ESTABLISHED.
    pub connections: usize,
    /// Bound ports.
    pub ports: usize,
    /// Entries of the peer table.
    pub peers: usize,
    /// Peers with a session.
    pub encrypted_peers: usize,
}
