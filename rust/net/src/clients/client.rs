//! One driver on the daemon's Unix socket: its buffers, its requests and what it owns elsewhere.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
};

use mio::{Interest, Registry, Token, event::Event as Ready, net::UnixStream};
use pilot_proto::{
    node::ConnectionId,
    wire::{addr::Port, ipc},
};

use crate::{
    limits::{
        self, FRAME_OVERHEAD, MAX_ASKED, MAX_ASKED_BYTES, MAX_BACKLOG, MAX_DIALS, MAX_FORWARDS, MAX_PORTS,
        MAX_QUEUED_FDS, OUT_MAX, OUT_REQUESTS,
    },
    readiness::Room,
};

/// Bytes read at once.
pub(crate) const READ_LEN: usize = 32 << 10;

/// Data of a framed Send that did not fit its connection.
pub(crate) struct Stalled {
    pub(crate) id: ConnectionId,
    pub(crate) data: Vec<u8>,
    pub(crate) sent: usize,
}

/// A stream's descriptor on its way to a driver.
#[derive(Debug)]
pub(crate) struct Passenger {
    pub(crate) fd: OwnedFd,
    pub(crate) stream: ConnectionId,
    /// The request that it answers.
    pub(crate) request: Option<u32>,
}

/// A frame for a driver.
struct Output {
    frame: Vec<u8>,
    passenger: Option<Passenger>,
}

/// What a driver owns in other tables; each is freed with it.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    /// Ports it listens on.
    pub(crate) listening: BTreeSet<Port>,
    /// Ports whose datagrams it takes.
    pub(crate) datagram_ports: BTreeSet<Port>,
    /// Connections whose data passes the socket.
    pub(crate) framed: BTreeSet<ConnectionId>,
    /// Dials that were not answered yet.
    pub(crate) dials: BTreeSet<ConnectionId>,
}

/// A connected driver.
pub(crate) struct Client {
    stream: UnixStream,
    room: Room,
    input: Vec<u8>,
    /// Bytes of `input` that were handled.
    handled: usize,
    is_readable: bool,
    is_writable: bool,
    is_shut: bool,
    /// The program closed its end: nobody reads answers.
    is_gone: bool,
    output: VecDeque<Output>,
    /// Bytes of the first output that were written.
    written: usize,
    output_len: usize,
    queued_fds: usize,
    /// A request without id is being answered; existing drivers expect answers in order.
    is_busy: bool,
    stalled: Option<Stalled>,
    /// Whether it speaks our extension.
    is_extended: bool,
    /// Requests at the control plane, and their bytes with what the answers may take.
    asked: usize,
    asked_bytes: usize,
    owned: Owned,
    /// Streams that were handed over and live.
    streams: usize,
    /// Paths that it forwards.
    forwards: usize,
}

/// What came of reading.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// There are frames or parts of frames.
    Some,
    /// Nothing for now.
    Nothing,
    /// The driver is gone.
    End,
}

