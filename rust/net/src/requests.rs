//! Frames of drivers and what they set in motion.

use std::{os::unix::ffi::OsStrExt, path::Path, time::Duration};

use pilot_proto::{
    config::Algorithm,
    node::{ConnectionId, DialOptions},
    transport::CloseReason,
    wire::{
        addr::{Address, Port},
        ipc::{self, Frame, code},
    },
};
use tracing::info;

use crate::{
    client::Stalled,
    dial::{DIAL_TIMEOUT, DialRequest},
    driver::{ClientId, Driver},
    handle::Tag,
    limits::{MAX_HELD, MAX_OUTBOX, OUT_DATAGRAMS},
    listen::{self, Delivery},
    stream::{Bridge, Owner},
};

impl Driver {
    /// Acts on one frame. `id` names the request when it came wrapped in one.
    pub(crate) fn on_frame(&mut self, client: ClientId, id: Option<u32>, body: &[u8]) {
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
                if self.datagram_ports.get(&src_port) == Some(&client) {
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
                if self.datagram_ports.get(&port) == Some(&client) {
                    self.datagram_ports.remove(&port);
                    let _ = self.node.unbind_datagrams(port);
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.datagram_ports.remove(&port);
                    }
                } else {
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
            && let Some(client) = self.clients.get_mut(&tag.client)
        {
            client.is_busy = true;
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
                let options = DialOptions { no_delay, congestion: algorithm(congestion) };
                self.dial(tag, &DialRequest { remote, port, is_framed: false, options, timeout });
            }
            Frame::ListenStreams { id, port, path } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                match self.listen(tag.client, port, listen::delivery(path)) {
                    Ok(port) => self.answer(tag, code::LISTENING, &port.0.to_be_bytes(), None),
                    Err(error) => self.refuse_port(tag, port, error),
                }
            }
            Frame::BindDatagrams { id, port } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                match self.bind_datagrams(tag.client, port) {
                    Ok(port) => self.answer(tag, code::DATAGRAMS_BOUND, &port.0.to_be_bytes(), None),
                    Err(error) => self.refuse_port(tag, port, error),
                }
            }
            Frame::ForwardPath { id, remote, port, path } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                self.forward_path(tag, remote, port, Path::new(std::ffi::OsStr::from_bytes(path)));
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
    pub(crate) fn unbusy(&mut self, tag: Tag) -> Tag {
        if let Some(client) = self.clients.get_mut(&tag.client) {
            client.is_busy = false;
        }
        tag
    }

