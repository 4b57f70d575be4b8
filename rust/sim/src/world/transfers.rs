//! The two programs of a transfer: one writes what the pattern says, the other compares what it reads.

use pilot_proto::node::{ConnectionId, Event};

use super::{HostId, World};
use crate::flow::{FlowId, pattern};

impl World {
    pub(super) fn accept(&mut self, host: HostId, id: ConnectionId) {
        let Some(tuple) = self.hosts[host].node.connection(id).map(|connection| *connection.tuple()) else {
            return;
        };
        let flow = self.flows.iter().position(|flow| {
            flow.to == host
                && self.address(flow.from).node == tuple.remote.node
                && flow.receiver.is_none()
                && !flow.is_orphan
                && self.hosts[flow.from]
                    .node
                    .connection(flow.sender)
                    .is_some_and(|sender| sender.tuple().local_port == tuple.remote_port)
        });
        match flow {
            Some(index) => {
                self.flows[index].receiver = Some(id);
                self.receivers.insert((host, id), FlowId(index));
                self.pump_receiver(FlowId(index));
            }
            None => self.hosts[host].events.push_back(Event::Accepted(id)),
        }
    }

    pub(super) fn pump_sender(&mut self, id: FlowId) {
        let flow = &mut self.flows[id.0];
        if flow.is_orphan {
            return;
        }
        let node = &mut self.hosts[flow.from].node;
        node.with_connection(flow.sender, |connection| {
            while flow.sent < flow.total {
                match connection.send(pattern(flow.sent, flow.total - flow.sent)) {
                    Ok(n) if n > 0 => flow.sent += n as u64,
                    Ok(_) | Err(_) => break,
                }
            }
            flow.stats = connection.stats();
        });
    }

    pub(super) fn pump_receiver_of(&mut self, host: HostId, id: ConnectionId) {
        if let Some(flow) = self.receivers.get(&(host, id)).copied() {
            self.pump_receiver(flow);
        }
    }

    /// Reads and verifies received data.
    pub(super) fn pump_receiver(&mut self, id: FlowId) {
        let now = self.now;
        let flow = &mut self.flows[id.0];
        let is_alive = flow.is_reading && !flow.is_orphan;
        let Some(receiver) = flow.receiver.filter(|_| is_alive) else { return };
        let node = &mut self.hosts[flow.to].node;
        node.with_connection(receiver, |connection| {
            let mut taken = 0;
            for slice in connection.recv_slices() {
                compare(slice, flow.received);
                flow.received += slice.len() as u64;
                taken += slice.len();
            }
            connection.recv_consume(taken);
            while flow.is_echo && flow.echoed < flow.received {
                match connection.send(pattern(flow.echoed, flow.received - flow.echoed)) {
                    Ok(n) if n > 0 => flow.echoed += n as u64,
                    Ok(_) | Err(_) => break,
                }
            }
        });
        if flow.received == flow.total && !flow.is_echo {
            flow.finished.get_or_insert(now);
        }
        let sender = flow.sender;
        if let Some(connection) = self.hosts[self.flows[id.0].from].node.connection(sender) {
            self.flows[id.0].stats = connection.stats();
        }
    }

    pub(super) fn pump_returned(&mut self, id: FlowId) {
        let now = self.now;
        let flow = &mut self.flows[id.0];
        let node = &mut self.hosts[flow.from].node;
        node.with_connection(flow.sender, |connection| {
            let mut taken = 0;
            for slice in connection.recv_slices() {
                compare(slice, flow.returned);
                flow.returned += slice.len() as u64;
                taken += slice.len();
            }
            connection.recv_consume(taken);
        });
        if flow.returned == flow.total {
            flow.finished.get_or_insert(now);
        }
    }
}

/// Panics unless `bytes` match the pattern at `offset`.
fn compare(bytes: &[u8], offset: u64) {
    let (mut bytes, mut offset) = (bytes, offset);
    while !bytes.is_empty() {
        let expected = pattern(offset, bytes.len() as u64);
        let (head, rest) = bytes.split_at(expected.len());
        assert!(head == expected, "wrong bytes in {offset}..{}", offset + head.len() as u64);
        bytes = rest;
        offset += head.len() as u64;
    }
}
