//! Commands of the control plane, and requests to it.

use pilot_proto::wire::addr::{NetworkId, Port};
use tracing::error;

use super::IoThread;
use crate::{
    answers,
    asked::Refusal,
    clients::Passenger,
    control::{Command, ConnectionRow, PeerRow, Snapshot},
    counters::LocalCounters,
    event::HostEvent,
    limits,
    tag::Tag,
};

impl IoThread {
    pub(super) fn take_commands(&mut self) {
        for _ in 0..limits::TURN_COMMANDS {
            let Ok(command) = self.commands.try_recv() else { return };
            self.on_command(command);
        }
        self.has_more = true;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::SetAddress(address) => self.node.set_address(address),
            Command::SendDatagram { remote, port, data } => {
                if self.node.send_datagram(self.now, Port(0), remote, port, &data).is_err() {
                    self.node.counters_mut().dropped_limited += 1;
                }
            }
            Command::SetBeacons(beacons) => self.node.set_beacons(self.now, beacons),
            Command::Moved => self.node.on_own_address(self.now),
            Command::SetCandidates(named) => self.node.set_candidates(self.now, named),
            Command::Record { node, identity_key, endpoint, candidates } => {
                self.node.on_registry_list(self.now, node, &candidates);
                self.node.on_record(self.now, node, identity_key, endpoint);
            }
            Command::NoRecord { node, why } => {
                self.note_reason(node, why);
                self.node.on_no_record(node);
            }
            Command::Key { node, identity_key } => self.node.on_key(self.now, node, identity_key),
            Command::SetIdentity(seed) => {
                if let Err(error) = self.node.set_identity(&seed) {
                    error!("the identity is refused: {error}");
                }
            }
            Command::SetPrivate(is_private) => self.node.set_private(is_private),
            Command::SetNetworks(networks) => self.node.set_networks(self.now, networks),
            Command::NetworkPolicy { network, ports } => {
                self.node.set_network_policy(self.now, network, ports);
            }
            Command::Admission { caller, is_admitted, ports, lifetime } => {
                if caller.network == NetworkId::BACKBONE {
                    self.node.limit_peer(caller.node, ports);
                }
                self.node.on_admission(self.now, caller, is_admitted, lifetime);
            }
            Command::ExpectCall(node) => self.node.expect_call(self.now, node),
            Command::Dismiss(node) => self.node.dismiss(self.now, node),
            Command::Reply { tag, body } => {
                self.on_answered(tag);
                self.reply(tag, &body);
            }
            Command::Fail { tag, code, message, hint } => {
                self.on_answered(tag);
                self.fail(tag, &code, &message, &hint);
            }
            Command::Snapshot(sender) => {
                let _ = sender.send(self.snapshot());
            }
            Command::Attach(stream) => self.add_client(stream),
            Command::Stop => self.begin_stop(),
            #[cfg(test)]
            Command::Panic => panic!("as asked"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let connections = self.node.connections().map(|(id, connection)| ConnectionRow {
            id: id.0,
            tuple: *connection.tuple(),
            state: connection.state(),
            stats: connection.stats(),
        });
        let peers = self.node.peers().map(|(node, status)| PeerRow {
            node: node.0,
            status,
            loss: self.node.loss_to(node),
        });
        Snapshot {
            stats: self.node.stats(),
            figures: self.node.figures(),
            peers: peers.collect(),
            connections: connections.collect(),
            clients: self.clients.len(),
            local: self.local_counters(),
        }
    }

    /// What happened to local programs.
    pub(super) fn local_counters(&self) -> LocalCounters {
        let dropped_udp = self.datagrams.dropped() + self.counters.dropped_udp;
        LocalCounters { dropped_udp, ..self.counters }
    }

    /// Hands a request to the control plane, or refuses it.
    pub(super) fn ask(&mut self, tag: Tag, command: u8, payload: &[u8]) {
        let Some(client) = self.clients.get_mut(tag.client) else { return };
        match self.asked.begin(tag, command, payload.len(), client.asks_nothing()) {
            Ok(counted) => {
                client.on_asked(counted);
                if self.shared.push(HostEvent::Request { tag, command, payload: payload.to_vec() }) {
                    return;
                }
                self.on_answered(tag);
            }
            Err(Refusal::Full) => {}
            Err(Refusal::Repeated) => {
                let text = format!("request {} is being answered", tag.id.unwrap_or(0));
                self.counters.dropped_requests += 1;
                self.fail(tag, "invalid_argument", &text, "choose another id");
                return;
            }
        }
        self.counters.dropped_requests += 1;
        self.fail(tag, "unavailable", "the daemon is overloaded", "try again later");
    }

    /// The control plane is done with a request.
    pub(super) fn on_answered(&mut self, tag: Tag) {
        let Some(counted) = self.asked.finish(tag) else { return };
        if let Some(client) = self.clients.get_mut(tag.client) {
            client.on_answered(counted);
            self.clients.wake(tag.client);
        }
    }

    /// Answers a request with a frame of its own kind.
    pub(super) fn answer(&mut self, tag: Tag, command: u8, payload: &[u8], passenger: Option<Passenger>) {
        self.clients.push(tag.client, answers::answer(tag.id, command, payload), passenger);
    }

    /// Answers a request with the body of a frame of existing drivers.
    pub(super) fn reply(&mut self, tag: Tag, body: &[u8]) {
        if answers::is_too_long(body) {
            self.fail(tag, "internal", "the answer is too long for a frame", "ask for less");
            return;
        }
        self.end_request(tag);
        self.clients.push(tag.client, answers::reply(tag.id, body), None);
    }

    /// Refuses a request.
    pub(super) fn fail(&mut self, tag: Tag, code: &str, message: &str, hint: &str) {
        self.end_request(tag);
        self.clients.push(tag.client, answers::refusal(tag.id, code, message, hint), None);
    }

    /// A request without id holds up the next one until it is answered.
    fn end_request(&mut self, tag: Tag) {
        if tag.id.is_none()
            && let Some(client) = self.clients.get_mut(tag.client)
        {
            client.set_busy(false);
        }
    }
}
