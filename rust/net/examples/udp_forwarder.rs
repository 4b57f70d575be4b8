//! A plain UDP forwarder, the yardstick of the relay: what arrives goes on to one address, batch by batch
//! (recvmmsg with GRO, GSO), and nothing is looked at.
//!
//! `udp_forwarder LISTEN TO` prints the address that is bound, and forwards until it is ended.
#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first error")]
#![allow(clippy::print_stdout, reason = "its output")]

use std::{
    io::{IoSliceMut, Write},
    net::{SocketAddr, UdpSocket},
};

use mio::{Events, Interest, Poll, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

const BUFFER: usize = 1 << 16;
const SOCKET_BUFFER: usize = 4 << 20;

fn main() {
    let [listen, to]: [SocketAddr; 2] =
        std::env::args().skip(1).map(|text| text.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    let socket = UdpSocket::bind(listen).unwrap();
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    #[cfg(target_os = "linux")]
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &SOCKET_BUFFER);
    let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    println!("{}", socket.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let mut poll = Poll::new().unwrap();
    let mut watched = mio::net::UdpSocket::from_std(socket.try_clone().unwrap());
    poll.registry().register(&mut watched, Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(8);
    let mut buffers = vec![0; BUFFER * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    loop {
        poll.poll(&mut events, None).unwrap();
        loop {
            let mut chunks = buffers.chunks_exact_mut(BUFFER).map(IoSliceMut::new);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = core::array::from_fn(|_| chunks.next().unwrap());
            let Ok(count) = state.recv(UdpSockRef::from(&socket), &mut slices, &mut metas) else { break };
            for (meta, buffer) in metas.iter().zip(buffers.chunks_exact(BUFFER)).take(count) {
                let contents = &buffer[..meta.len];
                let segment_size = (meta.len > meta.stride).then_some(meta.stride);
                let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
                // What the socket does not take is lost, as on a full link.
                let _ = state.try_send(UdpSockRef::from(&socket), &transmit);
            }
        }
    }
}
