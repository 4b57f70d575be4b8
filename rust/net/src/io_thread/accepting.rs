//! Accepted streams and their delivery to applications.

use std::{io, os::fd::OwnedFd};

use mio::net::UnixStream;
use pilot_proto::{
    node::{ConnectionId, NodeError},
    transport::FourTuple,
    wire::{
        addr::Port,
        ipc::{self, code},
    },
};
use tracing::debug;

use super::{ECHO, IoThread};
use crate::{
    clients::Passenger,
    deadlines::Due,
    limits::{self, PATH_PATIENCE},
    ports::{Delivery, Queued},
    streams::Stage,
    tag::{ClientId, Tag},
};

impl IoThread {
    pub(super) fn listen(
        &mut self,
        client: ClientId,
        port: Port,
        delivery: Delivery,
    ) -> Result<Port, NodeError> {
        self.ports.listen(&mut self.node, &mut self.clients, client, port, delivery)
    }

    pub(super) fn refuse_port(&mut self, tag: Tag, port: Port, error: NodeError) {
        if error == NodeError::PortInUse {
            let text = format!("port {} already bound", port.0);
            self.fail(tag, "already_exists", &text, "choose another port");
        } else {
            self.fail(tag, "unavailable", &error.to_string(), "close some ports");
        }
    }

    pub(super) fn on_unbind(&mut self, tag: Tag, port: Port) {
        let freed = self.ports.unlisten(&mut self.node, &mut self.clients, tag.client, port);
        let Some(waiting) = freed else {
            self.fail(tag, "not_found", "unbind: port is not owned by this client", "");
            return;
        };
        for id in waiting {
            self.reset_waiting(id);
        }
        self.reply(tag, &[&[code::UNBIND_OK][..], &port.0.to_be_bytes()].concat());
    }

    /// The port of a stream was freed; nobody will take it.
    pub(super) fn reset_waiting(&mut self, id: ConnectionId) {
        if self.streams.stage(id) == Some(Stage::Waiting) {
            self.reset_stream(id);
        }
    }

    pub(super) fn on_accepted(&mut self, id: ConnectionId) {
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else { return };
        let Some((client_id, delivery)) = self.ports.listener(tuple.local_port) else {
            self.on_accepted_by_nobody(id, tuple.local_port);
            return;
        };
        let client = self.clients.get(client_id);
        if !client.is_some_and(|client| client.takes_streams() && client.may_stream()) {
            self.counters.dropped_streams += 1;
            self.node.abort(self.now, id);
            return;
        }
        match delivery {
            Delivery::Framed => self.deliver_framed(id, client_id, &tuple),
            Delivery::Descriptor => self.deliver_descriptor(id, client_id, &tuple),
            Delivery::Path(_) => self.deliver_to_path(id, tuple.local_port),
        }
    }

    /// The echo service has no driver, and a driver's port may have been freed while the handshake went on.
    fn on_accepted_by_nobody(&mut self, id: ConnectionId, port: Port) {
        if port == ECHO {
            let (streams, mut around) = self.streams();
            streams.echo(&mut around, id);
        } else {
            self.node.abort(self.now, id);
        }
    }

    fn deliver_framed(&mut self, id: ConnectionId, client: ClientId, tuple: &FourTuple) {
        let frame = ipc::frame(&[&[code::ACCEPT], &accepted(id, tuple)]);
        let (streams, mut around) = self.streams();
        streams.frame(&mut around, id, client);
        around.clients.push(client, frame, None);
        streams.pump(&mut around, id);
    }

    fn deliver_descriptor(&mut self, id: ConnectionId, client: ClientId, tuple: &FourTuple) {
        if let Some(fd) = self.hand_over(id, client) {
            let passenger = Passenger { fd, stream: id, request: None };
            let frame = ipc::frame(&[&[code::STREAM_ACCEPTED], &accepted(id, tuple)]);
            self.clients.push(client, frame, Some(passenger));
        }
    }

    fn deliver_to_path(&mut self, id: ConnectionId, port: Port) {
        let queued = self.ports.queue(port, id);
        if queued == Queued::Full {
            self.counters.dropped_streams += 1;
            self.node.abort(self.now, id);
            return;
        }
        self.streams.wait(id);
        self.deadlines.push(self.now + PATH_PATIENCE, Due::Stream(id));
        if queued == Queued::First {
            self.connect_waiting(port);
        }
    }

    pub(super) fn retry_path(&mut self, port: Port) {
        if self.ports.take_retry(self.now, port) {
            self.connect_waiting(port);
        }
    }

    /// Connects streams to the server at a port's path, in their order, as long as it takes them. On Linux a
    /// full backlog is `EAGAIN`, and no event tells when it has room (unix(7)).
    fn connect_waiting(&mut self, port: Port) {
        while let Some((id, path)) = self.ports.first_waiting(port) {
            if self.streams.stage(id) != Some(Stage::Waiting) {
                self.ports.pop_waiting(port, true);
                continue;
            }
            match UnixStream::connect(path) {
                Ok(socket) => {
                    self.ports.pop_waiting(port, true);
                    let (streams, mut around) = self.streams();
                    if limits::leaves_reserve(&socket) {
                        streams.join(&mut around, id, socket, None, 0);
                    } else {
                        streams.lose(&mut around, id);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || limits::is_shortage(&error) => {
                    if let Some(at) = self.ports.pause(self.now, port) {
                        self.deadlines.push(at, Due::Path(port));
                    }
                    return;
                }
                Err(error) => {
                    debug!("nothing takes streams at {}: {error}", path.display());
                    self.ports.pop_waiting(port, false);
                    self.reset_stream(id);
                }
            }
        }
    }

    /// A socket pair joined to a connection; the application's end is returned. For want of descriptors the
    /// connection is reset, and nothing else happens.
    pub(super) fn hand_over(&mut self, id: ConnectionId, client: ClientId) -> Option<OwnedFd> {
        let (streams, mut around) = self.streams();
        match crate::fd::socket_pair() {
            Ok((ours, theirs)) if limits::leaves_reserve(&theirs) => {
                let ours = UnixStream::from_std(ours);
                return streams.join(&mut around, id, ours, Some(client), 1).then_some(theirs);
            }
            Ok(_) => debug!("a stream cannot be handed over: descriptors are left to drivers"),
            Err(error) => debug!("a stream cannot be handed over: {error}"),
        }
        streams.lose(&mut around, id);
        None
    }

    pub(super) fn refuse_for_descriptors(&mut self, tag: Tag) {
        self.fail(
            tag,
            "unavailable",
            "no descriptor is free",
            "allow the daemon more open files (ulimit -n)",
        );
    }
}

/// What a driver is told of a stream to one of its ports.
fn accepted(id: ConnectionId, tuple: &FourTuple) -> Vec<u8> {
    let mut payload = tuple.local_port.0.to_be_bytes().to_vec();
    payload.extend(id.0.to_be_bytes());
    payload.extend(tuple.remote.emit());
    payload.extend(tuple.remote_port.0.to_be_bytes());
    payload
}
