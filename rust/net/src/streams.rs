//! The application's side of every connection, and the transfer of bytes between the two.

mod bridge;
mod framed;

use mio::{Registry, event::Event as Ready, net::UnixStream};
use pilot_proto::{
    node::{ConnectionId, Node},
    time::Instant,
    transport::CloseReason,
};
use rustc_hash::FxHashMap;
use tracing::debug;

use self::bridge::{Bridge, Ending, Pumped};
#[cfg(test)]
pub(crate) use self::framed::RECV_LEN;
use crate::{clients::Clients, counters::LocalCounters, limits::OUT_STREAMS, tag::ClientId};

/// A dial that was not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dial {
    /// Whose it is.
    pub(crate) client: ClientId,
    /// The id of the request; none from existing drivers.
    pub(crate) request: Option<u32>,
    /// Whether its stream is to pass the driver's socket.
    pub(crate) is_framed: bool,
}

/// Who uses a connection.
enum Owner {
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

struct Stream {
    owner: Owner,
    is_remote_finished: bool,
    closed: Option<CloseReason>,
}

impl Stream {
    fn new(owner: Owner) -> Self {
        Self { owner, is_remote_finished: false, closed: None }
    }

    fn ending(&self) -> Ending {
        let is_closed = self.closed.is_some();
        Ending { is_last: self.is_remote_finished || is_closed, is_closed }
    }

    /// Whether nothing more will arrive and its driver, that of a framed stream, was not told.
    fn owes_end(&self) -> bool {
        matches!(self.owner, Owner::Framed { is_end_told: false, .. }) && self.ending().is_last
    }

    /// Whether an application has, or may yet have, more to send.
    fn is_unfinished(&self) -> bool {
        match &self.owner {
            Owner::Bridge(bridge) => bridge.is_unfinished(),
            Owner::Framed { .. } | Owner::Waiting => true,
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Echo => false,
        }
    }
}

/// What stands around the streams.
pub(crate) struct Around<'a> {
    pub(crate) now: Instant,
    pub(crate) node: &'a mut Node,
    pub(crate) clients: &'a mut Clients,
    pub(crate) registry: &'a Registry,
    pub(crate) counters: &'a mut LocalCounters,
}

/// How far a stream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// A driver's dial that was not answered yet.
    Dialling(Dial),
    /// Dialled for a connection to a forwarded path.
    Forwarding,
    /// Waits for the server at a path to take it.
    Waiting,
    /// In use, by this driver if by any.
    InUse(Option<ClientId>),
}

/// A dial that was answered.
pub(crate) enum Connected {
    /// A driver waits for it.
    Dialled(Dial),
    /// A connection to a forwarded path waits for it.
    Forwarded(UnixStream),
    /// Nobody.
    Unknown,
}

/// What is left to do about a connection that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Nothing.
    Done,
    /// A dial failed.
    Dial,
    /// The driver is to be told why, then [`Streams::drop_broken`] is due.
    Broken(ClientId),
}

/// The streams.
#[derive(Default)]
pub(crate) struct Streams(FxHashMap<ConnectionId, Stream>);

impl Streams {
    /// Streams.
    #[cfg(any(test, feature = "harness"))]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How far a stream is.
    pub(crate) fn stage(&self, id: ConnectionId) -> Option<Stage> {
        Some(match &self.0.get(&id)?.owner {
            Owner::Dialling(dial) => Stage::Dialling(*dial),
            Owner::Forward(_) => Stage::Forwarding,
            Owner::Waiting => Stage::Waiting,
            Owner::Bridge(bridge) => Stage::InUse(bridge.client()),
            Owner::Framed { client, .. } => Stage::InUse(Some(*client)),
            Owner::Echo => Stage::InUse(None),
        })
    }

    /// Whether a stream is this driver's.
    pub(crate) fn is_of(&self, client: ClientId, id: ConnectionId) -> bool {
        self.stage(id) == Some(Stage::InUse(Some(client)))
    }

