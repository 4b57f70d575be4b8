//! The tunnel's UDP socket: batches with GSO and GRO.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use pilot_proto::{beacon::BUFFER_LEN, node::TooBig};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Socket, Type};
use tracing::warn;

use crate::readiness::Room;

/// Bytes of the kernel's buffer that we ask for, each way.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of one receive buffer: a whole GRO batch.
const RECV_LEN: usize = BUFFER_LEN;
/// Bytes of one send batch: what one UDP datagram to segment may hold.
pub(crate) const SEND_LEN: usize = 65_507;

/// A bound socket and its receive buffers.
pub(crate) struct Udp {
    pub(crate) socket: mio::net::UdpSocket,
    pub(crate) room: Room,
    state: UdpSocketState,
    is_v6: bool,
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; BATCH_SIZE],
    /// Datagrams that could not be sent, and failures to receive.
    dropped: u64,
    /// Failures to receive in a row.
    failures: u32,
}

/// Failures to receive in a row after which the socket rests. The error of a datagram that we sent comes
/// once and hides what has arrived (udp(7)).
const MAX_FAILURES: u32 = 64;

impl Udp {
    /// Binds to `address`; an unspecified IPv6 address takes IPv4 too.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let is_v6 = address.is_ipv6();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if is_v6 {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let udp = Self::of(UdpSocket::from(socket), is_v6)?;
        enlarge(&udp.state, &udp.socket);
        Ok(udp)
    }

    /// Takes over a bound IPv4 socket that does not block.
    pub(crate) fn adopt(socket: UdpSocket) -> io::Result<Self> {
        Self::of(socket, false)
    }

    fn of(socket: UdpSocket, is_v6: bool) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        #[cfg(target_os = "linux")]
        if let Err(error) = crate::error_queue::enable(&socket, is_v6) {
            warn!("ICMP will not help to find the MTU of paths: {error}");
        }
        Ok(Self {
            socket: mio::net::UdpSocket::from_std(socket),
            room: Room::default(),
            state,
            is_v6,
            buffers: vec![vec![0; RECV_LEN]; BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            dropped: 0,
            failures: 0,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends datagrams. `WouldBlock` is the caller's to wait for; every other error drops them, as
    /// the network could have.
    pub(crate) fn send(
        &mut self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let destination = match (self.is_v6, destination) {
            (true, SocketAddr::V4(v4)) => {
                let ip: Ipv6Addr = v4.ip().to_ipv6_mapped();
                SocketAddr::V6(SocketAddrV6::new(ip, v4.port(), 0, 0))
            }
            (_, other) => other,
        };
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        // The first attempt may tell of an earlier datagram's error instead.
        for _ in 0..2 {
            match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        self.dropped += 1;
        Ok(())
    }

    /// Hands what is known of datagrams that were too large to `take`. Returns whether there may be
    /// more.
    pub(crate) fn errors(&self, take: impl FnMut(&TooBig<'_>)) -> bool {
        #[cfg(target_os = "linux")]
        return crate::error_queue::read(&self.socket, take);
        #[cfg(not(target_os = "linux"))]
        {
            drop(take);
            false
        }
    }

    /// Datagrams that could not be sent, and failures to receive.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether receiving fails time and again; true once for each such run.
    pub(crate) fn is_failing(&mut self) -> bool {
        let is_failing = self.failures >= MAX_FAILURES;
        self.failures = if is_failing { 0 } else { self.failures };
        is_failing
    }

    /// Receives one batch and hands each datagram to `take`. Returns whether there may be more.
    pub(crate) fn recv(&mut self, mut take: impl FnMut(SocketAddr, &mut [u8])) -> bool {
        self.recv_coalesced(BATCH_SIZE, |meta, buffer| {
            for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                take(meta.addr, datagram);
            }
        })
    }

    /// As [`Self::recv`], but hands over what the kernel has coalesced (GRO) as it is, at most `most` times: at the
    /// begin of a buffer, which may be replaced by another one of [`RECV_LEN`].
    pub(crate) fn recv_coalesced(
        &mut self,
        most: usize,
        mut take: impl FnMut(&RecvMeta, &mut Vec<u8>),
    ) -> bool {
        let most = most.clamp(1, BATCH_SIZE);
        let mut buffers = self.buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = core::array::from_fn(|_| {
            IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| &mut buffer[..]))
        });
        let slices = &mut slices[..most];
        let count = match self.state.recv(UdpSockRef::from(&self.socket), slices, &mut self.metas) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) => {
                let is_failure = error.kind() != io::ErrorKind::WouldBlock;
                self.failures = if is_failure { self.failures + 1 } else { 0 };
                self.dropped += u64::from(is_failure);
                return is_failure;
            }
        };
        self.failures = 0;
        for (meta, buffer) in self.metas.iter_mut().zip(&mut self.buffers).take(count) {
            meta.addr = SocketAddr::new(canonical(meta.addr.ip()), meta.addr.port());
            take(meta, buffer);
        }
        // A batch that was not filled has emptied the socket; more makes an event.
        count == most
    }
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Asks for large buffers and says how to allow them where the kernel does not.
fn enlarge(state: &UdpSocketState, socket: &mio::net::UdpSocket) {
    let reference = || UdpSockRef::from(socket);
    let _ = state.set_recv_buffer_size(reference(), SOCKET_BUFFER);
    let _ = state.set_send_buffer_size(reference(), SOCKET_BUFFER);
    for (name, size) in [
        ("net.core.rmem_max", state.recv_buffer_size(reference())),
        ("net.core.wmem_max", state.send_buffer_size(reference())),
    ] {
        // Linux reports twice what it grants.
        let granted = size.unwrap_or(0) / if cfg!(target_os = "linux") { 2 } else { 1 };
        if granted < SOCKET_BUFFER {
            warn!("UDP buffer is {granted} bytes; for full speed: sysctl -w {name}={SOCKET_BUFFER}");
        }
    }
}
