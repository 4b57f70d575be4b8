//! Datagrams between the node and its UDP socket.

use std::{io, net::SocketAddr};

use mio::{Interest, Registry, event::Event as Ready};
use pilot_proto::{
    node::{Node, Transmit},
    time::Instant,
};

use crate::{
    source::Source,
    spare_sockets::SpareSockets,
    udp::{SEND_LEN, Udp},
};

/// The socket, and what waits for it or in it.
pub(crate) struct Datagrams {
    udp: Udp,
    is_readable: bool,
    has_errors: bool,
    out: Vec<u8>,
    /// A batch that the socket did not take.
    blocked: Option<Transmit>,
    spare: SpareSockets,
}

impl Datagrams {
    /// Starts to wait for a bound socket.
    ///
    /// # Errors
    /// Those of the poll.
    pub(crate) fn new(registry: &Registry, mut udp: Udp) -> io::Result<Self> {
        registry.register(&mut udp.socket, Source::Udp.token(), Interest::READABLE)?;
        Ok(Self {
            udp,
            is_readable: true,
            has_errors: false,
            out: vec![0; SEND_LEN],
            blocked: None,
            spare: SpareSockets::default(),
        })
    }

    /// The socket.
    pub(crate) fn udp(&self) -> &Udp {
        &self.udp
    }

    /// Whether the socket is full.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Whether there may be something to take.
    pub(crate) fn may_receive(&self) -> bool {
        self.is_readable || self.has_errors || self.spare.may_receive()
    }

    /// Sends each datagram to one address from a socket of its own. Returns when to call
    /// [`Self::expire_spare`], unless that is known already.
    pub(crate) fn open_spare(
        &mut self,
        now: Instant,
        registry: &Registry,
        to: SocketAddr,
        datagrams: &[Vec<u8>],
    ) -> Option<Instant> {
        self.spare.open(now, registry, to, datagrams)
    }

    /// Something came to one of those sockets.
    pub(crate) fn on_spare_ready(&mut self, id: u32) {
        self.spare.on_ready(id);
    }

    /// Closes those that are not used. Returns when to call it again.
    pub(crate) fn expire_spare(&mut self, now: Instant) -> Option<Instant> {
        self.spare.expire(now)
    }

    /// Datagrams that could not be sent, and failures to receive.
    pub(crate) fn dropped(&self) -> u64 {
        self.udp.dropped() + self.spare.dropped()
    }

    /// The socket is tried again after a rest.
    pub(crate) fn retry(&mut self) {
        self.is_readable = true;
    }

    /// Takes note of what the poll reports.
    pub(crate) fn on_ready(&mut self, registry: &Registry, event: &Ready) {
        let is_needed = self.is_blocked();
        self.udp.room.on_event(registry, &mut self.udp.socket, Source::Udp.token(), is_needed);
        // An error may have been told to a call that then moved no data.
        self.is_readable |= event.is_readable() || event.is_error();
        self.has_errors |= event.is_error();
    }

    /// Hands the node what arrived. Returns whether the socket fails and has to rest.
    pub(crate) fn receive(&mut self, node: &mut Node, now: Instant) -> bool {
        self.spare.receive(node, now);
        if self.has_errors {
            self.has_errors = self.udp.errors(|report| node.handle_too_big(now, report));
        }
        if !self.is_readable {
            return false;
        }
        self.is_readable = self.udp.recv(|from, datagram| node.handle_datagram(now, from, datagram));
        let is_failing = self.udp.is_failing();
        self.is_readable &= !is_failing;
        is_failing
    }

    /// Sends what the node has, as far as the socket takes it. Returns whether it must be tried again
    /// without waiting, because the poll will not tell.
    pub(crate) fn transmit(&mut self, node: &mut Node, now: Instant, registry: &Registry) -> bool {
        let max_segments = self.udp.max_gso_segments();
        loop {
            let blocked = self.blocked.take();
            let next = || node.poll_transmit(now, &mut self.out, max_segments);
            let Some(transmit) = blocked.or_else(next) else { return false };
            let contents = &self.out[..transmit.len];
            if !self.spare.is_empty() && self.spare.send(now, &transmit, contents) {
                continue;
            }
            if self.udp.send(transmit.destination, contents, transmit.segment_size).is_err() {
                self.blocked = Some(transmit);
                let watched = self.udp.room.watch(registry, &mut self.udp.socket, Source::Udp.token());
                return watched.is_err();
            }
        }
    }
}
