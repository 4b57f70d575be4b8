//! One driver on the daemon's Unix socket: its buffers and what it owns.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
};

use mio::net::UnixStream;
use pilot_proto::{
    node::ConnectionId,
    wire::{addr::Port, ipc},
};

/// Octets waiting for a driver above which stream data waits in its connection.
pub(crate) const OUT_SOFT_LIMIT: usize = 1 << 20;
/// Octets waiting for a driver above which the driver is dropped: it does not read.
const OUT_HARD_LIMIT: usize = 32 << 20;
/// Octets read at once.
const READ_LEN: usize = 32 << 10;

/// Data of a framed Send that did not fit its connection.
pub(crate) struct Stalled {
    pub(crate) id: ConnectionId,
    pub(crate) data: Vec<u8>,
    pub(crate) sent: usize,
}

/// A connected driver.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    input: Vec<u8>,
    /// Octets of `input` that were handled.
    handled: usize,
    is_readable: bool,
    is_writable: bool,
    is_shut: bool,
    output: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// Octets of the first output that were written.
    written: usize,
    output_len: usize,
    /// A request without id is being answered; existing drivers expect answers in order.
    pub(crate) is_busy: bool,
    pub(crate) stalled: Option<Stalled>,
    /// Whether it speaks our extension.
    pub(crate) is_extended: bool,
    pub(crate) listening: BTreeSet<Port>,
    pub(crate) datagram_ports: BTreeSet<Port>,
    /// Connections whose data passes the socket.
    pub(crate) framed: BTreeSet<ConnectionId>,
    pub(crate) dials: BTreeSet<ConnectionId>,
}

/// What came of reading.
pub(crate) enum Input {
    /// There are frames or parts of frames.
    Some,
    /// Nothing for now.
    Nothing,
    /// The driver is gone.
    End,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            handled: 0,
            is_readable: true,
            is_writable: true,
            is_shut: false,
            output: VecDeque::new(),
            written: 0,
            output_len: 0,
            is_busy: false,
            stalled: None,
            is_extended: false,
            listening: BTreeSet::new(),
            datagram_ports: BTreeSet::new(),
            framed: BTreeSet::new(),
            dials: BTreeSet::new(),
        }
    }

    pub(crate) fn on_ready(&mut self, is_readable: bool, is_writable: bool, is_shut: bool) {
        self.is_shut |= is_shut;
        self.is_readable |= is_readable || is_shut;
        self.is_writable |= is_writable;
    }

    /// Whether a further frame may be taken.
    pub(crate) fn may_proceed(&self) -> bool {
        !self.is_busy && self.stalled.is_none()
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
    pub(crate) fn read(&mut self) -> Input {
        if !self.is_readable {
            return Input::Nothing;
        }
        let len = self.input.len();
        self.input.resize(len + READ_LEN, 0);
        let result = self.stream.read(&mut self.input[len..]);
        self.input.truncate(len + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Input::End,
            Ok(n) => {
                self.is_readable = n == READ_LEN || self.is_shut;
                if self.input.capacity() > 2 * READ_LEN && self.input.len() < READ_LEN / 4 {
                    self.input.shrink_to(READ_LEN / 4);
                }
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

    /// Octets waiting to be written.
    pub(crate) fn output_len(&self) -> usize {
        self.output_len
    }

    /// Queues a frame and a descriptor that goes with it.
    pub(crate) fn push(&mut self, frame: Vec<u8>, fd: Option<OwnedFd>) {
        self.output_len += frame.len();
        self.output.push_back((frame, fd));
    }

    /// Writes what the socket takes. `false` means that the driver is gone or does not read.
    pub(crate) fn flush(&mut self) -> bool {
        while self.is_writable
            && let Some((frame, fd)) = self.output.front_mut()
        {
            match crate::fd::send(self.stream.as_raw_fd(), &frame[self.written..], fd.as_ref()) {
                Ok(n) => {
                    *fd = None;
                    self.written += n;
                    if self.written == frame.len() {
                        self.output_len -= self.written;
                        self.written = 0;
                        self.output.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output_len <= OUT_HARD_LIMIT
    }
}
