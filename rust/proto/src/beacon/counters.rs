//! What a beacon counts.

crate::counters! {
    /// What a beacon has done, and what it dropped and why.
    pub struct Counters {
        /// Replies to Discover.
        discovered,
        /// Nodes whose address was proven, by a cookie or a punch.
        proven,
        /// Identities proven by a signature.
        signed,
        /// Punch commands sent.
        punches,
        /// Punch commands sent to have an address proven.
        challenges,
        /// Frames relayed to nodes.
        relayed,
        /// Bytes of these frames' datagrams.
        relayed_bytes,
        /// Frames forwarded to other beacons.
        forwarded,
        /// Nodes told that something waits at the registry.
        notified,
        /// Lists of nodes taken from other beacons.
        syncs_taken,
        /// Lists of nodes sent to other beacons, in datagrams.
        syncs_sent,
        /// Dropped: datagrams that are no message.
        dropped_malformed,
        /// Dropped: messages that only nodes take.
        dropped_unserved,
        /// Dropped: over the rate of their source.
        dropped_rate,
        /// Dropped: the sender did not announce itself from that address.
        dropped_spoofed,
        /// Dropped: announcements with another key than the one pinned, or without proof of it.
        dropped_key,
        /// Dropped: announcements from another address, too soon or without proof of the address.
        dropped_move,
        /// Dropped: announcements, because the table of nodes is full.
        dropped_full,
        /// Dropped: frames and punch requests for nodes that are not known here.
        dropped_unknown,
        /// Dropped: frames that would exceed what an unproven address may be sent.
        dropped_unproven,
        /// Dropped: frames that another beacon forwarded and that would leave for one again.
        dropped_loop,
        /// Dropped: lists of nodes from addresses that are no beacon's, or beyond what is kept of one.
        dropped_sync,
        /// Dropped: frames beyond what may wait for one pair.
        dropped_pair,
        /// Dropped: frames of the pair with most that waited, because too much waited in all.
        dropped_greedy,
        /// Dropped: replies and commands beyond what may wait.
        dropped_backlog,
        /// Dropped: punches at ports of the beacon that prove nothing.
        dropped_probe,
    }
}
