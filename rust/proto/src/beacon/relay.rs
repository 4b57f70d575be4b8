//! Relay: frames between nodes that cannot reach each other, as they are.

use core::net::SocketAddr;

use super::{
    Beacon,
    queue::{PairKey, Queued},
};
use crate::{time::Instant, wire::addr::NodeId};

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
        if flow.form == Form::Forward {
            self.counters.forwarded += count(waiting);
        } else {
            self.counters.relayed += count(waiting);
            self.counters.relayed_bytes += count(run.len().min(waiting * stride));
        }
    }

    pub(super) fn on_relay(
        &mut self,
        now: Instant,
        from: SocketAddr,
        key @ (sender, destination): PairKey,
        frame: &[u8],
        bytes: &[u8],
    ) {
        let is_beacon = self.routes.is_beacon(from);
        if !self.is_sender(now, from, sender, is_beacon) {
            self.counters.dropped_spoofed += 1;
            return;
        }
        let Some(head) = bytes.first_chunk::<HEAD>().copied().filter(|_| !frame.is_empty()) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        self.claims.on_received(sender, from, bytes.len());
        let Some((to, form)) = self.next_hop(now, destination, is_beacon, frame.len()) else { return };
        let pair = self.queue.pair(key);
        let flow = Flow { from, head, to, form, pair };
        self.enqueue(&flow, bytes, frame);
        // Each frame of a claim is its credit, and each to one is charged.
        let is_proven = |node| self.nodes.find(now, node).is_some();
        let is_free = (is_beacon || is_proven(sender)) && (form == Form::Forward || is_proven(destination));
        self.flow = is_free.then_some(flow);
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
