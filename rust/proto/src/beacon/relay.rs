//! Relay: frames between nodes that cannot reach each other, as they are.

use core::net::SocketAddr;

use super::{
    Beacon,
    queue::{PairKey, Queued},
};
use crate::{
    time::Instant,
    wire::{addr::NodeId, beacon::Message},
};

/// Bytes before the frame in Relay and RelayDeliverDest; RelayDeliver lacks the destination.
const HEAD: usize = 9;
const RELAY_DELIVER: u8 = 0x06;
const RELAY_DELIVER_DEST: u8 = 0x09;

/// How a frame goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// As RelayDeliver.
    Deliver,
    /// As RelayDeliverDest.
    DeliverDest,
    /// As Relay, to another beacon.
    Forward,
}

/// Where the frames of one sender to one destination go. While nothing else happens, a batch needs to look
/// for it once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    from: SocketAddr,
    head: [u8; HEAD],
    to: SocketAddr,
    form: Form,
    /// Its place in the queue.
    pair: usize,
}

impl Beacon {
    /// Relays the datagrams at the begin of a batch that have source and header of the last one, and returns
    /// their bytes.
    pub(super) fn relay_like_last(&mut self, from: SocketAddr, bytes: &[u8], stride: usize) -> usize {
        let Some(flow) = self.flow.filter(|flow| flow.from == from) else { return 0 };
        let is_alike = |datagram: &&[u8]| datagram.len() > HEAD && datagram.starts_with(&flow.head);
        let len: usize = bytes.chunks(stride).take_while(is_alike).map(<[u8]>::len).sum();
        let run = &bytes[..len];
        match flow.form {
            Form::Forward => self.enqueue_run(&flow, flow.head[0], run, stride),
            Form::DeliverDest => self.enqueue_run(&flow, RELAY_DELIVER_DEST, run, stride),
            Form::Deliver => {
                for datagram in run.chunks(stride) {
                    self.enqueue(&flow, datagram, &datagram[HEAD..]);
                }
            }
        }
        len
    }

    /// Queues datagrams that leave as they came, but for their code.
    fn enqueue_run(&mut self, flow: &Flow, code: u8, run: &[u8], stride: usize) {
        let (waiting, others) = self.queue.push_run(flow.pair, flow.to, code, run, stride);
        let count = |number: usize| u64::try_from(number).unwrap_or(0);
        let refused = count(run.len().div_ceil(stride) - waiting);
        match others {
            Queued::Waits => {}
            Queued::PairFull => self.counters.dropped_pair += refused,
            Queued::Full => self.counters.dropped_greedy += refused,
        }
        self.count_run(flow, waiting, run.len().min(waiting * stride));
    }

    fn count_run(&mut self, flow: &Flow, datagrams: usize, bytes: usize) {
        let count = |number: usize| u64::try_from(number).unwrap_or(0);
        if flow.form == Form::Forward {
            self.counters.forwarded += count(datagrams);
        } else {
            self.counters.relayed += count(datagrams);
            self.counters.relayed_bytes += count(bytes);
        }
    }

    pub(super) fn on_relay(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key: PairKey,
        frame: &[u8],
        bytes: &[u8],
    ) {
        let Some((flow, is_free)) = self.find_flow(now, from, key, frame, bytes) else { return };
        self.enqueue(&flow, bytes, frame);
        self.flow = is_free.then_some(flow);
    }

    /// Takes a buffer whose first `len` bytes are datagrams of one source, if all of them leave as they came but
    /// for their code; another buffer is given for it. Returns how many bytes of it are done with.
    pub(super) fn relay_owned(
        &mut self,
        now: Instant,
        from: SocketAddr,
        buffer: &mut Vec<u8>,
        (len, stride): (usize, usize),
    ) -> usize {
        let bytes = &buffer[..len];
        let is_known = self.flow.is_some_and(|flow| flow.from == from && bytes.starts_with(&flow.head));
        if !is_known {
            let first = &bytes[..len.min(stride)];
            let Ok(Message::Relay { sender, destination, frame }) = Message::parse(first) else { return 0 };
            self.flow = None;
            let found = self.find_flow(now, from, (sender, destination), frame, first);
            let Some((flow, is_free)) = found else { return first.len() };
            if !is_free {
                self.enqueue(&flow, first, frame);
                return first.len();
            }
            self.flow = Some(flow);
        }
        let Some(flow) = self.flow else { return 0 };
        let code = match flow.form {
            Form::Forward => flow.head[0],
            Form::DeliverDest => RELAY_DELIVER_DEST,
            Form::Deliver => return 0,
        };
        let is_alike = |datagram: &[u8]| datagram.len() > HEAD && datagram.starts_with(&flow.head);
        if !bytes.chunks(stride).all(is_alike)
            || !self.queue.push_owned(flow.pair, flow.to, code, buffer, (len, stride))
        {
            return 0;
        }
        self.count_run(&flow, len.div_ceil(stride), len);
        len
    }

