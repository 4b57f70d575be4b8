//! Bulk transfers and their two programs: one writes what the pattern says, the other compares what it reads.

use pilot_proto::{
    node::{ConnectionId, DialOptions, Event, NodeError},
    wire::addr::Port,
};

use super::{HostId, World};
use crate::flow::{Flow, FlowId, pattern};

/// The port on which every host accepts transfers.
pub(super) const FLOW_PORT: Port = Port(80);

impl World {
    /// Dials from one host to another and sends `total` bytes; with `is_echo` they come back.
    ///
    /// # Errors
    /// [`NodeError`] at the node's limits.
    pub fn start_flow(
        &mut self,
        from: HostId,
        to: HostId,
        total: u64,
        options: DialOptions,
        is_echo: bool,
    ) -> Result<FlowId, NodeError> {
        let address = self.address(to);
        let sender = self.hosts[from].node.connect(self.now, address, FLOW_PORT, options)?;
        let id = FlowId(self.flows.len());
        self.flows.push(Flow {
            from,
            to,
            total,
            sent: 0,
            received: 0,
            started: self.now,
            connected: None,
            finished: None,
            closed: None,
            is_reading: true,
            stats: Default::default(),
            is_orphan: false,
            sender,
            receiver: None,
            is_echo,
            echoed: 0,
            returned: 0,
        });
        self.senders.insert((from, sender), id);
        Ok(id)
    }

    /// A transfer.
    pub fn flow(&self, id: FlowId) -> &Flow {
        &self.flows[id.0]
    }

    /// The `n`th transfer, from 0.
    pub fn nth_flow(&self, n: usize) -> Option<FlowId> {
        (n < self.flows.len()).then_some(FlowId(n))
    }

    /// All transfers.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Resets a transfer's connection from the sender's side.
    pub fn abort(&mut self, id: FlowId) {
        let flow = &self.flows[id.0];
        if !flow.is_orphan {
            self.hosts[flow.from].node.abort(self.now, flow.sender);
        }
    }

    /// Writes `bytes` more, unless the connection is closed.
    pub fn append(&mut self, id: FlowId, bytes: u64) {
        let flow = &mut self.flows[id.0];
        if flow.closed.is_none() && !flow.is_orphan {
            flow.total += bytes;
            flow.finished = None;
            self.pump_sender(id);
        }
    }

    /// Stops writing: FIN follows the data written so far. Receiving goes on.
    pub fn finish(&mut self, id: FlowId) {
        let flow = &mut self.flows[id.0];
        if flow.sent == 0 || flow.closed.is_some() || flow.is_orphan {
            return;
        }
        flow.total = flow.sent;
        let is_done = flow.received == flow.total && !flow.is_echo || flow.returned == flow.total;
        let node = &mut self.hosts[flow.from].node;
        node.with_connection(flow.sender, |connection| connection.shutdown());
        if is_done {
            flow.finished.get_or_insert(self.now);
        }
    }

    /// Makes a transfer's receiver start or stop reading.
    pub fn set_reading(&mut self, id: FlowId, is_reading: bool) {
        self.flows[id.0].is_reading = is_reading;
        if is_reading {
            self.pump_receiver(id);
        }
    }

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
