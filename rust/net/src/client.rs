//! One driver on the daemon's Unix socket: its buffers and what it owns.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
};

use mio::{Registry, Token, event::Event as Ready, net::UnixStream};
use pilot_proto::{
    node::ConnectionId,
    wire::{addr::Port, ipc},
};

use crate::{
    limits::{
        FRAME_OVERHEAD, MAX_ASKED, MAX_ASKED_BYTES, MAX_BACKLOG, MAX_QUEUED_FDS, OUT_MAX, OUT_REQUESTS,
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

/// A connected driver.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    room: Room,
    input: Vec<u8>,
    /// Bytes of `input` that were handled.
    handled: usize,
    is_readable: bool,
    is_writable: bool,
    is_shut: bool,
    /// The program closed its end: nobody reads answers.
    pub(crate) is_gone: bool,
    output: VecDeque<Output>,
    /// Bytes of the first output that were written.
    written: usize,
    output_len: usize,
    queued_fds: usize,
    /// A request without id is being answered; existing drivers expect answers in order.
    pub(crate) is_busy: bool,
    pub(crate) stalled: Option<Stalled>,
    /// Whether it speaks our extension.
    pub(crate) is_extended: bool,
    /// Requests at the control plane, and their bytes with what the answers may take.
    pub(crate) asked: usize,
    pub(crate) asked_bytes: usize,
    /// What the ledger of all drivers says it holds.
    pub(crate) accounted: usize,
    pub(crate) listening: BTreeSet<Port>,
    pub(crate) datagram_ports: BTreeSet<Port>,
    /// Connections whose data passes the socket.
    pub(crate) framed: BTreeSet<ConnectionId>,
    pub(crate) dials: BTreeSet<ConnectionId>,
    /// Streams that were handed over and live.
    pub(crate) streams: usize,
    /// Paths that it forwards.
    pub(crate) forwards: usize,
}

/// What came of reading.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Input {
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
    pub(crate) fn new(stream: UnixStream) -> Self {
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
            accounted: 0,
            listening: BTreeSet::new(),
            datagram_ports: BTreeSet::new(),
            framed: BTreeSet::new(),
            dials: BTreeSet::new(),
            streams: 0,
            forwards: 0,
        }
    }

    /// Takes note of what the poll reports.
    pub(crate) fn on_ready(&mut self, registry: &Registry, event: &Ready) {
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
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, usize> {
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
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Input {
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
    pub(crate) fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > READ_LEN {
            self.input = Vec::new();
        }
    }

    /// Dials and streams that it has.
    pub(crate) fn load(&self) -> usize {
        self.dials.len() + self.framed.len() + self.streams
    }

    /// Bytes waiting to be written.
    pub(crate) fn output_len(&self) -> usize {
        self.output_len
    }

    /// Bytes that the daemon holds for it.
    pub(crate) fn held(&self) -> usize {
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
    pub(crate) fn push(&mut self, frame: Vec<u8>, passenger: Option<Passenger>) {
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
    pub(crate) fn flush(&mut self, registry: &Registry, token: Token) -> Flushed {
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
                Err(error) if crate::limits::is_shortage(&error) => {
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
