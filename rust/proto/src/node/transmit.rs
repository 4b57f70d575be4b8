//! Transmit path: datagrams in batches of equal size, for UDP segmentation offload (GSO).

use core::net::SocketAddr;

use super::{
    ConnectionId, Node,
    relay::{wrap, wrapping},
    trace::count_drop,
};
use crate::{
    time::Instant,
    tunnel::{Peer, Route},
    wire::{
        addr::NodeId,
        packet::{HEADER_LEN, Header},
        tunnel::{Frame, SEALED_HEADER_LEN, SEALED_OVERHEAD, SIGNED_KEY_LEN, TAG_LEN},
    },
};

/// One or more datagrams to one destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Destination.
    pub destination: SocketAddr,
    /// Bytes written to the buffer.
    pub len: usize,
    /// Size of each datagram except the last, bytes, if there are several.
    pub segment_size: Option<usize>,
}

/// Result of an attempt to fill a batch.
enum Filled {
    Nothing,
    Batch(Transmit),
}

impl Node {
    /// Writes up to `max_segments` datagrams to `buf`, all except the last of equal size. `buf` must hold at
    /// least one datagram of the largest size.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8], max_segments: usize) -> Option<Transmit> {
        self.recorder.now = now;
        loop {
            while let Some(packet) = self.loopback.pop_front() {
                self.on_packet(now, self.address.node, &packet);
            }
            let queued = self.outbox.pop_front().or_else(|| self.stash.take());
            if let Some((route, mut frame)) = queued {
                self.add_cookie(now, route, &mut frame);
                let start = wrapping(route);
                let len = start + frame.len();
                if let Some(out) = buf.get_mut(..len) {
                    wrap(route, self.address.node, out);
                    out[start..].copy_from_slice(&frame);
                    self.count(route, 1, len);
                    return Some(Transmit { destination: route.next_hop(), len, segment_size: None });
                }
                continue;
            }
            let id = self.ready.pop_front()?;
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.is_queued = false;
            }
            let filled = self.fill(now, id, buf, max_segments);
            self.drain_connection(id);
            self.remove_if_closed(id);
            if let Filled::Batch(transmit) = filled {
                self.queue(id);
                return Some(transmit);
            }
        }
    }

    /// Appends a cookie to a signed key if one was demanded there.
    fn add_cookie(&self, now: Instant, route: Route, frame: &mut Vec<u8>) {
        if frame.len() == SIGNED_KEY_LEN
            && matches!(Frame::parse(frame), Ok(Frame::SignedKey(_)))
            && let Some(cookie) = self.unauthenticated.jar.cookie(now, route)
        {
            frame.extend(cookie);
        }
    }

    fn count(&mut self, route: Route, datagrams: usize, bytes: usize) {
        self.counters.pkts_sent += datagrams as u64;
        if route.is_relayed() {
            self.counters.relayed_sent += datagrams as u64;
        }
        self.counters.bytes_sent += bytes as u64;
        self.figures.on_sent(route, bytes);
    }

    /// Fills `buf` with segments of one connection.
    fn fill(&mut self, now: Instant, id: ConnectionId, buf: &mut [u8], max_segments: usize) -> Filled {
        let Some(slot) = self.slots.get(&id).filter(|slot| slot.is_attached) else {
            return Filled::Nothing;
        };
        let node = slot.connection.tuple().remote.node;
        if !self.may_send_syn(now, node, id) {
            return Filled::Nothing;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return Filled::Nothing };
        let connection = &mut slot.connection;
        let room = HEADER_LEN + connection.max_segment();
        if node == self.address.node {
            while let Some(len) = connection.dispatch(now, &mut buf[..room]) {
                self.loopback.push_back(buf[..len].to_vec());
            }
            if !self.loopback.is_empty() {
                self.queue(id);
            }
            return Filled::Nothing;
        }
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.is_ready()) else {
            return Filled::Nothing;
        };
        let Some(route) = peer.route() else { return Filled::Nothing };
        let start = wrapping(route);
        let own = self.address.node;
        let most = if connection.state().is_synchronized() { room } else { HEADER_LEN };
        let (mut used, mut count, mut segment_size) = (0, 0, 0);
        while count < max_segments && used + start + room + SEALED_OVERHEAD <= buf.len() {
            if !peer.has_credit(start + most + SEALED_OVERHEAD) {
                break;
            }
            let datagram = &mut buf[used..];
            wrap(route, own, datagram);
            let frame = &mut datagram[start..];
            let packet = &mut frame[SEALED_HEADER_LEN..SEALED_HEADER_LEN + room];
            let Some(len) = connection.dispatch(now, packet) else { break };
            if len > HEADER_LEN || most == HEADER_LEN {
                peer.on_sent_eliciting(now);
            }
            let frame = &mut frame[..SEALED_HEADER_LEN + len + TAG_LEN];
            if peer.seal(now, own, frame).is_err() {
                break;
            }
            let size = start + frame.len();
            peer.on_sent(size);
            if count == 0 {
                segment_size = size;
            } else if size > segment_size {
                self.stash = Some((route, frame.to_vec()));
                break;
            }
            count += 1;
            used += size;
            if size < segment_size {
                break;
            }
        }
        if peer.take_needs_arming() {
            self.with_peer(node, |_, _, _| {});
        }
        if count == 0 {
            return Filled::Nothing;
        }
        self.count(route, count, used);
        let segment_size = (count > 1).then_some(segment_size);
        Filled::Batch(Transmit { destination: route.next_hop(), len: used, segment_size })
    }

    /// Seals and queues one packet for a peer, or loops it back. Returns whether it was queued.
    pub(super) fn seal_packet(&mut self, now: Instant, node: NodeId, packet: &[u8]) -> bool {
        if node == self.address.node {
            self.loopback.push_back(packet.to_vec());
            return true;
        }
        let Some(route) = self.peers.get(&node).and_then(Peer::route) else { return false };
        let has_left = self.seal_packet_to(now, node, route, packet);
        self.with_peer(node, |peer, _, _| {
            if has_left && packet.len() > HEADER_LEN {
                peer.on_sent_eliciting(now);
            }
        });
        has_left
    }

    /// The same for a response, which is sent to the source of the request.
    pub(super) fn seal_answer(&mut self, now: Instant, node: NodeId, packet: &[u8]) {
        let from = self.peers.get(&node).and_then(Peer::heard_from);
        let has_left = match from {
            Some(from) => self.seal_packet_to(now, node, from, packet),
            None => self.seal_packet(now, node, packet),
        };
        if !has_left {
            count_drop!(self, dropped_limited);
        }
    }

    fn seal_packet_to(&mut self, now: Instant, node: NodeId, to: Route, packet: &[u8]) -> bool {
        let own = self.address.node;
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let mut frame = vec![0; SEALED_HEADER_LEN + packet.len() + TAG_LEN];
        if !peer.spend(to, frame.len()) {
            return false;
        }
        frame[SEALED_HEADER_LEN..SEALED_HEADER_LEN + packet.len()].copy_from_slice(packet);
        let is_sealed = peer.seal(now, own, &mut frame).is_ok();
        if is_sealed {
            self.outbox.push_back((to, frame));
        }
        is_sealed
    }

    /// Sends the queued datagrams, as far as the anti-amplification limit allows.
    pub(super) fn send_pending(&mut self, now: Instant, node: NodeId) {
        let Some(mut waiting) = self.pending.remove(&node) else { return };
        while let Some(packet) = waiting.front() {
            if !self.seal_packet(now, node, packet) {
                self.pending.insert(node, waiting);
                return;
            }
            waiting.pop_front();
        }
    }
}

/// Encodes a packet.
pub(super) fn packet(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN + payload.len()];
    bytes[HEADER_LEN..].copy_from_slice(payload);
    let is_whole = header.emit(&mut bytes);
    debug_assert!(is_whole, "payloads are bounded by their callers");
    bytes
}
