//! Sockets at which nodes of earlier generations prove their address, by punching where they were told to.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

/// Datagrams taken from one socket before others have their turn.
const MAX_AT_ONCE: usize = 64;
/// Bytes read of a datagram: a punch has four.
const RECV_LEN: usize = 64;

/// The sockets, in the order of their ports.
pub(super) struct Probes {
    sockets: Vec<mio::net::UdpSocket>,
    /// Those that may have more.
    waiting: Vec<usize>,
}

impl Probes {
    /// Binds a socket for each port, 0 being any.
    pub(super) fn bind(registry: &Registry, first: Token, ip: IpAddr, ports: &[u16]) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for (n, port) in ports.iter().enumerate() {
            let mut socket = bind(SocketAddr::new(ip, *port))?;
            registry.register(&mut socket, Token(first.0 + n), Interest::READABLE)?;
            sockets.push(socket);
        }
        Ok(Self { sockets, waiting: Vec::new() })
    }

    /// The ports that are bound.
    pub(super) fn ports(&self) -> io::Result<Vec<u16>> {
        self.sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
    }

    /// Takes note that a socket is readable.
    pub(super) fn on_ready(&mut self, index: usize) {
        if !self.waiting.contains(&index) {
            self.waiting.push(index);
        }
    }

    /// Hands on what has arrived. Returns whether there may be more.
    pub(super) fn receive(&mut self, mut take: impl FnMut(usize, SocketAddr, &[u8])) -> bool {
        let sockets = &self.sockets;
        self.waiting.retain(|index| {
            let Some(socket) = sockets.get(*index) else { return false };
            let mut buffer = [0; RECV_LEN];
            for _ in 0..MAX_AT_ONCE {
                match socket.recv_from(&mut buffer) {
                    Ok((len, from)) => take(*index, from, &buffer[..len]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    // The error of a datagram that somebody rejected.
                    Err(_) => {}
                }
            }
            true
        });
        !self.waiting.is_empty()
    }
}

fn bind(address: SocketAddr) -> io::Result<mio::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(mio::net::UdpSocket::from_std(UdpSocket::from(socket)))
}
