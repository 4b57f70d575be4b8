//! The bridge between connections and applications: socket pairs, framed data, echo.

use std::{
    io::{self, IoSlice, Write},
    net::Shutdown,
};

use mio::{Registry, event::Event as Ready, net::UnixStream};
use pilot_proto::{
    node::ConnectionId,
    transport::CloseReason,
    wire::ipc::{self, code},
};

use tracing::debug;

use crate::{
    client::Stalled,
    driver::{ClientId, Driver, Kind, token},
    intake::{Intake, Taken},
    limits::OUT_STREAMS,
    readiness::Room,
};

/// Octets moved at once.
const PUMP_LEN: usize = 256 << 10;
/// Octets of one framed Recv.
const RECV_LEN: usize = 64 << 10;
/// Slices written at once.
const SLICES: usize = 16;

/// A dial that was not answered yet.
pub(crate) struct Dial {
    pub(crate) client: ClientId,
    /// The id of the request; none from existing drivers.
    pub(crate) tag: Option<u32>,
    pub(crate) is_framed: bool,
}

/// One end of a socket pair, or a socket that an application opened to us.
pub(crate) struct Bridge {
    pub(crate) socket: UnixStream,
    room: Room,
    intake: Intake,
    pub(crate) client: Option<ClientId>,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
    /// The application shut its sending direction down; that comes after what is still to be read.
    pub(crate) is_shut: bool,
    /// The application finished sending.
    pub(crate) is_input_over: bool,
    /// The application was told that the peer finished.
    pub(crate) is_output_over: bool,
    /// The application closed its end altogether.
    pub(crate) is_gone: bool,
}

impl Bridge {
    /// Of a registered socket. What `is_readable` does not say, the poll will.
    pub(crate) fn new(
        socket: UnixStream,
        intake: Intake,
        client: Option<ClientId>,
        is_readable: bool,
    ) -> Self {
        Self {
            socket,
            room: Room::default(),
            intake,
            client,
            is_readable,
            is_writable: true,
            is_shut: false,
            is_input_over: false,
            is_output_over: false,
            is_gone: false,
        }
    }

    /// Takes note of what the poll reports.
    pub(crate) fn on_ready(&mut self, registry: &Registry, id: ConnectionId, event: &Ready) {
        self.is_shut |= event.is_read_closed();
        self.is_readable |= event.is_readable() || event.is_read_closed();
        self.room.on_event(registry, &mut self.socket, token(Kind::Bridge, id.0), !self.is_writable);
        self.is_writable |= event.is_writable();
        self.is_gone |= event.is_write_closed() && event.is_read_closed() || event.is_error();
    }

    /// Closing the socket from now on is the end of the stream to its reader, not an error.
    pub(crate) fn finish(&mut self) {
        self.intake.finish(&self.socket);
    }
}

/// Who uses a connection.
pub(crate) enum Owner {
    Dialling(Dial),
    /// Dialled for a connection to a forwarded path.
    Forward(UnixStream),
    /// Waits for the server at a path to take it.
    Waiting,
    Bridge(Bridge),
    Framed {
        client: ClientId,
        is_end_told: bool,
    },
    Echo,
}

/// A connection's application side.
pub(crate) struct Stream {
    pub(crate) owner: Owner,
    pub(crate) is_remote_finished: bool,
    pub(crate) closed: Option<CloseReason>,
}

impl Stream {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, is_remote_finished: false, closed: None }
    }

    /// Whether an application has, or may yet have, more to send.
    pub(crate) fn is_unfinished(&self) -> bool {
        match &self.owner {
            Owner::Bridge(bridge) => !bridge.is_input_over,
            Owner::Framed { .. } | Owner::Waiting => true,
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Echo => false,
        }
    }
}

enum Moved {
    More,
    Blocked,
    End,
    /// The application closed although octets were still to be read by it.
    Reset,
}

