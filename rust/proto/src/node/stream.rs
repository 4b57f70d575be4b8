//! The application's side of a connection: what a driver may do with it. Segments, timers and states
//! are the node's.

use crate::transport::{Connection, RecvError, SendError, Stats};

/// A connection as its application sees it, while [`Node::with_connection`](super::Node::with_connection)
/// lends it.
#[derive(Debug)]
pub struct Stream<'a>(pub(super) &'a mut Connection);

impl Stream<'_> {
    /// Bytes that [`Self::send`] would take now.
    pub fn send_capacity(&self) -> usize {
        self.0.send_capacity()
    }

    /// Queues bytes and returns how many were taken; 0 means full, and a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        self.0.send(bytes)
    }

    /// Room for 1 to `max` bytes in the send queue, to be filled and kept by [`Self::send_commit`];
    /// empty when there is none, and a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_reserve(&mut self, max: usize) -> Result<&mut [u8], SendError> {
        self.0.send_reserve(max)
    }

    /// Keeps the first `n` bytes of the last [`Self::send_reserve`].
    pub fn send_commit(&mut self, n: usize) {
        self.0.send_commit(n);
    }

    /// Bytes that were written and that the peer has not acknowledged, sent or not.
    pub fn undelivered(&self) -> usize {
        self.0.undelivered()
    }

    /// Finishes sending: FIN follows what is queued. Reading goes on.
    pub fn shutdown(&mut self) {
        self.0.shutdown();
    }

    /// The same, without waiting for an old peer to finish first: the process ends.
    pub fn shutdown_at_once(&mut self) {
        self.0.shutdown_at_once();
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.0.readable()
    }

    /// The bytes that can be read, in order.
    pub fn recv_slices(&self) -> impl Iterator<Item = &[u8]> {
        self.0.recv_slices()
    }

    /// Forgets the first `n` readable bytes, which may reopen the window.
    pub fn recv_consume(&mut self, n: usize) {
        self.0.recv_consume(n);
    }

    /// Reads bytes: `Ok(None)` at the end of the stream, `Ok(Some(0))` when there is nothing yet.
    ///
    /// # Errors
    /// [`RecvError::Broken`] when the connection broke and all that arrived was read.
    pub fn recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        self.0.recv(out)
    }

    /// A snapshot of the figures.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
