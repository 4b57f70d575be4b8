//! Drivers: connecting, scheduling by turns, disconnecting.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use mio::net::UnixStream;
use pilot_proto::{
    node::ConnectionId,
    transport::CloseReason,
    wire::ipc::{self, code},
};

use super::{IoThread, is_of_one};
use crate::{
    answers,
    clients::{Flushed, Next, Passenger, Share},
    deadlines::Due,
    limits,
    tag::{ClientId, Tag},
};

impl IoThread {
    /// Accepts drivers. Returns whether more may wait.
    pub(super) fn accept_clients(&mut self) -> bool {
        for _ in 0..limits::TURN_ACCEPTS {
            let Some(ipc) = &self.ipc else { return false };
            match ipc.accept() {
                Ok((stream, _)) => self.add_client(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    self.pause_accept(&error);
                    return false;
                }
            }
        }
        self.has_more = true;
        true
    }

    /// Takes a driver, or tells it that there are too many.
    pub(super) fn add_client(&mut self, stream: UnixStream) {
        let max = limits::max_clients();
        if self.clients.len() >= max {
            self.counters.dropped_clients += 1;
            refuse(stream.into(), max);
        } else if !self.clients.add(self.poll.registry(), stream) {
            self.counters.dropped_clients += 1;
        }
    }

    /// Takes at most `share` frames from a driver and gives it what waits for it.
    pub(super) fn serve_client(&mut self, id: ClientId, share: usize) {
        let mut share = Share::new(share);
        loop {
            match self.clients.next(id, &mut share, &mut self.scratch) {
                Next::Frame(body) => self.on_frame(id, None, &body),
                Next::Nothing => break,
                Next::Deferred { is_work } => {
                    self.has_more |= is_work;
                    break;
                }
                Next::End => {
                    self.drop_client(id);
                    return;
                }
            }
        }
        self.flush_client(id);
    }

    /// Writes what waits for a driver, and lets what waited for that go on.
    pub(super) fn flush_client(&mut self, id: ClientId) {
        match self.clients.flush(self.poll.registry(), id) {
            Flushed::Fine => {
                if let Some(worst) = self.clients.account(id) {
                    self.counters.dropped_clients += 1;
                    self.drop_client(worst);
                }
                let (streams, mut around) = self.streams();
                streams.resume_framed(&mut around, id);
            }
            Flushed::Gone => {
                let was_gone = self.clients.get(id).is_some_and(|client| client.is_gone());
                self.counters.dropped_clients += u64::from(!was_gone);
                self.drop_client(id);
            }
            Flushed::NoPassage(passenger) => self.on_no_passage(id, &passenger),
        }
    }

    /// A descriptor did not get to its driver: that stream is lost, the driver goes on.
    fn on_no_passage(&mut self, client: ClientId, passenger: &Passenger) {
        let (streams, mut around) = self.streams();
        streams.lose(&mut around, passenger.stream);
        if let Some(id) = passenger.request {
            self.refuse_for_descriptors(Tag { client, id: Some(id) });
        }
    }

    /// Says why a stream broke, before its socket is shut.
    pub(super) fn tell_failure(&mut self, client_id: ClientId, id: ConnectionId, reason: CloseReason) {
        if !self.clients.get(client_id).is_some_and(|client| client.is_extended()) {
            return;
        }
        let code = match reason {
            CloseReason::Finished => 0_u8,
            CloseReason::Refused => 1,
            CloseReason::Reset => 2,
            CloseReason::Aborted | CloseReason::Prohibited => 3,
            CloseReason::SynTimeout | CloseReason::RetransmissionTimeout => 4,
            CloseReason::IdleTimeout => 5,
            CloseReason::PeerRestarted => 6,
            CloseReason::Unreachable => 7,
            CloseReason::Shutdown => 8,
        };
        let frame = ipc::frame(&[&[code::STREAM_FAILED], &id.0.to_be_bytes(), &[code]]);
        self.clients.push(client_id, frame, None);
        self.flush_client(client_id);
    }

    /// A program closed its end: nobody takes its dials, and what its streams do not take is not kept for
    /// long.
    pub(super) fn on_gone(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        for stream in client.owned().dials.clone() {
            self.reset_stream(stream);
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.on_dials_gone();
        }
        self.deadlines.push(self.now + limits::ORPHAN_TIME, Due::Orphan(id));
    }

    /// Frees everything a driver owned. Streams it was handed live on.
    pub(super) fn drop_client(&mut self, id: ClientId) {
        let Some(owned) = self.clients.remove(self.poll.registry(), id) else { return };
        for tag in self.shared.forget(id) {
            self.on_answered(tag);
        }
        for stream in self.ports.free(&mut self.node, &owned) {
            self.reset_waiting(stream);
        }
        self.forwards.free(self.poll.registry(), id);
        let (streams, mut around) = self.streams();
        streams.close_all(&mut around, owned.framed.into_iter().chain(owned.dials));
    }
}

/// Tells a driver why it is not served. It reads that although its socket is closed.
pub(crate) fn refuse(stream: OwnedFd, max: usize) {
    let _ = crate::fd::send(stream.as_raw_fd(), &answers::no_place(max), None);
}