    fn on_hello(&mut self, client: ClientId) {
        let greeting = self.greeting.clone();
        if let Some(client) = self.clients.get_mut(&client) {
            client.is_extended = true;
            let version = ipc::VERSION.to_be_bytes();
            client.push(ipc::frame(&[&[code::HELLO_OK], &version, greeting.as_bytes()]), None);
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

    /// Whether a stream is this driver's.
    fn owns(&self, client: ClientId, id: ConnectionId) -> bool {
        match self.streams.get(&id).map(|stream| &stream.owner) {
            Some(Owner::Bridge(Bridge { client: Some(owner), .. }) | Owner::Framed { client: owner, .. }) => {
                *owner == client
            }
            Some(
                Owner::Bridge(_) | Owner::Dialling(_) | Owner::Forward(_) | Owner::Waiting | Owner::Echo,
            )
            | None => false,
        }
    }

    /// A frame is about something of somebody else. Existing drivers expect no answer to most of these.
    fn refuse_foreign(&mut self, tag: Tag, what: &str) {
        self.local.dropped_foreign += 1;
        if tag.id.is_some() {
            let text = format!("{what} is not this program's");
            self.fail(tag, "permission_denied", &text, "use the session that made it");
        }
    }

    fn on_send(&mut self, tag: Tag, id: ConnectionId, data: &[u8]) {
        let client = tag.client;
        if !self.clients.get(&client).is_some_and(|client| client.framed.contains(&id)) {
            if self.streams.contains_key(&id) {
                self.refuse_foreign(tag, &format!("connection {}", id.0));
            } else if tag.id.is_some() {
                self.fail(tag, "not_found", &format!("connection {} not found", id.0), "");
            }
            return;
        }
        let mut stalled = Stalled { id, data: data.to_vec(), sent: 0 };
        if !self.send_framed(&mut stalled)
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.stalled = Some(stalled);
        }
    }

    /// Existing drivers are told CloseOK of a connection that is unknown, as it may have ended by itself.
    fn on_close(&mut self, tag: Tag, id: ConnectionId) {
        if self.streams.contains_key(&id) && !self.owns(tag.client, id) {
            let text = format!("close: connection {} is not this program's", id.0);
            self.local.dropped_foreign += 1;
            self.fail(tag, "permission_denied", &text, "operators can end it: pilotctl disconnect");
            return;
        }
        self.close_stream(tag.client, id);
        self.reply(tag, &[&[code::CLOSE_OK][..], &id.0.to_be_bytes()].concat());
    }

    /// Finishes a connection. Its reader finds the end of the stream if the program itself asked for it, an
    /// error if somebody else did.
    fn close_stream(&mut self, client: ClientId, id: ConnectionId) {
        let is_own = self.owns(client, id);
        let Some(mut stream) = self.remove_stream(id) else { return };
        if let Owner::Bridge(bridge) = &mut stream.owner
            && is_own
        {
            bridge.finish();
        }
        if let Owner::Framed { client, is_end_told: false } = stream.owner {
            self.push(client, ipc::frame(&[&[code::CLOSE_OK], &id.0.to_be_bytes()]), None);
        }
        self.node.close(self.now, id);
    }

    fn abort_stream(&mut self, tag: Tag, id: ConnectionId) {
        if self.owns(tag.client, id) {
            self.reset_stream(id);
        } else if self.streams.contains_key(&id) {
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
        match self.streams.get(&id).map(|stream| &stream.owner) {
            Some(Owner::Dialling(_)) => {
                self.node.abort(self.now, id);
                self.on_dial_failed(id, CloseReason::Aborted);
            }
            Some(_) => self.close_stream(tag.client, id),
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
        let result = if self.blocked.is_some() && self.node.outbox_len() >= MAX_OUTBOX {
            Err(("unavailable", "the network does not keep up".to_owned()))
        } else {
            let sent = self.node.send_datagram(self.now, src_port, remote, port, data);
            sent.map_err(|error| ("invalid_argument", error.to_string()))
        };
        self.node.counters_mut().dropped_limited += u64::from(result.is_err());
        result
    }

    pub(crate) fn on_datagram(&mut self, src: Address, src_port: Port, dst_port: Port, data: &[u8]) {
        let mut payload = src.emit().to_vec();
        payload.extend(src_port.0.to_be_bytes());
        payload.extend(dst_port.0.to_be_bytes());
        let frame = ipc::frame(&[&[code::RECV_FROM], &payload, data]);
        let owner = self.datagram_ports.get(&dst_port).copied();
        // Existing drivers expect every datagram and pick theirs.
        let legacy = self.clients.iter().filter(|(_, client)| !client.is_extended).map(|(id, _)| *id);
        let takers: Vec<ClientId> = match owner {
            Some(owner) => vec![owner],
            None => legacy.collect(),
        };
        if takers.is_empty() {
            self.node.counters_mut().dropped_unbound += 1;
        }
        for id in takers {
            let client = self.clients.get(&id);
            let has_room = client.is_some_and(|client| client.output_len() < OUT_DATAGRAMS);
            if has_room && self.held < MAX_HELD / 2 {
                self.push(id, frame.clone(), None);
            } else {
                self.node.counters_mut().dropped_limited += 1;
            }
        }
    }
}

/// The congestion controller that a driver names by number.
fn algorithm(code: u8) -> Option<Algorithm> {
    match code {
        1 => Some(Algorithm::Reno),
        2 => Some(Algorithm::Cubic),
        3 => Some(Algorithm::Bbr),
        _ => None,
    }
}
