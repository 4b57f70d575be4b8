//! Frames of drivers and what they set in motion.

use std::{
    cmp::Reverse,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use mio::{
    Interest,
    net::{UnixListener, UnixStream},
};
use pilot_proto::{
    config::Algorithm,
    node::{ConnectionId, DialOptions, NodeError},
    transport::CloseReason,
    wire::{
        addr::{Address, Port},
        ipc::{self, Frame, code},
    },
};
use tracing::debug;

use crate::{
    client::{OUT_SOFT_LIMIT, Stalled},
    driver::{ClientId, Delivery, Driver, Forward, Kind, Listener, token},
    handle::{HostEvent, Tag},
    stream::{Dial, Owner, Stream},
};

/// A dial is answered within this time, before drivers give up by themselves (30 s).
const DIAL_TIMEOUT: Duration = Duration::from_secs(25);

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
            Frame::Send { conn, data } => self.on_send(client, ConnectionId(conn), data),
            Frame::SendTo { remote, port, data, is_confirmed } => {
                let result = self.node.send_datagram(self.now, Port(0), remote, port, data);
                if is_confirmed {
                    match result {
                        Ok(()) => self.reply(tag, &[code::SEND_TO_OK], None),
                        Err(error) => self.fail(tag, "invalid_argument", &format!("sendto: {error}"), ""),
                    }
                }
            }
            Frame::SendFrom { src_port, remote, port, data } => {
                let is_owner = self.datagram_ports.get(&src_port) == Some(&client);
                if is_owner && self.node.send_datagram(self.now, src_port, remote, port, data).is_err() {
                    self.node.counters_mut().dropped_limited += 1;
                }
            }
            Frame::Close { conn } => self.on_close(tag, ConnectionId(conn)),
            Frame::AbortStream { conn } => self.abort_stream(ConnectionId(conn)),
            Frame::Cancel => self.cancel_dials(client, None),
            Frame::CancelRequest { id } => self.cancel_dials(client, Some(id)),
            Frame::UnbindDatagrams(port) => {
                if self.datagram_ports.get(&port) == Some(&client) {
                    self.datagram_ports.remove(&port);
                    let _ = self.node.unbind_datagrams(port);
                }
            }
            Frame::Request { id, body } => self.on_frame(client, Some(id), body),
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
                Ok(port) => self.reply(tag, &[&[code::BIND_OK][..], &port.0.to_be_bytes()].concat(), None),
                Err(error) => self.refuse_port(tag, port, error),
            },
            Frame::Dial { remote, port } => {
                self.dial(tag, remote, port, true, DialOptions::default(), DIAL_TIMEOUT);
            }
            Frame::Unbind(port) => self.on_unbind(tag, port),
            Frame::Control { command, payload } => {
                let event = HostEvent::Request { tag, command, payload: payload.to_vec() };
                if !self.shared.push(event) {
                    self.fail(tag, "unavailable", "the daemon is overloaded", "try again later");
                }
            }
            Frame::OpenStream { id, remote, port, no_delay, congestion, timeout_ms } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                let timeout = match timeout_ms {
                    0 => DIAL_TIMEOUT,
                    ms => Duration::from_millis(u64::from(ms)),
                };
                let options = DialOptions { no_delay, congestion: algorithm(congestion) };
                self.dial(tag, remote, port, false, options, timeout);
            }
            Frame::ListenStreams { id, port, path } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                let delivery = match path {
                    [] => Delivery::Descriptor,
                    path => Delivery::Path(Path::new(std::ffi::OsStr::from_bytes(path)).to_owned()),
                };
                match self.listen(tag.client, port, delivery) {
                    Ok(port) => self.answer(tag, code::LISTENING, &port.0.to_be_bytes(), None),
                    Err(error) => self.refuse_port(tag, port, error),
                }
            }
            Frame::BindDatagrams { id, port } => {
                let tag = Tag { id: Some(id), ..self.unbusy(tag) };
                match self.node.bind_datagrams(port) {
                    Ok(port) => {
                        self.datagram_ports.insert(port, tag.client);
                        if let Some(client) = self.clients.get_mut(&tag.client) {
                            client.datagram_ports.insert(port);
                        }
                        self.answer(tag, code::DATAGRAMS_BOUND, &port.0.to_be_bytes(), None);
                    }
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
            | Frame::AbortStream { .. } => {}
        }
    }

    /// Requests of our extension carry their own id and hold up nothing.
    fn unbusy(&mut self, tag: Tag) -> Tag {
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

    /// Answers a request with a frame of its own kind: the id, then `payload`.
    fn answer(&mut self, tag: Tag, command: u8, payload: &[u8], fd: Option<OwnedFd>) {
        let id = tag.id.unwrap_or(0).to_be_bytes();
        self.push(tag.client, ipc::frame(&[&[command], &id, payload]), fd);
    }

    /// Answers a request with the body of a frame of existing drivers.
    pub(crate) fn reply(&mut self, tag: Tag, body: &[u8], fd: Option<OwnedFd>) {
        match tag.id {
            Some(id) => self.push(tag.client, ipc::frame(&[&[code::REPLY], &id.to_be_bytes(), body]), fd),
            None => {
                self.unbusy(tag);
                self.push(tag.client, ipc::frame(&[body]), fd);
            }
        }
    }

    /// Refuses a request.
    pub(crate) fn fail(&mut self, tag: Tag, code: &str, message: &str, hint: &str) {
        match tag.id {
            Some(id) => {
                let json = format!(
                    r#"{{"code":{},"message":{},"hint":{}}}"#,
                    json_text(code),
                    json_text(message),
                    json_text(hint)
                );
                let id = id.to_be_bytes();
                self.push(tag.client, ipc::frame(&[&[code::FAILURE], &id, json.as_bytes()]), None);
            }
            None => {
                self.unbusy(tag);
                let frame = ipc::frame(&[&[code::ERROR], &1_u16.to_be_bytes(), message.as_bytes()]);
                self.push(tag.client, frame, None);
            }
        }
    }

    fn push(&mut self, client: ClientId, frame: Vec<u8>, fd: Option<OwnedFd>) {
        if let Some(found) = self.clients.get_mut(&client) {
            found.push(frame, fd);
            self.dirty_clients.insert(client);
        }
    }

    fn listen(&mut self, client: ClientId, port: Port, delivery: Delivery) -> Result<Port, NodeError> {
        let port = self.node.listen(port)?;
        self.listeners.insert(port, Listener { client, delivery });
        if let Some(client) = self.clients.get_mut(&client) {
            client.listening.insert(port);
        }
        Ok(port)
    }

    fn refuse_port(&mut self, tag: Tag, port: Port, error: NodeError) {
        if error == NodeError::PortInUse {
            self.fail(
                tag,
                "already_exists",
                &format!("port {} already bound", port.0),
                "choose another port",
            );
        } else {
            self.fail(tag, "unavailable", &error.to_string(), "");
        }
    }

    fn on_unbind(&mut self, tag: Tag, port: Port) {
        let is_owner = self.listeners.get(&port).is_some_and(|listener| listener.client == tag.client);
        if !is_owner {
            self.fail(tag, "not_found", "unbind: port is not owned by this client", "");
            return;
        }
        self.listeners.remove(&port);
        let _ = self.node.unlisten(port);
        if let Some(client) = self.clients.get_mut(&tag.client) {
            client.listening.remove(&port);
        }
        self.reply(tag, &[&[code::UNBIND_OK][..], &port.0.to_be_bytes()].concat(), None);
    }

    fn dial(
        &mut self,
        tag: Tag,
        remote: Address,
        port: Port,
        is_framed: bool,
        options: DialOptions,
        timeout: Duration,
    ) {
        match self.node.connect(self.now, remote, port, options) {
            Ok(id) => {
                let dial = Dial { client: tag.client, tag: tag.id, is_framed };
                self.streams.insert(id, Stream::new(Owner::Dialling(dial)));
                self.deadlines.push(Reverse((self.now + timeout, id)));
                if let Some(client) = self.clients.get_mut(&tag.client) {
                    client.dials.insert(id);
                }
            }
            Err(error @ NodeError::NotUnicast) => {
                self.fail(tag, "invalid_argument", &format!("dial: {error}"), "");
            }
            Err(error) => self.fail(tag, "unavailable", &format!("dial: {error}"), "close some connections"),
        }
    }

    pub(crate) fn on_connected(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        match stream.owner {
            Owner::Dialling(dial) => {
                if let Some(client) = self.clients.get_mut(&dial.client) {
                    client.dials.remove(&id);
                }
                self.deliver_dialled(id, &dial);
            }
            Owner::Forward(socket) => self.bridge(id, socket, None),
            owner @ (Owner::Bridge(_) | Owner::Framed { .. } | Owner::Echo) => {
                self.streams.insert(id, Stream { owner, ..stream });
            }
        }
    }

    fn deliver_dialled(&mut self, id: ConnectionId, dial: &Dial) {
        let tag = Tag { client: dial.client, id: dial.tag };
        if dial.is_framed {
            self.own_framed(id, dial.client);
            self.reply(tag, &[&[code::DIAL_OK][..], &id.0.to_be_bytes()].concat(), None);
            self.pump(id);
            return;
        }
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else { return };
        let Some(fd) = self.hand_over(id, dial.client) else {
            self.fail(tag, "unavailable", "no descriptor is free", "raise the limit of open files");
            return;
        };
        let mut payload = id.0.to_be_bytes().to_vec();
        payload.extend(tuple.local.emit());
        payload.extend(tuple.local_port.0.to_be_bytes());
        self.answer(tag, code::STREAM_OPENED, &payload, Some(fd));
    }

    fn own_framed(&mut self, id: ConnectionId, client: ClientId) {
        self.streams.insert(id, Stream::new(Owner::Framed { client, is_end_told: false }));
        if let Some(client) = self.clients.get_mut(&client) {
            client.framed.insert(id);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, id: ConnectionId, reason: CloseReason) {
        self.node.close(self.now, id);
        let Some(Stream { owner: Owner::Dialling(dial), .. }) = self.streams.remove(&id) else { return };
        if let Some(client) = self.clients.get_mut(&dial.client) {
            client.dials.remove(&id);
        }
        let tag = Tag { client: dial.client, id: dial.tag };
        match reason {
            CloseReason::Refused | CloseReason::Reset => {
                self.fail(tag, "connection_refused", "connection refused", "nothing listens on that port");
            }
            CloseReason::Unreachable => self.fail(
                tag,
                "connection_failed",
                "the node cannot be reached",
                "check that it is registered and online: pilotctl lookup NODE",
            ),
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

    /// Gives up dials whose time is over.
    pub(crate) fn expire_dials(&mut self) {
        while let Some(Reverse((at, id))) = self.deadlines.peek().copied() {
            if at > self.now {
                return;
            }
            self.deadlines.pop();
            match self.streams.get(&id).map(|stream| &stream.owner) {
                Some(Owner::Dialling(_)) => {
                    self.node.abort(self.now, id);
                    self.on_dial_failed(id, CloseReason::SynTimeout);
                }
                Some(Owner::Forward(_)) => {
                    self.streams.remove(&id);
                    self.node.abort(self.now, id);
                }
                Some(Owner::Bridge(_) | Owner::Framed { .. } | Owner::Echo) | None => {}
            }
        }
    }

    fn cancel_dials(&mut self, client_id: ClientId, request: Option<u32>) {
        let Some(client) = self.clients.get(&client_id) else { return };
        for id in client.dials.clone() {
            let Some(Stream { owner: Owner::Dialling(dial), .. }) = self.streams.get(&id) else { continue };
            let tag = Tag { client: client_id, id: dial.tag };
            if request.is_some() && request != dial.tag {
                continue;
            }
            self.streams.remove(&id);
            self.node.abort(self.now, id);
            if let Some(client) = self.clients.get_mut(&client_id) {
                client.dials.remove(&id);
            }
            self.fail(tag, "cancelled", "context canceled", "");
        }
    }

    pub(crate) fn on_accepted(&mut self, id: ConnectionId) {
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else { return };
        let Some(listener) = self.listeners.get(&tuple.local_port) else {
            // The echo service has no driver.
            self.streams.insert(id, Stream::new(Owner::Echo));
            self.pump(id);
            return;
        };
        let client_id = listener.client;
        let is_overrun =
            self.clients.get(&client_id).is_none_or(|client| client.output_len() > 4 * OUT_SOFT_LIMIT);
        if is_overrun {
            self.node.abort(self.now, id);
            return;
        }
        let mut payload = tuple.local_port.0.to_be_bytes().to_vec();
        payload.extend(id.0.to_be_bytes());
        payload.extend(tuple.remote.emit());
        payload.extend(tuple.remote_port.0.to_be_bytes());
        match &listener.delivery {
            Delivery::Framed => {
                self.own_framed(id, client_id);
                self.push(client_id, ipc::frame(&[&[code::ACCEPT], &payload]), None);
                self.pump(id);
            }
            Delivery::Descriptor => {
                if let Some(fd) = self.hand_over(id, client_id) {
                    self.push(client_id, ipc::frame(&[&[code::STREAM_ACCEPTED], &payload]), Some(fd));
                }
            }
            Delivery::Path(path) => match UnixStream::connect(path) {
                Ok(socket) => self.bridge(id, socket, None),
                Err(error) => {
                    debug!("nothing takes streams at {}: {error}", path.display());
                    self.node.abort(self.now, id);
                }
            },
        }
    }

    fn on_send(&mut self, client: ClientId, id: ConnectionId, data: &[u8]) {
        let mut stalled = Stalled { id, data: data.to_vec(), sent: 0 };
        if !self.send_framed(&mut stalled)
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.stalled = Some(stalled);
        }
    }

    fn on_close(&mut self, tag: Tag, id: ConnectionId) {
        if let Some(stream) = self.streams.remove(&id) {
            match stream.owner {
                Owner::Framed { client, is_end_told } => {
                    if let Some(owner) = self.clients.get_mut(&client) {
                        owner.framed.remove(&id);
                    }
                    if !is_end_told {
                        self.push(client, ipc::frame(&[&[code::CLOSE_OK], &id.0.to_be_bytes()]), None);
                    }
                }
                Owner::Bridge(_) | Owner::Echo | Owner::Forward(_) | Owner::Dialling(_) => {}
            }
            self.node.close(self.now, id);
        }
        self.reply(tag, &[&[code::CLOSE_OK][..], &id.0.to_be_bytes()].concat(), None);
    }

    fn abort_stream(&mut self, id: ConnectionId) {
        if self.streams.remove(&id).is_some() {
            self.node.abort(self.now, id);
        }
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
            if self.clients.get(&id).is_some_and(|client| client.output_len() < 4 * OUT_SOFT_LIMIT) {
                self.push(id, frame.clone(), None);
            } else {
                self.node.counters_mut().dropped_limited += 1;
            }
        }
    }

    fn forward_path(&mut self, tag: Tag, remote: Address, port: Port, path: &Path) {
        let made = UnixListener::bind(path).and_then(|mut listener| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            let token = token(Kind::Forward, self.next_forward);
            self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
            Ok(listener)
        });
        match made {
            Ok(listener) => {
                let forward = Forward { listener, client: tag.client, remote, port, path: path.to_owned() };
                self.forwards.insert(self.next_forward, forward);
                self.next_forward = self.next_forward.wrapping_add(1);
                self.reply(tag, &[], None);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let text = format!("{} exists", path.display());
                self.fail(tag, "already_exists", &text, "choose another path or remove it");
            }
            Err(error) => self.fail(tag, "invalid_argument", &format!("{}: {error}", path.display()), ""),
        }
    }

    pub(crate) fn accept_forwarded(&mut self, id: u32) {
        while let Some(forward) = self.forwards.get(&id)
            && let Ok((socket, _)) = forward.listener.accept()
        {
            let (remote, port) = (forward.remote, forward.port);
            if let Ok(id) = self.node.connect(self.now, remote, port, DialOptions::default()) {
                self.streams.insert(id, Stream::new(Owner::Forward(socket)));
                self.deadlines.push(Reverse((self.now + DIAL_TIMEOUT, id)));
            }
        }
    }
}

/// A JSON string.
fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            char if (char as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", char as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
    out
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
