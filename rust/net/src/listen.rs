//! Ports that drivers listen on, and how the streams to them reach their application.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use mio::{Interest, net::UnixStream};
use pilot_proto::{
    node::{ConnectionId, NodeError},
    time::Instant,
    wire::{
        addr::Port,
        ipc::{self, code},
    },
};
use tracing::debug;

use crate::{
    client::Passenger,
    driver::{ClientId, Driver, Due, Kind, token},
    handle::Tag,
    intake::Intake,
    limits::{self, MAX_PATH_BACKLOG, MAX_PORTS, PATH_PATIENCE},
    stream::{Bridge, Owner, Stream},
};

/// The first and the longest pause before a path whose server was busy is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// How accepted streams reach their application.
pub(crate) enum Delivery {
    /// As framed data.
    Framed,
    /// As a descriptor.
    Descriptor,
    /// By a connection to this path.
    Path(PathBuf),
}

/// A bound stream port.
pub(crate) struct Listener {
    pub(crate) client: ClientId,
    delivery: Delivery,
    /// Streams that wait for the server at the path.
    waiting: VecDeque<ConnectionId>,
    pause: Duration,
    retry_at: Option<Instant>,
}

/// Where ListenStreams has its streams go.
pub(crate) fn delivery(path: &[u8]) -> Delivery {
    match path {
        [] => Delivery::Descriptor,
        path => Delivery::Path(Path::new(std::ffi::OsStr::from_bytes(path)).to_owned()),
    }
}

impl Driver {
    pub(crate) fn listen(
        &mut self,
        client: ClientId,
        port: Port,
        delivery: Delivery,
    ) -> Result<Port, NodeError> {
        if !self.may_bind(client) {
            return Err(NodeError::PortsExhausted);
        }
        let port = self.node.listen(port)?;
        let listener =
            Listener { client, delivery, waiting: VecDeque::new(), pause: MIN_PAUSE, retry_at: None };
        self.listeners.insert(port, listener);
        if let Some(client) = self.clients.get_mut(&client) {
            client.listening.insert(port);
        }
        Ok(port)
    }

    pub(crate) fn bind_datagrams(&mut self, client: ClientId, port: Port) -> Result<Port, NodeError> {
        if !self.may_bind(client) {
            return Err(NodeError::PortsExhausted);
        }
        let port = self.node.bind_datagrams(port)?;
        self.datagram_ports.insert(port, client);
        if let Some(client) = self.clients.get_mut(&client) {
            client.datagram_ports.insert(port);
        }
        Ok(port)
    }

    fn may_bind(&self, client: ClientId) -> bool {
        let client = self.clients.get(&client);
        client.is_some_and(|client| client.listening.len() + client.datagram_ports.len() < MAX_PORTS)
    }

    pub(crate) fn refuse_port(&mut self, tag: Tag, port: Port, error: NodeError) {
        if error == NodeError::PortInUse {
            let text = format!("port {} already bound", port.0);
            self.fail(tag, "already_exists", &text, "choose another port");
        } else {
            self.fail(tag, "unavailable", &error.to_string(), "close some ports");
        }
    }

    pub(crate) fn on_unbind(&mut self, tag: Tag, port: Port) {
        let is_owner = self.listeners.get(&port).is_some_and(|listener| listener.client == tag.client);
        if !is_owner {
            self.fail(tag, "not_found", "unbind: port is not owned by this client", "");
            return;
        }
        self.close_listener(port);
        if let Some(client) = self.clients.get_mut(&tag.client) {
            client.listening.remove(&port);
        }
        self.reply(tag, &[&[code::UNBIND_OK][..], &port.0.to_be_bytes()].concat());
    }

    /// Frees a port; what nobody has taken is reset.
    pub(crate) fn close_listener(&mut self, port: Port) {
        let Some(listener) = self.listeners.remove(&port) else { return };
        let _ = self.node.unlisten(port);
        for id in listener.waiting {
            if matches!(self.streams.get(&id), Some(Stream { owner: Owner::Waiting, .. })) {
                self.reset_stream(id);
            }
        }
    }

    pub(crate) fn on_accepted(&mut self, id: ConnectionId) {
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else { return };
        let Some(listener) = self.listeners.get_mut(&tuple.local_port) else {
            self.on_accepted_by_nobody(id, tuple.local_port);
            return;
        };
        let client_id = listener.client;
        let is_taken = self
            .clients
            .get(&client_id)
            .is_some_and(|client| client.takes_streams() && limits::allows_stream(client.load()));
        if !is_taken {
            self.local.dropped_streams += 1;
            self.node.abort(self.now, id);
            return;
        }
        let mut payload = tuple.local_port.0.to_be_bytes().to_vec();
        payload.extend(id.0.to_be_bytes());
        payload.extend(tuple.remote.emit());
        payload.extend(tuple.remote_port.0.to_be_bytes());
        match listener.delivery {
            Delivery::Framed => {
                self.own_framed(id, client_id);
                self.push(client_id, ipc::frame(&[&[code::ACCEPT], &payload]), None);
                self.pump(id);
            }
            Delivery::Descriptor => {
                if let Some(fd) = self.hand_over(id, client_id) {
                    let passenger = Passenger { fd, stream: id, request: None };
                    let frame = ipc::frame(&[&[code::STREAM_ACCEPTED], &payload]);
                    self.push(client_id, frame, Some(passenger));
                }
            }
            Delivery::Path(_) => self.deliver_to_path(id, tuple.local_port),
        }
    }

