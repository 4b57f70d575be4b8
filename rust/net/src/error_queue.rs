//! The UDP socket's error queue: what ICMP, and our own kernel, say of datagrams that were too large
//! (IP_RECVERR, ip(7)).

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use pilot_proto::node::TooBig;

/// Bytes of a datagram that are read back; its front is enough to know it again.
const QUOTE_LEN: usize = 64;
/// Bytes of what the kernel says beside it: the error, and all else that it was asked to say of datagrams.
const CONTROL_LEN: usize = 256;
/// Errors read in one go, so that a flood of them delays nothing else.
const MAX_READ: usize = 64;
/// Bytes of the headers of IPv4, IPv6 and UDP.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// Makes the kernel keep errors for [`read`].
pub(crate) fn enable(socket: &UdpSocket, is_v6: bool) -> nix::Result<()> {
    setsockopt(socket, Ipv4RecvErr, &true)?;
    if is_v6 { setsockopt(socket, Ipv6RecvErr, &true) } else { Ok(()) }
}

/// Takes errors from the queue and hands those of datagrams that were too large to `take`. Returns
/// whether there may be more.
pub(crate) fn read(socket: &impl AsRawFd, mut take: impl FnMut(&TooBig<'_>)) -> bool {
    let mut octets = [0; QUOTE_LEN];
    let mut control = nix::cmsg_space!([u8; CONTROL_LEN]);
    for _ in 0..MAX_READ {
        let mut iov = [IoSliceMut::new(&mut octets)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let received =
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
        let len = received.bytes;
        let destination = received.address.as_ref().and_then(endpoint);
        let error = received.cmsgs().ok().and_then(|mut messages| messages.find_map(extended));
        let (Some(destination), Some(error)) = (destination, error) else { continue };
        if error.ee_errno != Errno::EMSGSIZE as u32 {
            continue;
        }
        let headers = UDP + if destination.is_ipv4() { IPV4 } else { IPV6 };
        let max_datagram = usize::try_from(error.ee_info).unwrap_or(0).saturating_sub(headers);
        let is_local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
        take(&TooBig { destination, max_datagram, quote: (!is_local).then_some(&octets[..len]) });
    }
    true
}

fn extended(message: ControlMessageOwned) -> Option<libc::sock_extended_err> {
    if let ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) = message {
        Some(error)
    } else {
        None
    }
}

fn endpoint(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::new(IpAddr::V6(v6.ip()).to_canonical(), v6.port()))
}
