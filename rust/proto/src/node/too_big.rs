//! Packet Too Big (PTB) messages of RFC 8899 section 4.6: ICMP "fragmentation needed" and ICMPv6 "packet too
//! big".
//!
//! They are unauthenticated. One is accepted only if it quotes the nonce of a recently sent frame, whose
//! random prefix an off-path attacker does not know; and even then it only selects the next probe size.

use core::{net::SocketAddr, time::Duration};

use super::{Node, relay::wrapping, trace::count_drop};
use crate::{
    time::Instant,
    tunnel::{Peer, Route},
    wire::{addr::NodeId, beacon::Message, tunnel::Frame},
};

/// PTB messages arrive within a round trip; older quotes may be replayed by an eavesdropper.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A PTB message: a datagram of ours was dropped for its size.
#[derive(Clone, Copy, Debug)]
pub struct TooBig<'a> {
    /// Destination of the datagram; port 0 if unknown.
    pub destination: SocketAddr,
    /// Largest UDP payload that would have passed, bytes.
    pub max_datagram: usize,
    /// First bytes of the datagram as quoted by the router; `None` if this host dropped it.
    pub quote: Option<&'a [u8]>,
}

impl Node {
    /// Processes a PTB message. Never fails: invalid input is dropped and counted.
    pub fn handle_too_big(&mut self, now: Instant, report: &TooBig<'_>) {
        self.recorder.now = now;
        if !self.ptb_bucket.take(now) {
            count_drop!(self, dropped_limited);
            return;
        }
        let mut was_used = false;
        for (id, since) in self.sent_too_big(now, report) {
            let mut is_new = false;
            let around = self.peers.get(&id).and_then(Peer::route).map_or(0, wrapping);
            let most = report.max_datagram.saturating_sub(around);
            self.with_peer(id, |peer, _, _| is_new = peer.on_too_big(now, most));
            if is_new {
                self.apply_path_mtu(now, id, Some(since));
            }
            was_used |= is_new;
        }
        if was_used {
            self.counters.ptb_recv += 1;
        } else {
            count_drop!(self, dropped_ptb);
        }
    }

    /// The peers whose path is concerned (one, unless this host reports), and when the datagram was sent.
    fn sent_too_big(&self, now: Instant, report: &TooBig<'_>) -> Vec<(NodeId, Instant)> {
        let TooBig { destination, quote, .. } = report;
        // A relayed frame is quoted with what is in front of it.
        let frame = quote.map(|quote| match Message::parse(quote) {
            Ok(Message::Relay { frame, .. }) => frame,
            _ => quote,
        });
        let nonce = match frame.map(Frame::parse) {
            Some(Ok(Frame::Sealed(header))) => Some(header.nonce),
            Some(_) => return Vec::new(),
            None => None,
        };
        let is_there = |endpoint: SocketAddr| match destination.port() {
            0 => endpoint.ip() == destination.ip(),
            _ => endpoint == *destination,
        };
        self.peers
            .iter()
            .filter(|(_, peer)| peer.route().map(Route::next_hop).is_some_and(is_there))
            .filter_map(|(id, peer)| match nonce {
                Some(nonce) => peer.sent_at(nonce).map(|at| (*id, at)),
                None => Some((*id, now)),
            })
            .filter(|(_, at)| now.saturating_since(*at) < MAX_AGE)
            .collect()
    }
}
