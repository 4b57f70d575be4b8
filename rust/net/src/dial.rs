//! Dials of drivers, and of connections to the paths that they forward.

use std::{
    cmp::Reverse,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use mio::{
    Interest,
    net::{UnixListener, UnixStream},
};
use pilot_proto::{
    node::{ConnectionId, DialOptions, NodeError},
    transport::CloseReason,
    wire::{
        addr::{Address, Port},
        ipc::code,
    },
};
use tracing::debug;

use crate::{
    client::Passenger,
    driver::{ClientId, Driver, Due, Kind, is_of_one, token},
    handle::Tag,
    limits::{self, MAX_DIALS, MAX_FORWARDS},
    private_socket,
    stream::{Dial, Owner, Stream},
};

/// A dial is answered within this time, before drivers give up by themselves (30 s).
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(25);

/// A path each of whose connections is dialled on.
pub(crate) struct Forward {
    pub(crate) listener: UnixListener,
    pub(crate) client: ClientId,
    remote: Address,
    port: Port,
    path: PathBuf,
    /// Device and inode of the socket.
    file: (u64, u64),
}

impl Forward {
    /// Removes the socket, but nothing that took its place.
    pub(crate) fn remove_file(&self) {
        if identify(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a socket in the file system.
fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.file_type().is_socket() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// What a driver wants of a dial.
pub(crate) struct DialRequest {
    pub(crate) remote: Address,
    pub(crate) port: Port,
    pub(crate) is_framed: bool,
    pub(crate) options: DialOptions,
    pub(crate) timeout: Duration,
}

impl Driver {
    pub(crate) fn dial(&mut self, tag: Tag, request: &DialRequest) {
        let Some(client) = self.clients.get(&tag.client) else { return };
        if client.dials.len() >= MAX_DIALS || !limits::allows_stream(client.load()) {
            self.local.dropped_requests += 1;
            let text = "dial: this program has too many dials or streams";
            self.fail(tag, "unavailable", text, "wait for dials to be answered, or close some streams");
            return;
        }
        match self.node.connect(self.now, request.remote, request.port, request.options) {
            Ok(id) => {
                let dial = Dial { client: tag.client, tag: tag.id, is_framed: request.is_framed };
                self.streams.insert(id, Stream::new(Owner::Dialling(dial)));
                self.deadlines.push(Reverse((self.now + request.timeout, Due::Stream(id))));
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
            Owner::Forward(socket) => self.bridge(id, socket, None, 0),
            owner @ (Owner::Bridge(_) | Owner::Framed { .. } | Owner::Waiting | Owner::Echo) => {
                self.streams.insert(id, Stream { owner, ..stream });
            }
        }
    }

    fn deliver_dialled(&mut self, id: ConnectionId, dial: &Dial) {
        let tag = Tag { client: dial.client, id: dial.tag };
        let Some(tuple) = self.node.connection(id).map(|connection| *connection.tuple()) else {
            self.fail(tag, "connection_failed", "the connection broke", "dial again");
            return;
        };
        if dial.is_framed {
            self.own_framed(id, dial.client);
            self.reply(tag, &[&[code::DIAL_OK][..], &id.0.to_be_bytes()].concat());
            self.pump(id);
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

    pub(crate) fn own_framed(&mut self, id: ConnectionId, client: ClientId) {
        self.streams.insert(id, Stream::new(Owner::Framed { client, is_end_told: false }));
        if let Some(client) = self.clients.get_mut(&client) {
            client.framed.insert(id);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, id: ConnectionId, reason: CloseReason) {
        self.node.close(self.now, id);
        let Some(Stream { owner: Owner::Dialling(dial), .. }) = self.remove_stream(id) else { return };
        let tag = Tag { client: dial.client, id: dial.tag };
        match reason {
            CloseReason::Refused | CloseReason::Reset => {
                let hint = "nothing listens on that port: check it, and that the peer's program runs";
                self.fail(tag, "connection_refused", "connection refused", hint);
            }
            CloseReason::Unreachable => self.fail(
                tag,
                "connection_failed",
                "the node cannot be reached",
                "it is offline, or private: see pilotctl lookup NODE, or ask for its trust with pilotctl \
                 handshake NODE",
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

    /// Gives up what waited for too long.
    pub(crate) fn expire_stream(&mut self, id: ConnectionId) {
        match self.streams.get(&id).map(|stream| &stream.owner) {
            Some(Owner::Dialling(_)) => {
                self.node.abort(self.now, id);
                self.on_dial_failed(id, CloseReason::SynTimeout);
            }
            Some(Owner::Forward(_)) => self.reset_stream(id),
            Some(Owner::Waiting) => {
                self.local.dropped_streams += 1;
                self.reset_stream(id);
            }
            Some(Owner::Bridge(_) | Owner::Framed { .. } | Owner::Echo) | None => {}
        }
    }

    pub(crate) fn cancel_dials(&mut self, client_id: ClientId, request: Option<u32>) {
        let Some(client) = self.clients.get(&client_id) else { return };
        for id in client.dials.clone() {
            let Some(Stream { owner: Owner::Dialling(dial), .. }) = self.streams.get(&id) else { continue };
            let tag = Tag { client: client_id, id: dial.tag };
            if request.is_some() && request != dial.tag {
                continue;
            }
            self.reset_stream(id);
            self.fail(tag, "cancelled", "context canceled", "");
        }
    }

    pub(crate) fn forward_path(&mut self, tag: Tag, remote: Address, port: Port, path: &Path) {
        if self.clients.get(&tag.client).is_none_or(|client| client.forwards >= MAX_FORWARDS) {
            self.fail(tag, "unavailable", "this program forwards too many paths", "close some");
            return;
        }
        let id = self.next_forward;
        let made = private_socket::listen(path).and_then(|mut listener| {
            let file = identify(path)?;
            self.poll.registry().register(&mut listener, token(Kind::Forward, id), Interest::READABLE)?;
            Ok((listener, file))
        });
        match made {
            Ok((listener, file)) => {
                let client = tag.client;
                let forward = Forward { listener, client, remote, port, path: path.to_owned(), file };
                self.forwards.insert(id, forward);
                self.next_forward = self.next_forward.wrapping_add(1);
                if let Some(client) = self.clients.get_mut(&client) {
                    client.forwards += 1;
                }
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
    pub(crate) fn accept_forwarded(&mut self, id: u32) -> bool {
        for _ in 0..limits::TURN_ACCEPTS {
            let Some(forward) = self.forwards.get(&id) else { return false };
            match forward.listener.accept() {
                Ok((socket, _)) => {
                    let (remote, port) = (forward.remote, forward.port);
                    self.dial_forwarded(socket, remote, port);
                }
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

    fn dial_forwarded(&mut self, socket: UnixStream, remote: Address, port: Port) {
        if !limits::leaves_reserve(&socket) {
            self.local.dropped_streams += 1;
            return;
        }
        match self.node.connect(self.now, remote, port, DialOptions::default()) {
            Ok(id) => {
                self.streams.insert(id, Stream::new(Owner::Forward(socket)));
                self.deadlines.push(Reverse((self.now + DIAL_TIMEOUT, Due::Stream(id))));
            }
            Err(error) => {
                debug!("a forwarded connection cannot be dialled on: {error}");
                self.local.dropped_streams += 1;
            }
        }
    }
}