impl Driver {
    /// Moves what can be moved for one connection, both ways, and ends what is over.
    pub(crate) fn pump(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get(&id) else { return };
        match stream.owner {
            Owner::Bridge(_) => {
                self.pump_in(id);
                self.pump_out(id);
                self.watch_bridge(id);
                self.finish_bridge(id);
            }
            Owner::Framed { .. } => self.pump_framed(id),
            Owner::Echo => self.pump_echo(id),
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Waiting => {}
        }
    }

    /// Takes a stream out of the table.
    pub(crate) fn remove_stream(&mut self, id: ConnectionId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        match &stream.owner {
            Owner::Bridge(Bridge { client: Some(client), .. }) => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.streams -= 1;
                }
            }
            Owner::Framed { client, .. } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.framed.remove(&id);
                }
            }
            Owner::Dialling(dial) => {
                if let Some(client) = self.clients.get_mut(&dial.client) {
                    client.dials.remove(&id);
                }
            }
            Owner::Bridge(_) | Owner::Forward(_) | Owner::Waiting | Owner::Echo => {}
        }
        Some(stream)
    }

    /// Ends a stream with RST.
    pub(crate) fn reset_stream(&mut self, id: ConnectionId) {
        self.remove_stream(id);
        self.node.abort(self.now, id);
    }

    /// Application to network.
    pub(crate) fn pump_in(&mut self, id: ConnectionId) {
        let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.streams.get_mut(&id) else { return };
        while bridge.is_readable && !bridge.is_input_over {
            let (socket, intake) = (&bridge.socket, &mut bridge.intake);
            let moved = self.node.with_connection(id, |connection| {
                let Ok(room) = connection.send_reserve(PUMP_LEN) else { return Moved::End };
                if room.is_empty() {
                    return Moved::Blocked;
                }
                match intake.read(socket, room) {
                    Ok(Taken { len: 0, .. }) => Moved::End,
                    Ok(taken) => {
                        connection.send_commit(taken.len);
                        // When nothing is left, more makes an event. A shutdown makes one only once.
                        bridge.is_readable = !taken.is_drained || bridge.is_shut;
                        Moved::More
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        bridge.is_readable = false;
                        Moved::Blocked
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::More,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Moved::Reset,
                    Err(_) => Moved::End,
                }
            });
            match moved {
                Some(Moved::More) => {}
                Some(Moved::Blocked) => return,
                Some(Moved::End) | None => {
                    bridge.is_input_over = true;
                    self.node.with_connection(id, |connection| connection.shutdown());
                }
                Some(Moved::Reset) => {
                    // RFC 9293 section 3.6.1: the peer must learn that data was lost.
                    self.reset_stream(id);
                    return;
                }
            }
        }
    }

    /// Network to application.
    fn pump_out(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_last = stream.is_remote_finished || stream.closed.is_some();
        let Owner::Bridge(bridge) = &mut stream.owner else { return };
        while bridge.is_writable && !bridge.is_output_over {
            let socket = &mut bridge.socket;
            let moved = self.node.with_connection(id, |connection| {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let (mut count, mut total) = (0, 0);
                for (slot, octets) in slices.iter_mut().zip(connection.recv_slices()) {
                    *slot = IoSlice::new(octets);
                    count += 1;
                    total += octets.len();
                }
                if total == 0 {
                    return Moved::End;
                }
                match socket.write_vectored(&slices[..count]) {
                    Ok(n) => {
                        connection.recv_consume(n);
                        bridge.is_writable = n == total;
                        Moved::More
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        bridge.is_writable = false;
                        Moved::Blocked
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::More,
                    Err(_) => {
                        bridge.is_gone = true;
                        bridge.is_output_over = true;
                        Moved::Blocked
                    }
                }
            });
            match moved {
                Some(Moved::More) => {}
                Some(Moved::Blocked) => return,
                Some(Moved::End | Moved::Reset) | None => {
                    if is_last {
                        bridge.is_output_over = true;
                        let _ = bridge.socket.shutdown(Shutdown::Write);
                    }
                    return;
                }
            }
        }
    }

    /// Has the poll report room in a socket that is full.
    fn watch_bridge(&mut self, id: ConnectionId) {
        let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.streams.get_mut(&id) else { return };
        if bridge.is_writable || bridge.is_output_over {
            return;
        }
        let token = token(Kind::Bridge, id.0);
        if let Err(error) = bridge.room.watch(self.poll.registry(), &mut bridge.socket, token) {
            debug!("a stream cannot be watched: {error}");
            self.local.dropped_streams += 1;
            self.reset_stream(id);
        }
    }

    /// Ends a bridge both of whose directions are over, or whose application is gone.
    fn finish_bridge(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_closed = stream.closed.is_some();
        let Owner::Bridge(bridge) = &mut stream.owner else { return };
        let is_drained = bridge.is_input_over || is_closed;
        let is_over = is_drained && (bridge.is_output_over || bridge.is_gone);
        if is_over {
            if bridge.is_output_over {
                bridge.finish();
            }
            self.remove_stream(id);
            self.node.close(self.now, id);
        }
    }

    fn pump_framed(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_last = stream.is_remote_finished || stream.closed.is_some();
        let is_closed = stream.closed.is_some();
        let Owner::Framed { client: client_id, is_end_told } = &mut stream.owner else { return };
        let client_id = *client_id;
        let Some(client) = self.clients.get_mut(&client_id) else { return };
        while client.output_len() < OUT_STREAMS {
            let frame = self.node.with_connection(id, |connection| {
                let octets = connection.recv_slices().next()?;
                let len = octets.len().min(RECV_LEN);
                let frame = ipc::frame(&[&[code::RECV], &id.0.to_be_bytes(), &octets[..len]]);
                connection.recv_consume(len);
                Some(frame)
            });
            let Some(Some(frame)) = frame else {
                if is_last && !*is_end_told {
                    *is_end_told = true;
                    client.push(ipc::frame(&[&[code::CLOSE_OK], &id.0.to_be_bytes()]), None);
                }
                break;
            };
            client.push(frame, None);
        }
        if is_closed && *is_end_told {
            self.remove_stream(id);
            self.node.close(self.now, id);
        }
        self.dirty_clients.insert(client_id);
    }

    /// Continues a Send that did not fit, then whatever its driver sent after it.
    pub(crate) fn resume_stalled(&mut self, client_id: ClientId) {
        let Some(client) = self.clients.get_mut(&client_id) else { return };
        let Some(mut stalled) = client.stalled.take() else { return };
        if self.send_framed(&mut stalled) {
            self.dirty_clients.insert(client_id);
        } else if let Some(client) = self.clients.get_mut(&client_id) {
            client.stalled = Some(stalled);
        }
    }

    /// Hands octets to a connection. `false` when some did not fit.
    pub(crate) fn send_framed(&mut self, data: &mut Stalled) -> bool {
        let rest = &data.data[data.sent..];
        let taken = self.node.with_connection(data.id, |connection| connection.send(rest));
        match taken {
            Some(Ok(n)) => {
                data.sent += n;
                data.sent == data.data.len()
            }
            // Existing drivers never learn; the end of the stream was or will be told.
            Some(Err(_)) | None => true,
        }
    }

    fn pump_echo(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let is_last = stream.is_remote_finished;
        let is_closed = stream.closed.is_some();
        let mut scratch = Vec::new();
        self.node.with_connection(id, |connection| {
            loop {
                let capacity = connection.send_capacity();
                scratch.clear();
                for octets in connection.recv_slices() {
                    let room = capacity - scratch.len();
                    scratch.extend_from_slice(&octets[..octets.len().min(room)]);
                }
                if scratch.is_empty() {
                    break;
                }
                connection.recv_consume(scratch.len());
                if connection.send(&scratch).is_err() {
                    break;
                }
            }
            // Ask for an event when there is room again.
            let _ = connection.send_reserve(1);
            if is_last && connection.readable() == 0 {
                connection.shutdown();
            }
        });
        if is_closed {
            self.streams.remove(&id);
            self.node.close(self.now, id);
        }
    }
}
