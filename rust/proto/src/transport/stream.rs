//! The application's calls: send, receive, shutdown, close, abort (RFC 9293 section 3.9.1).

use super::{CloseReason, Connection, Dialect, RecvError, SendError, State, recv::Supply};
use crate::{config::MAX_SEGMENT, time::Instant};

impl Connection {
    /// Bytes that [`Self::send`] would accept now.
    pub fn send_capacity(&self) -> usize {
        if self.check_sendable().is_err() {
            return 0;
        }
        let config = &self.options.config;
        if self.send_supply == Supply::Exhausted {
            return MAX_SEGMENT.saturating_sub(self.sender.queue.len());
        }
        let wanted = self.wanted_buffer();
        let buffer =
            if self.send_supply == Supply::Ample { wanted } else { wanted.min(self.granted_send_buffer) };
        let held = buffer.saturating_sub(self.sender.queue.len());
        held.min(config.send_backlog.saturating_sub(self.sender.unsent()))
    }

    /// Bytes written and not acknowledged, whether sent or not.
    pub fn undelivered(&self) -> usize {
        self.sender.queue.len()
    }

    /// Send buffer auto-tuning: the size that keeps the network busy, bytes.
    fn wanted_buffer(&self) -> usize {
        let config = &self.options.config;
        // Two congestion windows: one in flight, and one for its growth while that is acknowledged; plus the
        // selectively acknowledged data, so that recovery does not stall the flight.
        let sent = self.sender.snd_nxt.bytes_since(self.sender.snd_una).unwrap_or(0);
        let arrived = sent.saturating_sub(self.sender.in_flight());
        (2 * self.congestion.cwnd() + arrived).clamp(config.send_buffer, config.max_send_buffer)
    }

    /// Sets the memory available for sending. While it is ample the send buffer may grow.
    pub fn set_send_supply(&mut self, supply: Supply) {
        self.send_supply = supply;
        if supply == Supply::Ample {
            self.granted_send_buffer = self.granted_send_buffer.max(self.wanted_buffer());
        }
    }

    fn check_sendable(&self) -> Result<(), SendError> {
        if let Some(reason) = self.broken() {
            return Err(SendError::Broken(reason));
        }
        let is_open = match self.state {
            State::SynSent | State::SynReceived | State::Established | State::CloseWait => true,
            State::Closed
            | State::Listen
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => false,
        };
        if is_open && !self.is_fin_queued { Ok(()) } else { Err(SendError::Closed) }
    }

    /// Queues bytes and returns how many were accepted; after 0 a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        self.check_sendable()?;
        let capacity = self.send_capacity();
        let taken = self.sender.queue.write(bytes, capacity);
        self.is_write_blocked = taken < bytes.len();
        Ok(taken)
    }

    /// Reports Writable to a blocked writer once half the backlog is free: when segments are sent, so that a
    /// paced flight does not wait for the application, and when they are acknowledged.
    pub(super) fn notify_writer(&mut self) {
        let is_exhausted = self.send_supply == Supply::Exhausted;
        let wanted = if is_exhausted { MAX_SEGMENT } else { self.options.config.send_backlog / 2 };
        if self.is_write_blocked && self.send_capacity() >= wanted {
            self.is_write_blocked = false;
            self.events.is_writable = true;
        }
    }

    /// A buffer of 1 to `max` bytes at the end of the send queue, to be filled and queued by
    /// [`Self::send_commit`]; empty when the queue is full, and a Writable event follows.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_reserve(&mut self, max: usize) -> Result<&mut [u8], SendError> {
        self.check_sendable()?;
        let max = max.min(self.send_capacity());
        self.is_write_blocked = max == 0;
        Ok(self.sender.queue.reserve(max))
    }

    /// Queues the first `n` bytes of the last [`Self::send_reserve`].
    pub fn send_commit(&mut self, n: usize) {
        self.sender.queue.commit(n);
    }

    /// The readable bytes, in order.
    pub fn recv_slices(&self) -> impl Iterator<Item = &[u8]> {
        self.receiver.queue.slices()
    }

    /// Sets the memory available for receiving.
    pub fn set_supply(&mut self, supply: Supply) {
        self.receiver.supply = supply;
    }

    /// Memory of the receive buffer, including out-of-order segments, bytes.
    pub fn held(&self) -> usize {
        self.receiver.held()
    }

    /// Memory of the send buffer, bytes.
    pub fn send_held(&self) -> usize {
        self.sender.held()
    }

    /// Whether any data was sent or received.
    pub fn is_used(&self) -> bool {
        self.counters.bytes_sent + self.counters.bytes_recv > 0
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.receiver.queue.len()
    }

    /// Whether the peer sent FIN and all data was read.
    pub fn is_at_end(&self) -> bool {
        self.receiver.is_finished && self.receiver.queue.is_empty()
    }

    /// Drops the first `n` readable bytes, which may open the window.
    pub fn recv_consume(&mut self, n: usize) {
        if self.options.dialect == Dialect::Native
            && let Some(rtt) = self.rtt.srtt()
        {
            self.receiver.on_read(self.last_arrival, n, rtt);
        }
        self.receiver.consume(n);
        self.events.is_readable &= !self.receiver.queue.is_empty();
        if self.state.can_receive() && self.receiver.wants_window_update() {
            self.receiver.ack.request();
        }
    }

    /// Reads bytes: `Ok(None)` at the end of the stream, `Ok(Some(0))` when nothing is readable yet.
    ///
    /// # Errors
    /// [`RecvError::Broken`] when the connection failed and all received data was read.
    pub fn recv(&mut self, out: &mut [u8]) -> Result<Option<usize>, RecvError> {
        if self.receiver.queue.is_empty() {
            if self.receiver.is_finished {
                return Ok(None);
            }
            if let Some(reason) = self.broken() {
                return Err(RecvError::Broken(reason));
            }
        }
        let mut taken = 0;
        for slice in self.receiver.queue.slices() {
            let n = slice.len().min(out.len() - taken);
            out[taken..taken + n].copy_from_slice(&slice[..n]);
            taken += n;
        }
        self.recv_consume(taken);
        Ok(Some(taken))
    }

    /// Half-closes: FIN follows the queued data, and receiving goes on. A legacy peer takes FIN as the end of
    /// both directions, so there FIN waits for the peer's FIN or for [`Self::close`].
    pub fn shutdown(&mut self) {
        if self.state == State::SynSent && self.sender.queue.is_empty() && self.is_orphaned {
            self.fail(CloseReason::Aborted);
        } else if self.state != State::Closed {
            self.is_fin_queued = true;
        }
    }

    /// Closes both directions: FIN follows the queued data, and arriving data is refused. Unread data resets
    /// the connection (RFC 9293 section 3.6.1).
    pub fn close(&mut self, now: Instant) {
        self.orphan(now);
        if self.receiver.queue.is_empty() {
            self.shutdown();
        } else {
            self.receiver.queue.consume(usize::MAX);
            self.abort(now);
        }
    }

    /// Resets the connection.
    pub fn abort(&mut self, _now: Instant) {
        self.reset(CloseReason::Aborted);
    }

    /// Resets the connection with the given reason.
    pub fn reset(&mut self, reason: CloseReason) {
        match self.state {
            State::Closed | State::Listen => return,
            State::SynSent | State::TimeWait => {}
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.is_rst_due = true,
        }
        self.fail(reason);
    }
}