/// What came of writing.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// What the socket takes was written.
    Fine,
    /// The driver is gone or does not read.
    Gone,
    /// This descriptor cannot be handed over for now; its frame was not sent.
    NoPassage(Passenger),
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            room: Room::default(),
            input: Vec::new(),
            handled: 0,
            is_readable: true,
            is_writable: true,
            is_shut: false,
            is_gone: false,
            output: VecDeque::new(),
            written: 0,
            output_len: 0,
            queued_fds: 0,
            is_busy: false,
            stalled: None,
            is_extended: false,
            asked: 0,
            asked_bytes: 0,
            owned: Owned::default(),
            streams: 0,
            forwards: 0,
        }
    }

    /// Starts to be told of what the driver sends.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE)
    }

    /// Takes the driver out of the poll, and tells what it owned.
    pub(super) fn end(mut self, registry: &Registry) -> Owned {
        let _ = registry.deregister(&mut self.stream);
        self.owned
    }

    /// Whether it speaks our extension.
    pub(crate) fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// It said Hello.
    pub(crate) fn extend(&mut self) {
        self.is_extended = true;
    }

    /// Whether the program closed its end.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Says whether a request without id is being answered.
    pub(crate) fn set_busy(&mut self, is_busy: bool) {
        self.is_busy = is_busy;
    }

    /// The program is gone, and with it the dial that its request without id waited for. One at the
    /// control plane is answered in any case.
    pub(crate) fn on_dials_gone(&mut self) {
        self.is_busy &= self.asked > 0;
    }

    /// Whether it has no request at the control plane.
    pub(crate) fn asks_nothing(&self) -> bool {
        self.asked == 0
    }

    /// A request of `bytes` with its answer is at the control plane.
    pub(crate) fn on_asked(&mut self, bytes: usize) {
        self.asked += 1;
        self.asked_bytes += bytes;
    }

    /// Such a request is answered.
    pub(crate) fn on_answered(&mut self, bytes: usize) {
        self.asked -= 1;
        self.asked_bytes -= bytes;
    }

    /// Keeps data that did not fit its connection; nothing else is taken of the driver meanwhile.
    pub(crate) fn stall(&mut self, stalled: Stalled) {
        self.stalled = Some(stalled);
    }

    /// The data that did not fit.
    pub(crate) fn take_stalled(&mut self) -> Option<Stalled> {
        self.stalled.take()
    }

    /// What it owns.
    pub(crate) fn owned(&self) -> &Owned {
        &self.owned
    }

    /// What it owns, to be changed by the table that has it.
    pub(crate) fn owned_mut(&mut self) -> &mut Owned {
        &mut self.owned
    }

    /// Whether it may dial once more.
    pub(crate) fn may_dial(&self) -> bool {
        self.owned.dials.len() < MAX_DIALS && self.may_stream()
    }

    /// Whether it may have one more stream.
    pub(crate) fn may_stream(&self) -> bool {
        limits::allows_stream(self.owned.dials.len() + self.owned.framed.len() + self.streams)
    }

    /// Whether it may bind one more port.
    pub(crate) fn may_bind(&self) -> bool {
        self.owned.listening.len() + self.owned.datagram_ports.len() < MAX_PORTS
    }

    /// Whether it may forward one more path.
    pub(crate) fn may_forward(&self) -> bool {
        self.forwards < MAX_FORWARDS
    }

    /// It forwards one more path.
    pub(crate) fn on_forward(&mut self) {
        self.forwards += 1;
    }

    /// A stream was handed over to it.
    pub(crate) fn on_stream(&mut self) {
        self.streams += 1;
    }

    /// Such a stream is over.
    pub(crate) fn on_stream_over(&mut self) {
        self.streams -= 1;
    }

    /// Takes note of what the poll reports.
    pub(super) fn on_ready(&mut self, registry: &Registry, event: &Ready) {
        self.is_shut |= event.is_read_closed() || event.is_error();
        self.is_readable |= event.is_readable() || self.is_shut;
        self.room.on_event(registry, &mut self.stream, event.token(), !self.is_writable);
        self.is_writable |= event.is_writable();
        if event.is_read_closed() && event.is_write_closed() {
            self.is_gone = true;
            self.discard_output();
        }
    }

    /// Whether a further frame may be taken.
    pub(crate) fn may_proceed(&self) -> bool {
        let reads_answers = self.output_len < OUT_REQUESTS
            && self.queued_fds < MAX_QUEUED_FDS
            && self.asked < MAX_ASKED
            && self.asked_bytes < MAX_ASKED_BYTES;
        self.stalled.is_none() && !self.is_busy && (self.is_gone || reads_answers)
    }

    /// The body of the next frame that was read completely.
    ///
    /// # Errors
    /// The stated length, when it is over the limit.
    pub(super) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, usize> {
        let Some((body, taken)) = ipc::split(&self.input[self.handled..])? else {
            self.input.drain(..self.handled);
            self.handled = 0;
            return Ok(None);
        };
        let body = body.to_vec();
        self.handled += taken;
        Ok(Some(body))
    }

    /// Reads once.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> Input {
        if !self.is_readable {
            return Input::Nothing;
        }
        match self.stream.read(scratch) {
            Ok(0) => Input::End,
            Ok(n) => {
                self.is_readable = n == scratch.len() || self.is_shut;
                self.input.extend_from_slice(&scratch[..n]);
                Input::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_readable = false;
                Input::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Input::Some,
            Err(_) => Input::End,
        }
    }

    /// Gives memory back that a large frame took.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > READ_LEN {
            self.input = Vec::new();
        }
    }

    /// Bytes waiting to be written.
    pub(crate) fn output_len(&self) -> usize {
        self.output_len
    }

    /// Bytes that the daemon holds for it.
    pub(super) fn held(&self) -> usize {
        self.input.capacity()
            + self.output_len
            + self.stalled.as_ref().map_or(0, |stalled| stalled.data.len())
    }

    /// Whether it takes the streams that it is given. Beside those queued here, the socket holds some
    /// hundred, as its buffer allows.
    pub(crate) fn takes_streams(&self) -> bool {
        self.queued_fds < MAX_BACKLOG && self.output_len < OUT_REQUESTS
    }

    /// Queues a frame and a descriptor that goes with it.
    pub(super) fn push(&mut self, frame: Vec<u8>, passenger: Option<Passenger>) {
        if self.is_gone {
            return;
        }
        self.output_len += frame.len() + FRAME_OVERHEAD;
        self.queued_fds += usize::from(passenger.is_some());
        self.output.push_back(Output { frame, passenger });
    }

    fn discard_output(&mut self) {
        self.output = VecDeque::new();
        (self.written, self.output_len, self.queued_fds) = (0, 0, 0);
    }

    fn pop_output(&mut self) {
        if let Some(output) = self.output.pop_front() {
            self.output_len -= output.frame.len() + FRAME_OVERHEAD;
            self.queued_fds -= usize::from(output.passenger.is_some());
        }
        self.written = 0;
        if self.output.is_empty() && self.output.capacity() > MAX_BACKLOG {
            self.output = VecDeque::new();
        }
    }

    /// Writes what the socket takes; when that is not all, the poll reports room under `token`.
    pub(super) fn flush(&mut self, registry: &Registry, token: Token) -> Flushed {
        while self.is_writable
            && let Some(Output { frame, passenger }) = self.output.front_mut()
        {
            let fd = passenger.as_ref().map(|passenger| &passenger.fd);
            match crate::fd::send(self.stream.as_raw_fd(), &frame[self.written..], fd) {
                Ok(n) => {
                    if passenger.take().is_some() {
                        self.queued_fds -= 1;
                    }
                    self.written += n;
                    if self.written == frame.len() {
                        self.pop_output();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_writable = false;
                    if self.room.watch(registry, &mut self.stream, token).is_err() {
                        return Flushed::Gone;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if limits::is_shortage(&error) => {
                    // Too many descriptors are on their way (unix(7)); memory comes back.
                    let Some(passenger) = passenger.take() else { return Flushed::Gone };
                    self.queued_fds -= 1;
                    self.pop_output();
                    return Flushed::NoPassage(passenger);
                }
                Err(_) => return Flushed::Gone,
            }
        }
        if self.output_len > OUT_MAX { Flushed::Gone } else { Flushed::Fine }
    }
}
