//! Frames of drivers: decoding and dispatch.

use std::{os::unix::ffi::OsStrExt, path::Path, time::Duration};

use pilot_proto::{
    config::Algorithm,
    node::{ConnectionId, DialOptions, NodeError},
    transport::CloseReason,
    wire::{
        addr::{Address, Port},
        ipc::{self, Frame, code},
    },
};
use tracing::info;

use super::{
    IoThread,
    dialling::{DIAL_TIMEOUT, DialRequest},
};
use crate::{
    forwards::Target,
    limits::{MAX_HELD, MAX_OUTBOX, OUT_DATAGRAMS},
    ports::Delivery,
    streams::Stage,
    tag::{ClientId, Tag},
};

impl IoThread {
    /// Acts on one frame. `id` names the request when it came wrapped in one.
    pub(super) fn on_frame(&mut self, client: ClientId, id: Option<u32>, body: &[u8]) {
        let tag = Tag { client, id };
        if id.is_none() && body.is_empty() {
            return;
        }
        let frame = match Frame::parse(body) {
            Ok(frame) => frame,
            Err(text) => {
                // Nobody waits for an answer to these two.
                if !matches!(body.first(), Some(&(code::SEND | code::SEND_TO))) {
                    self.begin(tag);
                    self.fail(tag, "invalid_argument", text, "");
                }
                return;
            }
        };
        match frame {
            Frame::Send { conn, data } => self.on_send(tag, ConnectionId(conn), data),
            Frame::SendTo { remote, port, data, is_confirmed } => {
                let result = self.send_datagram(Port(0), remote, port, data);
                match result {
                    Ok(()) if is_confirmed => self.reply(tag, &[code::SEND_TO_OK]),
                    Err((code, text)) if is_confirmed => {
                        self.fail(tag, code, &format!("sendto: {text}"), "");
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Frame::SendFrom { src_port, remote, port, data } => {
                if self.ports.taker(src_port) == Some(client) {
                    let _ = self.send_datagram(src_port, remote, port, data);
                } else {
                    self.refuse_foreign(tag, &format!("datagram port {}", src_port.0));
                }
            }
            Frame::Close { conn } => self.on_close(tag, ConnectionId(conn)),
            Frame::AbortStream { conn } => self.abort_stream(tag, ConnectionId(conn)),
            Frame::Disconnect { conn } => self.disconnect(tag, ConnectionId(conn)),
            Frame::Cancel => self.cancel_dials(client, None),
            Frame::CancelRequest { id } => self.cancel_dials(client, Some(id)),
            Frame::UnbindDatagrams(port) => {
                if !self.ports.unbind_datagrams(&mut self.node, &mut self.clients, client, port) {
                    self.refuse_foreign(tag, &format!("datagram port {}", port.0));
                }
            }
            Frame::Request { id, body } => self.on_wrapped(tag, id, body),
            Frame::Hello => self.on_hello(client),
            Frame::Bind(_)
            | Frame::Dial { .. }
            | Frame::Unbind(_)
            | Frame::Control { .. }
            | Frame::OpenStream { .. }
            | Frame::ListenStreams { .. }
            | Frame::BindDatagrams { .. }
            | Frame::ForwardPath { .. }
            | Frame::Unknown(_) => {
                self.begin(tag);
                self.on_request(tag, frame);
            }
        }
    }

    /// A request whose answer may take time begins. Existing drivers have one at a time.
    fn begin(&mut self, tag: Tag) {
        if tag.id.is_none()
            && let Some(client) = self.clients.get_mut(tag.client)
        {
            client.set_busy(true);
        }
    }

    fn on_request(&mut self, tag: Tag, frame: Frame<'_>) {
        match frame {
            Frame::Bind(port) => match self.listen(tag.client, port, Delivery::Framed) {
                Ok(port) => self.reply(tag, &[&[code::BIND_OK][..], &port.0.to_be_bytes()].concat()),
                Err(error) => self.refuse_port(tag, port, error),
            },
            Frame::Dial { remote, port } => {
                let (options, timeout) = (DialOptions::default(), DIAL_TIMEOUT);
                self.dial(tag, &DialRequest { remote, port, is_framed: true, options, timeout });
            }
            Frame::Unbind(port) => self.on_unbind(tag, port),
            Frame::Control { command, payload } => self.ask(tag, command, payload),
            Frame::OpenStream { id, remote, port, no_delay, congestion, timeout_ms } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                let timeout = match timeout_ms {
                    0 => DIAL_TIMEOUT,
                    ms => Duration::from_millis(u64::from(ms)),
                };
                let options = DialOptions { no_delay, congestion: Algorithm::from_number(congestion) };
                self.dial(tag, &DialRequest { remote, port, is_framed: false, options, timeout });
            }
            Frame::ListenStreams { id, port, path } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                match self.listen(tag.client, port, Delivery::of_path(path)) {
                    Ok(port) => self.answer(tag, code::LISTENING, &port.0.to_be_bytes(), None),
                    Err(error) => self.refuse_port(tag, port, error),
                }
            }
            Frame::BindDatagrams { id, port } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                match self.ports.bind_datagrams(&mut self.node, &mut self.clients, tag.client, port) {
                    Ok(port) => self.answer(tag, code::DATAGRAMS_BOUND, &port.0.to_be_bytes(), None),
                    Err(error) => self.refuse_port(tag, port, error),
                }
            }
            Frame::ForwardPath { id, remote, port, path } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                let path = Path::new(std::ffi::OsStr::from_bytes(path));
                self.forward_path(tag, Target { remote, port }, path);
            }
            Frame::Unknown(command) => {
                self.fail(tag, "unavailable", &format!("unknown command: 0x{command:02X}"), "");
            }
            Frame::Send { .. }
            | Frame::Close { .. }
            | Frame::SendTo { .. }
            | Frame::Cancel
            | Frame::Hello
            | Frame::Request { .. }
            | Frame::SendFrom { .. }
            | Frame::UnbindDatagrams(_)
            | Frame::CancelRequest { .. }
            | Frame::Disconnect { .. }
            | Frame::AbortStream { .. } => {}
        }
    }

    /// Requests of our extension carry their own id and hold up nothing.
    pub(super) fn unbusy(&mut self, tag: Tag) -> Tag {
        if let Some(client) = self.clients.get_mut(tag.client) {
            client.set_busy(false);
        }
        tag
    }

    fn on_hello(&mut self, client_id: ClientId) {
        let greeting = self.greeting.clone();
        if let Some(client) = self.clients.get_mut(client_id) {
            client.extend();
            let version = ipc::VERSION.to_be_bytes();
            let frame = ipc::frame(&[&[code::HELLO_OK], &version, greeting.as_bytes()]);
            self.clients.push(client_id, frame, None);
        }
    }

    /// A request of the old dialect with an id. It holds no further one.
    fn on_wrapped(&mut self, tag: Tag, id: u32, body: &[u8]) {
        let inner = Tag { id: Some(id), ..tag };
        if tag.id.is_some() || body.first() == Some(&code::REQUEST) {
            self.fail(inner, "invalid_argument", "a request within a request", "");
        } else {
            self.on_frame(tag.client, Some(id), body);
        }
    }

    /// A frame is about something of somebody else. Existing drivers expect no answer to most of these.
    fn refuse_foreign(&mut self, tag: Tag, what: &str) {
        self.counters.dropped_foreign += 1;
        if tag.id.is_some() {
            let text = format!("{what} is not this program's");
            self.fail(tag, "permission_denied", &text, "use the session that made it");
        }
    }

    fn on_send(&mut self, tag: Tag, id: ConnectionId, data: &[u8]) {
        let client = self.clients.get(tag.client);
        if client.is_some_and(|client| client.owned().framed.contains(&id)) {
            let (streams, mut around) = self.streams();
            streams.send(&mut around, tag.client, id, data);
        } else if self.streams.stage(id).is_some() {
            self.refuse_foreign(tag, &format!("connection {}", id.0));
        } else if tag.id.is_some() {
            self.fail(tag, "not_found", &format!("connection {} not found", id.0), "");
        }
    }

    /// Existing drivers are told CloseOK of a connection that is unknown, as it may have ended by itself.
    fn on_close(&mut self, tag: Tag, id: ConnectionId) {
        if self.streams.stage(id).is_some() && !self.streams.is_of(tag.client, id) {
            let text = format!("close: connection {} is not this program's", id.0);
            self.counters.dropped_foreign += 1;
            self.fail(tag, "permission_denied", &text, "operators can end it: pilotctl disconnect");
            return;
        }
        self.close_stream(id, tag.client);
        self.reply(tag, &[&[code::CLOSE_OK][..], &id.0.to_be_bytes()].concat());
    }

    fn close_stream(&mut self, id: ConnectionId, client: ClientId) {
        let (streams, mut around) = self.streams();
        streams.close(&mut around, id, client);
    }

    fn abort_stream(&mut self, tag: Tag, id: ConnectionId) {
        if self.streams.is_of(tag.client, id) {
            self.reset_stream(id);
        } else if self.streams.stage(id).is_some() {
            self.refuse_foreign(tag, &format!("connection {}", id.0));
        }
    }

    /// Ends any connection, as operators ask for by `pilotctl disconnect`; no other verb reaches what another
    /// program made.
    fn disconnect(&mut self, tag: Tag, id: ConnectionId) {
        if self.node.connection(id).is_none() {
            let text = format!("there is no connection {}", id.0);
            self.fail(tag, "not_found", &text, "pilotctl connections lists them");
            return;
        }
        info!(client = tag.client, connection = id.0, "disconnected by request");
        match self.streams.stage(id) {
            Some(Stage::Dialling(_)) => {
                self.node.abort(self.now, id);
                self.on_dial_failed(id, CloseReason::Aborted);
            }
            Some(Stage::Forwarding | Stage::Waiting | Stage::InUse(_)) => self.close_stream(id, tag.client),
            None => self.node.close(self.now, id),
        }
        self.reply(tag, &[code::DISCONNECT + 1, b'{', b'}']);
    }

    /// Sends a datagram, unless too many wait for the network.
    fn send_datagram(
        &mut self,
        src_port: Port,
        remote: Address,
        port: Port,
        data: &[u8],
    ) -> Result<(), (&'static str, String)> {
        let result = if self.datagrams.is_blocked() && self.node.outbox_len() >= MAX_OUTBOX {
            Err(("unavailable", "the network does not keep up".to_owned()))
        } else {
            let sent = self.node.send_datagram(self.now, src_port, remote, port, data);
            sent.map_err(|error| match error {
                NodeError::Prohibited => ("permission_denied", error.to_string()),
                NodeError::PortInUse
                | NodeError::PortsExhausted
                | NodeError::NotBound
                | NodeError::TooManyConnections
                | NodeError::TooLarge
                | NodeError::NotUnicast => ("invalid_argument", error.to_string()),
            })
        };
        self.node.counters_mut().dropped_limited += u64::from(result.is_err());
        result
    }

    pub(super) fn on_datagram(&mut self, src: Address, src_port: Port, dst_port: Port, data: &[u8]) {
        let mut payload = src.emit().to_vec();
        payload.extend(src_port.0.to_be_bytes());
        payload.extend(dst_port.0.to_be_bytes());
        let frame = ipc::frame(&[&[code::RECV_FROM], &payload, data]);
        let takers: Vec<ClientId> = match self.ports.taker(dst_port) {
            Some(owner) => vec![owner],
            // Existing drivers expect every datagram and pick theirs.
            None => self.clients.legacy().collect(),
        };
        if takers.is_empty() {
            self.node.counters_mut().dropped_unbound += 1;
        }
        for id in takers {
            let client = self.clients.get(id);
            let has_room = client.is_some_and(|client| client.output_len() < OUT_DATAGRAMS);
            if has_room && self.clients.held() < MAX_HELD / 2 {
                self.clients.push(id, frame.clone(), None);
            } else {
                self.node.counters_mut().dropped_limited += 1;
            }
        }
    }
}