    /// Enters a driver's dial.
    pub(crate) fn dial(&mut self, around: &mut Around<'_>, id: ConnectionId, dial: Dial) {
        self.0.insert(id, Stream::new(Owner::Dialling(dial)));
        if let Some(client) = around.clients.get_mut(dial.client) {
            client.owned_mut().dials.insert(id);
        }
    }

    /// Enters a dial for a connection to a forwarded path.
    pub(crate) fn forward(&mut self, id: ConnectionId, socket: UnixStream) {
        self.0.insert(id, Stream::new(Owner::Forward(socket)));
    }

    /// Takes out a dial that was answered.
    pub(crate) fn take_connected(&mut self, around: &mut Around<'_>, id: ConnectionId) -> Connected {
        let is_dial = matches!(self.stage(id), Some(Stage::Dialling(_) | Stage::Forwarding));
        match is_dial.then(|| self.take(around, id)).flatten().map(|stream| stream.owner) {
            Some(Owner::Dialling(dial)) => Connected::Dialled(dial),
            Some(Owner::Forward(socket)) => Connected::Forwarded(socket),
            Some(Owner::Waiting | Owner::Bridge(_) | Owner::Framed { .. } | Owner::Echo) | None => {
                Connected::Unknown
            }
        }
    }

    /// Takes out a dial that failed, and closes its connection.
    pub(crate) fn take_failed(&mut self, around: &mut Around<'_>, id: ConnectionId) -> Option<Dial> {
        around.node.close(around.now, id);
        match self.take(around, id)?.owner {
            Owner::Dialling(dial) => Some(dial),
            Owner::Forward(_) | Owner::Waiting | Owner::Bridge(_) | Owner::Framed { .. } | Owner::Echo => {
                None
            }
        }
    }

    /// Enters a stream that waits for the server at a path.
    pub(crate) fn wait(&mut self, id: ConnectionId) {
        self.0.insert(id, Stream::new(Owner::Waiting));
    }

    /// Gives a stream to the echo service.
    pub(crate) fn echo(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        self.0.insert(id, Stream::new(Owner::Echo));
        self.pump(around, id);
    }

    /// Lets a stream pass a driver's socket.
    pub(crate) fn frame(&mut self, around: &mut Around<'_>, id: ConnectionId, client: ClientId) {
        self.0.insert(id, Stream::new(Owner::Framed { client, is_end_told: false }));
        if let Some(client) = around.clients.get_mut(client) {
            client.owned_mut().framed.insert(id);
        }
    }

    /// Joins a socket, into which we wrote `left` bytes from its other end, to a connection. `false` if it
    /// is reset instead.
    pub(crate) fn join(
        &mut self,
        around: &mut Around<'_>,
        id: ConnectionId,
        socket: UnixStream,
        client: Option<ClientId>,
        left: usize,
    ) -> bool {
        let before = self.take(around, id);
        let bridge = match Bridge::new(around.registry, id, socket, client, left) {
            Ok(bridge) => bridge,
            Err(error) => {
                debug!("a stream cannot be handed over: {error}");
                around.counters.dropped_streams += 1;
                around.node.abort(around.now, id);
                return false;
            }
        };
        let mut stream = Stream::new(Owner::Bridge(bridge));
        if let Some(before) = before {
            (stream.is_remote_finished, stream.closed) = (before.is_remote_finished, before.closed);
        }
        if let Some(client) = client.and_then(|id| around.clients.get_mut(id)) {
            client.on_stream();
        }
        self.0.insert(id, stream);
        self.pump(around, id);
        self.0.contains_key(&id)
    }