    /// The echo service has no driver, and a driver's port may have been freed while the handshake went on.
    fn on_accepted_by_nobody(&mut self, id: ConnectionId, port: Port) {
        if port != crate::driver::ECHO {
            self.node.abort(self.now, id);
            return;
        }
        self.streams.insert(id, Stream::new(Owner::Echo));
        self.pump(id);
    }

    fn deliver_to_path(&mut self, id: ConnectionId, port: Port) {
        let Some(listener) = self.listeners.get_mut(&port) else { return };
        if listener.waiting.len() >= MAX_PATH_BACKLOG {
            self.local.dropped_streams += 1;
            self.node.abort(self.now, id);
            return;
        }
        listener.waiting.push_back(id);
        self.streams.insert(id, Stream::new(Owner::Waiting));
        let is_first = listener.retry_at.is_none();
        self.deadlines.push(Reverse((self.now + PATH_PATIENCE, Due::Stream(id))));
        if is_first {
            self.connect_waiting(port);
        }
    }

    pub(crate) fn retry_path(&mut self, port: Port) {
        let now = self.now;
        if let Some(listener) = self.listeners.get_mut(&port)
            && listener.retry_at.is_some_and(|at| at <= now)
        {
            listener.retry_at = None;
            self.connect_waiting(port);
        }
    }

    /// Connects streams to the server at a port's path, in their order, as long as it takes them. On Linux a
    /// full backlog is `EAGAIN`, and no event tells when it has room (unix(7)).
    fn connect_waiting(&mut self, port: Port) {
        loop {
            let Some(listener) = self.listeners.get_mut(&port) else { return };
            let Some(&id) = listener.waiting.front() else { return };
            let is_waiting = matches!(self.streams.get(&id), Some(Stream { owner: Owner::Waiting, .. }));
            let Delivery::Path(path) = &listener.delivery else { return };
            let connected = if is_waiting { UnixStream::connect(path).map(Some) } else { Ok(None) };
            match connected {
                Ok(socket) => {
                    listener.waiting.pop_front();
                    listener.pause = MIN_PAUSE;
                    match socket {
                        Some(socket) if limits::leaves_reserve(&socket) => self.bridge(id, socket, None, 0),
                        Some(_) => {
                            self.local.dropped_streams += 1;
                            self.reset_stream(id);
                        }
                        None => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || limits::is_shortage(&error) => {
                    let at = self.now + listener.pause;
                    listener.pause = (2 * listener.pause).min(MAX_PAUSE);
                    listener.retry_at = Some(at);
                    self.deadlines.push(Reverse((at, Due::Path(port))));
                    return;
                }
                Err(error) => {
                    debug!("nothing takes streams at {}: {error}", path.display());
                    listener.waiting.pop_front();
                    self.reset_stream(id);
                }
            }
        }
    }

    /// Joins a socket, into which we wrote `left` bytes from its other end, to a connection.
    pub(crate) fn bridge(
        &mut self,
        id: ConnectionId,
        mut socket: UnixStream,
        client: Option<ClientId>,
        left: usize,
    ) {
        let before = self.remove_stream(id);
        let registered =
            self.poll.registry().register(&mut socket, token(Kind::Bridge, id.0), Interest::READABLE);
        if let Err(error) = registered {
            debug!("a stream cannot be handed over: {error}");
            self.local.dropped_streams += 1;
            self.node.abort(self.now, id);
            return;
        }
        let intake = Intake::new(&socket, left);
        // Nobody has the other end of a new pair yet.
        let bridge = Bridge::new(socket, intake, client, left == 0);
        let mut stream = Stream::new(Owner::Bridge(bridge));
        if let Some(before) = before {
            (stream.is_remote_finished, stream.closed) = (before.is_remote_finished, before.closed);
        }
        if let Some(client) = client.and_then(|id| self.clients.get_mut(&id)) {
            client.streams += 1;
        }
        self.streams.insert(id, stream);
        self.pump(id);
    }

    /// A socket pair joined to a connection; the application's end is returned. For want of descriptors the
    /// connection is reset, and nothing else happens.
    pub(crate) fn hand_over(&mut self, id: ConnectionId, client: ClientId) -> Option<OwnedFd> {
        match crate::fd::socket_pair() {
            Ok((ours, theirs)) if limits::leaves_reserve(&theirs) => {
                self.bridge(id, UnixStream::from_std(ours), Some(client), 1);
                return self.streams.contains_key(&id).then_some(theirs);
            }
            Ok(_) => debug!("a stream cannot be handed over: descriptors are left to drivers"),
            Err(error) => debug!("a stream cannot be handed over: {error}"),
        }
        self.local.dropped_streams += 1;
        self.reset_stream(id);
        None
    }

    /// A descriptor did not get to its driver: that stream is lost, the driver goes on.
    pub(crate) fn on_no_passage(&mut self, client: ClientId, passenger: &Passenger) {
        self.local.dropped_streams += 1;
        self.reset_stream(passenger.stream);
        if let Some(id) = passenger.request {
            self.refuse_for_descriptors(Tag { client, id: Some(id) });
        }
    }

    pub(crate) fn refuse_for_descriptors(&mut self, tag: Tag) {
        self.fail(
            tag,
            "unavailable",
            "no descriptor is free",
            "allow the daemon more open files (ulimit -n)",
        );
    }
}
