//! Drivers: how they come, have their turns, and go.

use std::{cmp::Reverse, io};

use mio::{Interest, net::UnixStream};
use tracing::debug;

use crate::{
    client::{Client, Flushed, Input},
    driver::{ClientId, Driver, Due, Kind, is_of_one, token},
    limits,
};

impl Driver {
    /// Accepts drivers. Returns whether more may wait.
    pub(crate) fn accept_clients(&mut self) -> bool {
        for _ in 0..limits::TURN_ACCEPTS {
            match self.ipc.accept() {
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
    pub(crate) fn add_client(&mut self, mut stream: UnixStream) {
        let max = limits::max_clients();
        if self.clients.len() >= max {
            self.local.dropped_clients += 1;
            crate::answer::refuse_client(&stream, max);
            return;
        }
        let id = self.next_client;
        self.next_client += 1;
        match self.poll.registry().register(&mut stream, token(Kind::Client, id), Interest::READABLE) {
            Ok(()) => {
                self.clients.insert(id, Client::new(stream));
                self.dirty_clients.insert(id);
            }
            Err(error) => {
                debug!("a driver cannot be served: {error}");
                self.local.dropped_clients += 1;
            }
        }
    }

    /// Takes at most `share` frames from a driver and gives it what waits for it.
    pub(crate) fn serve_client(&mut self, id: ClientId, share: usize) {
        if self.deferred.contains(&id) {
            self.flush_client(id);
            return;
        }
        let (mut is_alive, mut frames, mut bytes) = (true, 0, 0);
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            if !client.may_proceed() {
                break;
            }
            if frames >= share || bytes >= limits::TURN_BYTES {
                // Large frames are work; many small ones without a pause can wait a little.
                self.has_more |= frames < share;
                self.deferred.insert(id);
                break;
            }
            match client.next_frame() {
                Ok(Some(body)) => {
                    (frames, bytes) = (frames + 1, bytes + body.len());
                    self.on_frame(id, None, &body);
                }
                Ok(None) => match client.read(&mut self.scratch) {
                    Input::Some => {}
                    Input::Nothing => {
                        client.shrink();
                        break;
                    }
                    Input::End => {
                        is_alive = false;
                        break;
                    }
                },
                Err(length) => {
                    debug!(client = id, length, "frame over the limit");
                    is_alive = false;
                    break;
                }
            }
        }
        if is_alive {
            self.flush_client(id);
        } else {
            self.drop_client(id);
        }
    }

    /// Writes what waits for a driver, and lets what waited for that go on.
    pub(crate) fn flush_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let was_stopped = !client.may_proceed();
        match client.flush(self.poll.registry(), token(Kind::Client, id)) {
            Flushed::Fine => {
                if was_stopped && client.may_proceed() {
                    self.dirty_clients.insert(id);
                }
                self.account(id);
                self.resume_framed(id);
            }
            Flushed::Gone => {
                self.local.dropped_clients += u64::from(!client.is_gone);
                self.drop_client(id);
            }
            Flushed::NoPassage(passenger) => {
                self.dirty_clients.insert(id);
                self.on_no_passage(id, &passenger);
            }
        }
    }

    /// Keeps the ledger of what is held for drivers; above its limit, who makes us hold most is dropped.
    fn account(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let held = client.held();
        self.held = self.held - client.accounted + held;
        client.accounted = held;
        if self.held > limits::MAX_HELD
            && let Some((&worst, _)) = self.clients.iter().max_by_key(|(_, client)| client.accounted)
        {
            self.local.dropped_clients += 1;
            self.drop_client(worst);
        }
    }

    /// A program closed its end: nobody takes its dials, and what its streams do not take is not kept for
    /// long.
    pub(crate) fn on_gone(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        for stream in client.dials.clone() {
            self.reset_stream(stream);
        }
        if let Some(client) = self.clients.get_mut(&id)
            && client.asked == 0
        {
            // It waited for a dial.
            client.is_busy = false;
        }
        self.deadlines.push(Reverse((self.now + limits::ORPHAN_TIME, Due::Orphan(id))));
    }

    /// Continues framed streams whose driver was slow to read.
    fn resume_framed(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.framed.is_empty() || client.output_len() > 0 {
            return;
        }
        for stream in client.framed.clone() {
            if self.node.connection(stream).is_some_and(|connection| connection.readable() > 0) {
                self.pump(stream);
            }
        }
    }

    /// Frees everything a driver owned. Streams it was handed live on.
    pub(crate) fn drop_client(&mut self, id: ClientId) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        self.held -= client.accounted;
        for tag in self.shared.forget(id) {
            self.on_answered(tag);
        }
        let _ = self.poll.registry().deregister(&mut client.stream);
        for port in client.listening {
            self.close_listener(port);
        }
        for port in client.datagram_ports {
            self.datagram_ports.remove(&port);
            let _ = self.node.unbind_datagrams(port);
        }
        for stream in client.framed.into_iter().chain(client.dials) {
            self.remove_stream(stream);
            self.node.close(self.now, stream);
        }
        let over: Vec<u32> =
            self.forwards.iter().filter(|(_, forward)| forward.client == id).map(|(id, _)| *id).collect();
        for id in over {
            if let Some(mut forward) = self.forwards.remove(&id) {
                let _ = self.poll.registry().deregister(&mut forward.listener);
                forward.remove_file();
            }
        }
    }
}