    /// Takes a stream out of the table, and from who owns it.
    fn take(&mut self, around: &mut Around<'_>, id: ConnectionId) -> Option<Stream> {
        let stream = self.0.remove(&id)?;
        let client = match &stream.owner {
            Owner::Bridge(bridge) => bridge.client(),
            Owner::Framed { client, .. } => Some(*client),
            Owner::Dialling(dial) => Some(dial.client),
            Owner::Forward(_) | Owner::Waiting | Owner::Echo => None,
        };
        if let Some(client) = client.and_then(|id| around.clients.get_mut(id)) {
            match &stream.owner {
                Owner::Bridge(_) => client.on_stream_over(),
                Owner::Framed { .. } => drop(client.owned_mut().framed.remove(&id)),
                Owner::Dialling(_) => drop(client.owned_mut().dials.remove(&id)),
                Owner::Forward(_) | Owner::Waiting | Owner::Echo => {}
            }
        }
        Some(stream)
    }

    /// Ends a stream with RST.
    pub(crate) fn reset(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        self.take(around, id);
        around.node.abort(around.now, id);
    }

    /// Resets a stream for want of something of ours.
    pub(crate) fn lose(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        around.counters.dropped_streams += 1;
        self.reset(around, id);
    }

    /// Finishes a stream for `client`. Its reader finds the end of the stream if the program itself asked for
    /// it, an error if somebody else did.
    pub(crate) fn close(&mut self, around: &mut Around<'_>, id: ConnectionId, client: ClientId) {
        let is_own = self.is_of(client, id);
        let Some(stream) = self.take(around, id) else { return };
        match stream.owner {
            Owner::Bridge(mut bridge) if is_own => bridge.finish(),
            Owner::Framed { client, is_end_told: false } => {
                around.clients.push(client, framed::end_frame(id), None);
            }
            Owner::Bridge(_)
            | Owner::Framed { .. }
            | Owner::Dialling(_)
            | Owner::Forward(_)
            | Owner::Waiting
            | Owner::Echo => {}
        }
        around.node.close(around.now, id);
    }

    /// A driver that owned these is gone.
    pub(crate) fn close_all(&mut self, around: &mut Around<'_>, ids: impl IntoIterator<Item = ConnectionId>) {
        for id in ids {
            self.take(around, id);
            around.node.close(around.now, id);
        }
    }

    /// Moves what can be moved for one connection, both ways, and ends what is over.
    pub(crate) fn pump(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        let Some(stream) = self.0.get_mut(&id) else { return };
        let ending = stream.ending();
        let is_over = match &mut stream.owner {
            Owner::Bridge(bridge) => match bridge.pump(around.node, around.registry, ending) {
                Pumped::Open => false,
                Pumped::Over => true,
                Pumped::Reset => return self.reset(around, id),
                Pumped::Lost => return self.lose(around, id),
            },
            Owner::Framed { client, is_end_told } => framed::pump(around, id, *client, is_end_told, ending),
            Owner::Echo => {
                pump_echo(around.node, id, stream.is_remote_finished);
                ending.is_closed
            }
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Waiting => false,
        };
        if is_over {
            self.take(around, id);
            around.node.close(around.now, id);
        }
    }

    /// Takes note of what the poll reports of an application's socket.
    pub(crate) fn on_ready(&mut self, around: &mut Around<'_>, id: ConnectionId, event: &Ready) {
        if let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.0.get_mut(&id) {
            bridge.on_ready(around.registry, event);
            self.pump(around, id);
        }
    }

    /// A connection has room again.
    pub(crate) fn on_writable(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        let Some(stream) = self.0.get(&id) else { return };
        match stream.owner {
            Owner::Bridge(_) | Owner::Echo => self.pump(around, id),
            Owner::Framed { client, .. } => framed::resume_stalled(around, client),
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Waiting => {}
        }
    }

    /// The peer finished.
    pub(crate) fn on_remote_finished(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        if let Some(stream) = self.0.get_mut(&id) {
            stream.is_remote_finished = true;
            self.pump(around, id);
        }
    }

