//! Dials of drivers, and of connections to the paths that they forward.

use std::{io, path::Path, time::Duration};

use mio::net::UnixStream;
use pilot_proto::{
    node::{ConnectionId, DialOptions, NodeError},
    transport::CloseReason,
    wire::{
        addr::{Address, NodeId, Port},
        ipc::code,
    },
};
use tracing::debug;

use super::{IoThread, is_of_one};
use crate::{
    clients::Passenger,
    deadlines::Due,
    forwards::Target,
    limits,
    streams::{Connected, Dial, Stage},
    tag::{ClientId, Tag},
};

/// A dial is answered within this time, before drivers give up by themselves (30 s).
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(25);

/// Nodes whose reason is kept.
const MAX_REASONS: usize = 1024;

/// What a driver wants of a dial.
pub(super) struct DialRequest {
    pub(super) remote: Address,
    pub(super) port: Port,
    pub(super) is_framed: bool,
    pub(super) options: DialOptions,
    pub(super) timeout: Duration,
}

impl IoThread {
    pub(super) fn dial(&mut self, tag: Tag, request: &DialRequest) {
        let Some(client) = self.clients.get(tag.client) else { return };
        if client.is_gone() {
            self.fail(tag, "cancelled", "context canceled", "");
            return;
        }
        if !client.may_dial() {
            self.counters.dropped_requests += 1;
            let text = "dial: this program has too many dials or streams";
            self.fail(tag, "unavailable", text, "wait for dials to be answered, or close some streams");
            return;
        }
        match self.node.connect(self.now, request.remote, request.port, request.options) {
            Ok(id) => {
                let dial = Dial { client: tag.client, request: tag.id, is_framed: request.is_framed };
                self.deadlines.push(self.now + request.timeout, Due::Stream(id));
                let (streams, mut around) = self.streams();
                streams.dial(&mut around, id, dial);
            }
            Err(error @ NodeError::NotUnicast) => {
                self.fail(tag, "invalid_argument", &format!("dial: {error}"), "");
            }
            Err(NodeError::Prohibited) => self.refuse_prohibited(tag),
            Err(error) => self.fail(tag, "unavailable", &format!("dial: {error}"), "close some connections"),
        }
    }

    pub(super) fn on_connected(&mut self, id: ConnectionId) {
        let (streams, mut around) = self.streams();
        match streams.take_connected(&mut around, id) {
            Connected::Dialled(dial) => self.deliver_dialled(id, dial),
            Connected::Forwarded(socket) => {
                streams.join(&mut around, id, socket, None, 0);
            }
            Connected::Unknown => {}
        }
    }

    fn deliver_dialled(&mut self, id: ConnectionId, dial: Dial) {
        let tag = Tag { client: dial.client, id: dial.request };
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else {
            self.fail(tag, "connection_failed", "the connection broke", "dial again");
            return;
        };
        if dial.is_framed {
            let (streams, mut around) = self.streams();
            streams.frame(&mut around, id, dial.client);
            self.reply(tag, &[&[code::DIAL_OK][..], &id.0.to_be_bytes()].concat());
            let (streams, mut around) = self.streams();
            streams.pump(&mut around, id);
            return;
        }
        let Some(fd) = self.hand_over(id, dial.client) else {
            self.refuse_for_descriptors(tag);
            return;
        };
        let mut payload = id.0.to_be_bytes().to_vec();
        payload.extend(tuple.local.emit());
        payload.extend(tuple.local_port.0.to_be_bytes());
        let passenger = Passenger { fd, stream: id, request: tag.id };
        self.answer(tag, code::STREAM_OPENED, &payload, Some(passenger));
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, reason: CloseReason) {
        let (streams, mut around) = self.streams();
        let Some(dial) = streams.take_failed(&mut around, id) else { return };
        let tag = Tag { client: dial.client, id: dial.request };
        let peer = self.node.connection(id).map(|connection| connection.tuple().remote.node);
        match reason {
            CloseReason::Refused | CloseReason::Reset => {
                let hint = "nothing listens on that port: check it, and that the peer's program runs";
                self.fail(tag, "connection_refused", "connection refused", hint);
            }
            CloseReason::Unreachable => self.fail(
                tag,
                "connection_failed",
                &self.unreachable(peer),
                "it is offline, or private: see pilotctl lookup NODE, or ask for its trust with pilotctl \
                 handshake NODE",
            ),
            CloseReason::Prohibited => self.refuse_prohibited(tag),
            CloseReason::Finished
            | CloseReason::Aborted
            | CloseReason::SynTimeout
            | CloseReason::RetransmissionTimeout
            | CloseReason::IdleTimeout
            | CloseReason::PeerRestarted
            | CloseReason::Shutdown => {
                self.fail(
                    tag,
                    "timeout",
                    "dial timeout",
                    "check that the node is online: pilotctl ping NODE",
                );
            }
        }
    }

