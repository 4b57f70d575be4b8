//! The application's view of a connection: what a driver may call. Segments, timers and states stay with the
//! node.

use crate::transport::{Connection, RecvError, SendError, Stats};

/// A connection borrowed from the node by [`Node::with_connection`](super::Node::with_connection).
#[derive(Debug)]
pub struct Stream<'a>(pub(super) &'a mut Connection);

impl Stream<'_> {
    /// Bytes that [`Self::send`] would accept now.
    pub fn send_capacity(&self) -> usize {
        self.0.send_capacity()
    }

    /// Queues bytes and returns how many were accepted; after 0 a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        self.0.send(bytes)
    }

    /// A buffer of 1 to `max` bytes at the end of the send queue, to be filled and queued by
    /// [`Self::send_commit`]; empty when the queue is full, and a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_reserve(&mut self, max: usize) -> Result<&mut [u8], SendError> {
        self.0.send_reserve(max)
    }

    /// Queues the first `n` bytes of the last [`Self::send_reserve`].
    pub fn send_commit(&mut self, n: usize) {
        self.0.send_commit(n);
    }

    /// Bytes written and not acknowledged, whether sent or not.
    pub fn undelivered(&self) -> usize {
        self.0.undelivered()
    }

    /// Half-closes: FIN follows the queued data. Receiving goes on.
    pub fn shutdown(&mut self) {
        self.0.shutdown();
    }

    /// The same, without waiting for a legacy peer's FIN; used when the process ends.
    pub fn shutdown_at_once(&mut self) {
        self.0.shutdown_at_once();
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.0.readable()
    }

    /// The readable bytes, in order.
    pub fn recv_slices(&self) -> impl Iterator<Item = &[u8]> {
        self.0.recv_slices()
    }

    /// Drops the first `n` readable bytes, which may open the window.
    pub fn recv_consume(&mut self, n: usize) {
        self.0.recv_consume(n);
    }

    /// Reads bytes: `Ok(None)` at the end of the stream, `Ok(Some(0))` when nothing is readable yet.
    ///
    /// # Errors
    /// [`RecvError::Broken`] when the connection failed and all received data was read.
    pub fn recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        self.0.recv(out)
    }

    /// Statistics of the connection.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}
