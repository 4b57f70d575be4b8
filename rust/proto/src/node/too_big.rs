//! Reports of datagrams that were too large for their path: ICMP's "fragmentation needed" and "packet
//! too big", which RFC 8899 calls PTB messages (section 4.6).
//!
//! Anybody can forge one. It counts only if it quotes the nonce of a recent frame, whose prefix is known only
//! to whoever saw the frame; and then it only selects the next probe size.

use core::{net::SocketAddr, time::Duration};

use super::{Node, trace::count_drop};
use crate::{
    time::Instant,
    wire::{addr::NodeId, tunnel::Frame},
};

/// Reports arrive within a round trip; older quotes are replays by an eavesdropper.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A datagram of ours that was dropped for its size.
#[derive(Clone, Copy, Debug)]
pub struct TooBig<'a> {
    /// Where it was to go; port 0 if that is not known.
    pub destination: SocketAddr,
    /// Bytes of the largest UDP payload that would have passed.
    pub max_datagram: usize,
    /// Its first bytes, as a router quotes them; `None` if our own host dropped it.
    pub quote: Option<&'a [u8]>,
}

impl Node {
    /// Takes a report about a datagram that was too large. Whatever it says, it never fails: what makes
    /// no sense is dropped and counted.
    pub fn handle_too_big(&mut self, now: Instant, report: &TooBig<'_>) {
        self.recorder.now = now;
        if !self.ptb_bucket.take(now) {
            count_drop!(self, dropped_limited);
            return;
        }
        let mut has_told = false;
        for (id, since) in self.sent_too_big(now, report) {
            let mut is_news = false;
            self.with_peer(id, |peer, _, _| is_news = peer.on_too_big(now, report.max_datagram));
            if is_news {
                self.narrow_path(now, id, since);
            }
            has_told |= is_news;
        }
        if has_told {
            self.counters.ptb_recv += 1;
        } else {
            count_drop!(self, dropped_ptb);
        }
    }

    /// The peers whose path the datagram was on (several only if our own host reports), and its send time.
    fn sent_too_big(&self, now: Instant, report: &TooBig<'_>) -> Vec<(NodeId, Instant)> {
        let TooBig { destination, quote, .. } = report;
        let nonce = match quote.map(Frame::parse) {
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
            .filter(|(_, peer)| peer.endpoint().is_some_and(is_there))
            .filter_map(|(id, peer)| match nonce {
                Some(nonce) => peer.sent_at(nonce).map(|at| (*id, at)),
                None => Some((*id, now)),
            })
            .filter(|(_, at)| now.saturating_since(*at) < MAX_AGE)
            .collect()
    }

    /// Cuts a peer's segments to what its path carries, and repeats what left from `since` on and is too
    /// large.
    fn narrow_path(&mut self, now: Instant, node: NodeId, since: Instant) {
        self.follow_path(node);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.on_path_narrowed(now, since);
                self.queue(id);
                self.after(id);
            }
        }
    }
}