    /// Keeps what the registry said about a node that it did not tell where to find.
    pub(super) fn note_reason(&mut self, node: NodeId, why: String) {
        if self.reasons.len() >= MAX_REASONS && !self.reasons.contains_key(&node) {
            self.reasons.pop_first();
        }
        self.reasons.insert(node, why);
    }

    fn unreachable(&self, peer: Option<NodeId>) -> String {
        let why = peer.and_then(|node| self.reasons.get(&node)).filter(|why| !why.is_empty());
        why.map_or_else(
            || "the node cannot be reached".to_owned(),
            |why| format!("the node cannot be reached: {why}"),
        )
    }

    fn refuse_prohibited(&mut self, tag: Tag) {
        let hint = "see: pilotctl network policy NETWORK";
        self.fail(tag, "permission_denied", &format!("dial: {}", NodeError::Prohibited), hint);
    }

    /// Gives up what waited for too long.
    pub(super) fn expire_stream(&mut self, id: ConnectionId) {
        match self.streams.stage(id) {
            Some(Stage::Dialling(_)) => {
                self.node.abort(self.now, id);
                self.on_dial_failed(id, CloseReason::SynTimeout);
            }
            Some(Stage::Forwarding) => self.reset_stream(id),
            Some(Stage::Waiting) => {
                let (streams, mut around) = self.streams();
                streams.lose(&mut around, id);
            }
            Some(Stage::InUse(_)) | None => {}
        }
    }

    pub(super) fn cancel_dials(&mut self, client_id: ClientId, request: Option<u32>) {
        let Some(client) = self.clients.get(client_id) else { return };
        for id in client.owned().dials.clone() {
            let Some(Stage::Dialling(dial)) = self.streams.stage(id) else { continue };
            if request.is_some() && request != dial.request {
                continue;
            }
            self.reset_stream(id);
            self.fail(Tag { client: client_id, id: dial.request }, "cancelled", "context canceled", "");
        }
    }

    pub(super) fn forward_path(&mut self, tag: Tag, target: Target, path: &Path) {
        let Some(client) = self.clients.get_mut(tag.client).filter(|client| client.may_forward()) else {
            self.fail(tag, "unavailable", "this program forwards too many paths", "close some");
            return;
        };
        match self.forwards.add(self.poll.registry(), tag.client, target, path) {
            Ok(()) => {
                client.on_forward();
                self.reply(tag, &[]);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let text = format!("{} exists", path.display());
                self.fail(tag, "already_exists", &text, "choose another path or remove it");
            }
            Err(error) if limits::is_shortage(&error) => self.refuse_for_descriptors(tag),
            Err(error) => {
                let hint = "choose a path in a directory that exists and that you may write to";
                self.fail(tag, "invalid_argument", &format!("{}: {error}", path.display()), hint);
            }
        }
    }

    /// Dials on for those who connected to a forwarded path. Returns whether more may wait.
    pub(super) fn accept_forwarded(&mut self, id: u32) -> bool {
        for _ in 0..limits::TURN_ACCEPTS {
            match self.forwards.accept(id) {
                Ok((socket, target)) => self.dial_forwarded(socket, target),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    self.pause_accept(&error);
                    return false;
                }
            }
        }
        true
    }

    fn dial_forwarded(&mut self, socket: UnixStream, target: Target) {
        if !limits::leaves_reserve(&socket) {
            self.counters.dropped_streams += 1;
            return;
        }
        match self.node.connect(self.now, target.remote, target.port, DialOptions::default()) {
            Ok(id) => {
                self.streams.forward(id, socket);
                self.deadlines.push(self.now + DIAL_TIMEOUT, Due::Stream(id));
            }
            Err(error) => {
                debug!("a forwarded connection cannot be dialled on: {error}");
                self.counters.dropped_streams += 1;
            }
        }
    }
}
