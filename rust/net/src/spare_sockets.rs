//! Sockets that are opened for a moment, to reach a peer from many ports at once, and the one of them that a
//! path goes through then.
//!
//! A peer is asked for by one address, so the address alone says through which socket its datagrams go: the
//! node knows nothing of sockets. Whether what arrives is the peer's is for the node to decide, too.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use mio::{Interest, Registry, unix::SourceFd};
use pilot_proto::{
    node::{Node, Transmit},
    time::Instant,
};

use crate::{source::Source, udp::Udp};

/// Addresses that are asked for at the same time, and sockets for each at most: those of three attempts.
const MAX_GROUPS: usize = 8;
const MAX_SOCKETS: usize = 3 * 64;
/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(6);
/// A socket through which nothing came or went for this long is closed. Paths in use are kept alive more
/// often.
const UNUSED: Duration = Duration::from_secs(90);
/// Bytes of a datagram that is received before a socket is chosen.
const RECV_LEN: usize = 2048;

/// The sockets for one address.
struct Group {
    to: SocketAddr,
    /// Their numbers in tokens.
    sockets: Vec<(u32, UdpSocket)>,
    chosen: Option<(u32, Udp)>,
    until: Instant,
}

/// All of them.
#[derive(Default)]
pub(crate) struct SpareSockets {
    groups: Vec<Group>,
    next: u32,
    ready: Vec<u32>,
    dropped: u64,
    /// Whether [`Self::expire`] will be called.
    is_armed: bool,
}

impl SpareSockets {
    /// Sends each datagram from a socket of its own. Returns when to call [`Self::expire`], unless that is
    /// known already.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        registry: &Registry,
        to: SocketAddr,
        datagrams: &[Vec<u8>],
    ) -> Option<Instant> {
        let is_chosen = self.groups.iter().any(|group| group.to == to && group.chosen.is_some());
        if is_chosen || !to.is_ipv4() {
            return None;
        }
        let known = self.groups.iter().position(|group| group.to == to);
        let mut sockets = known.map(|at| self.groups.swap_remove(at).sockets).unwrap_or_default();
        if self.groups.len() >= MAX_GROUPS {
            return None;
        }
        for datagram in datagrams.iter().take(MAX_SOCKETS.saturating_sub(sockets.len())) {
            // Without descriptors there are fewer chances, and nothing else.
            let Ok(socket) = self.open_one(registry, to, datagram) else { break };
            sockets.push(socket);
        }
        let until = now + PATIENCE;
        self.groups.push(Group { to, sockets, chosen: None, until });
        (!core::mem::replace(&mut self.is_armed, true)).then_some(until)
    }

    fn open_one(
        &mut self,
        registry: &Registry,
        to: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<(u32, UdpSocket)> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        // Closing the descriptor ends the registration.
        let source = socket.as_raw_fd();
        registry.register(&mut SourceFd(&source), Source::Spare(id).token(), Interest::READABLE)?;
        let _ = socket.send_to(datagram, to);
        Ok((id, socket))
    }

    /// Whether there may be something to take.
    pub(crate) fn may_receive(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes note of what the poll reports.
    pub(crate) fn on_ready(&mut self, id: u32) {
        if !self.ready.contains(&id) {
            self.ready.push(id);
        }
    }

    /// Hands the node what arrived. The first socket that something arrives at is chosen.
    pub(crate) fn receive(&mut self, node: &mut Node, now: Instant) {
        for id in core::mem::take(&mut self.ready) {
            let group = self.groups.iter_mut().find(|group| group.has(id));
            let Some(group) = group else { continue };
            if group.chosen.is_none() && !group.choose(id, node, now) {
                continue;
            }
            let to = group.to;
            if let Some((chosen, udp)) = &mut group.chosen
                && *chosen == id
            {
                let may_be_more = udp.recv(|from, datagram| {
                    if from == to {
                        group.until = now + UNUSED;
                        node.handle_datagram(now, from, datagram);
                    }
                });
                if may_be_more {
                    self.ready.push(id);
                }
            }
        }
    }

    /// Sends a batch through the socket that is chosen for its destination. `false` if there is none.
    pub(crate) fn send(&mut self, now: Instant, transmit: &Transmit, contents: &[u8]) -> bool {
        let group = self.groups.iter_mut().find(|group| group.to == transmit.destination);
        let Some(Group { chosen: Some((_, udp)), until, .. }) = group else { return false };
        *until = now + UNUSED;
        // A full socket drops, as the network may.
        if udp.send(transmit.destination, contents, transmit.segment_size).is_err() {
            self.dropped += 1;
        }
        true
    }

    /// Closes what is not used. Returns when to call it again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.groups.retain(|group| now < group.until);
        let next = self.groups.iter().map(|group| group.until).min();
        self.is_armed = next.is_some();
        next
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Datagrams that could not be sent.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Group {
    fn has(&self, id: u32) -> bool {
        let is_chosen = self.chosen.as_ref().is_some_and(|(chosen, _)| *chosen == id);
        is_chosen || self.sockets.iter().any(|(known, _)| *known == id)
    }

    /// Takes a datagram from a socket. If it is from the address that is asked for, the socket is chosen and
    /// the others are closed.
    fn choose(&mut self, id: u32, node: &mut Node, now: Instant) -> bool {
        let Some(at) = self.sockets.iter().position(|(known, _)| *known == id) else { return false };
        let mut buffer = [0; RECV_LEN];
        let first = loop {
            match self.sockets[at].1.recv_from(&mut buffer) {
                Ok((len, from)) if from == self.to => break len,
                Ok(_) => {}
                Err(_) => return false,
            }
        };
        let (_, socket) = self.sockets.swap_remove(at);
        let Ok(udp) = Udp::adopt(socket) else { return false };
        self.chosen = Some((id, udp));
        self.sockets.clear();
        node.handle_datagram(now, self.to, &mut buffer[..first]);
        true
    }
}