    /// A connection is gone.
    pub(crate) fn on_closed(
        &mut self,
        around: &mut Around<'_>,
        id: ConnectionId,
        reason: CloseReason,
    ) -> Ended {
        let Some(stream) = self.0.get_mut(&id) else {
            // Nobody will close it.
            around.node.close(around.now, id);
            return Ended::Done;
        };
        stream.closed = Some(reason);
        match &mut stream.owner {
            Owner::Bridge(_) | Owner::Echo if reason == CloseReason::Finished => self.pump(around, id),
            Owner::Bridge(bridge) => {
                // Who has read the peer's FIN has read everything; only writing fails from now on.
                if bridge.is_output_over() {
                    bridge.finish();
                } else if let Some(client) = bridge.client() {
                    return Ended::Broken(client);
                }
                self.drop_broken(around, id);
            }
            Owner::Framed { client, .. } => {
                let client = *client;
                self.pump(around, id);
                framed::resume_stalled(around, client);
            }
            Owner::Echo => self.pump(around, id),
            Owner::Dialling(_) => return Ended::Dial,
            // What the peer sent before it finished still goes to the server.
            Owner::Waiting if reason == CloseReason::Finished => {}
            Owner::Forward(_) | Owner::Waiting => self.drop_broken(around, id),
        }
        Ended::Done
    }

    /// Forgets a stream whose connection broke.
    pub(crate) fn drop_broken(&mut self, around: &mut Around<'_>, id: ConnectionId) {
        self.take(around, id);
        around.node.close(around.now, id);
    }

    /// Hands a driver's data to its connection, and keeps what does not fit.
    pub(crate) fn send(&mut self, around: &mut Around<'_>, client: ClientId, id: ConnectionId, data: &[u8]) {
        framed::send(around, client, id, data);
    }

    /// Continues framed streams whose driver was slow to read: with bytes, or with their end.
    pub(crate) fn resume_framed(&mut self, around: &mut Around<'_>, client: ClientId) {
        let Some(client) = around.clients.get(client).filter(|client| client.output_len() < OUT_STREAMS / 2)
        else {
            return;
        };
        let waits = |id: &ConnectionId| {
            let is_end_due = self.0.get(id).is_some_and(Stream::owes_end);
            is_end_due || around.node.connection(*id).is_some_and(|connection| connection.readable() > 0)
        };
        let waiting: Vec<ConnectionId> = client.owned().framed.iter().copied().filter(waits).collect();
        for id in waiting {
            self.pump(around, id);
        }
    }

    /// Streams that are wanted, the oldest first.
    fn ids(&self, is_wanted: impl Fn(&Stream) -> bool) -> Vec<ConnectionId> {
        #[expect(clippy::disallowed_methods, reason = "sorted at once")]
        let wanted = self.0.iter().filter(|(_, stream)| is_wanted(stream));
        let mut ids: Vec<ConnectionId> = wanted.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Finishes every stream whose application did; the process ends.
    pub(crate) fn begin_stop(&mut self, around: &mut Around<'_>) {
        for id in self.ids(|_| true) {
            if let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.0.get_mut(&id)
                && bridge.pump_in(around.node) == Pumped::Reset
            {
                self.reset(around, id);
            }
            if !self.0.get(&id).is_some_and(Stream::is_unfinished) {
                around.node.with_connection(id, |connection| connection.shutdown_at_once());
            }
        }
    }

    /// Breaks the unfinished streams of which nothing is under way any more.
    pub(crate) fn break_unfinished(&mut self, around: &mut Around<'_>) {
        for id in self.ids(Stream::is_unfinished) {
            let undelivered = around.node.with_connection(id, |connection| connection.undelivered());
            if undelivered.is_none_or(|len| len == 0) {
                self.reset(around, id);
            }
        }
    }
}

/// Sends back what arrived.
fn pump_echo(node: &mut Node, id: ConnectionId, is_last: bool) {
    let mut scratch = Vec::new();
    node.with_connection(id, |connection| {
        loop {
            let capacity = connection.send_capacity();
            scratch.clear();
            for bytes in connection.recv_slices() {
                let room = capacity - scratch.len();
                scratch.extend_from_slice(&bytes[..bytes.len().min(room)]);
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
}