    /// Where the frames of a sender to a destination go, and whether further ones go there without being looked
    /// at. What may not be relayed is counted.
    fn find_flow(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key @ (sender, destination): PairKey,
        frame: &[u8],
        bytes: &[u8],
    ) -> Option<(Flow, bool)> {
        let is_beacon = self.routes.is_beacon(from);
        if !self.is_sender(now, from, sender, is_beacon) {
            self.counters.dropped_spoofed += 1;
            return None;
        }
        let Some(head) = bytes.first_chunk::<HEAD>().copied().filter(|_| !frame.is_empty()) else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        self.claims.on_received(sender, from, bytes.len());
        let (to, form) = self.next_hop(now, destination, is_beacon, frame.len())?;
        let pair = self.queue.pair(key);
        // Each frame of a claim is its credit, and each to one is charged.
        let is_proven = |node| self.nodes.find(now, node).is_some();
        let is_free = (is_beacon || is_proven(sender)) && (form == Form::Forward || is_proven(destination));
        Some((Flow { from, head, to, form, pair }, is_free))
    }

    /// Whether the sender of a frame announced itself from there. Another beacon speaks for nodes that are not
    /// known here.
    fn is_sender(&self, now: Instant, from: SocketAddr, sender: NodeId, is_beacon: bool) -> bool {
        match self.endpoint_of(now, sender) {
            Some(endpoint) if endpoint == from => true,
            Some(_) => is_beacon && self.nodes.find(now, sender).is_none_or(|node| !node.is_fresh(now)),
            None => is_beacon,
        }
    }

    /// Where a frame of this many bytes for a node goes, or `None` if it is dropped.
    fn next_hop(
        &mut self,
        now: Instant,
        destination: NodeId,
        is_beacon: bool,
        frame_len: usize,
    ) -> Option<(SocketAddr, Form)> {
        let form = |is_extended| if is_extended { Form::DeliverDest } else { Form::Deliver };
        let node = self.nodes.find(now, destination);
        if let Some(node) = node.filter(|node| node.is_fresh(now)) {
            return Some((node.endpoint, form(node.is_extended)));
        }
        // A frame that was forwarded once stays here, or beacons could send it round in circles.
        let route = self.routes.find(now, destination);
        if let (Some(beacon), false) = (route, is_beacon) {
            return Some((beacon, Form::Forward));
        }
        if let Some(node) = node {
            return Some((node.endpoint, form(node.is_extended)));
        }
        let Some(claim) = self.claims.find(now, destination) else {
            if route.is_some() {
                self.counters.dropped_loop += 1;
            } else {
                self.counters.dropped_unknown += 1;
            }
            return None;
        };
        let (endpoint, is_extended) = (claim.endpoint, claim.is_extended);
        if self.claims.spend(destination, HEAD + frame_len) {
            return Some((endpoint, form(is_extended)));
        }
        self.counters.dropped_unproven += 1;
        self.challenge(now, destination);
        None
    }

    fn enqueue(&mut self, flow: &Flow, bytes: &[u8], frame: &[u8]) {
        let [_, sender @ .., _, _, _, _] = flow.head;
        let mut head = flow.head;
        let queued = match flow.form {
            Form::Forward => self.queue.push(flow.pair, flow.to, &[], bytes),
            Form::DeliverDest => {
                head[0] = RELAY_DELIVER_DEST;
                self.queue.push(flow.pair, flow.to, &head, frame)
            }
            Form::Deliver => {
                let [a, b, c, d] = sender;
                self.queue.push(flow.pair, flow.to, &[RELAY_DELIVER, a, b, c, d], frame)
            }
        };
        match queued {
            Queued::Waits if flow.form == Form::Forward => self.counters.forwarded += 1,
            Queued::Waits => {
                self.counters.relayed += 1;
                self.counters.relayed_bytes += u64::try_from(bytes.len()).unwrap_or(0);
            }
            Queued::PairFull => self.counters.dropped_pair += 1,
            Queued::Full => self.counters.dropped_greedy += 1,
        }
    }
}
