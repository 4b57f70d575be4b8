//! Descriptors: socket pairs and their passage to another process.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Bytes of an application's send buffer, which Linux doubles. A writer is woken when a quarter of that is in
/// use at most, and the byte that [`crate::intake`] leaves keeps all 17 pages of a buffer that `sendfile(2)`
/// made.
const SEND_BUFFER: libc::c_int = 160 << 10;

/// Makes a connected pair of stream sockets, both closed on exec; the first is non-blocking and holds a
/// byte that came from the second: see [`crate::intake`].
pub(crate) fn socket_pair() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    set_send_buffer(theirs.as_raw_fd(), SEND_BUFFER)?;
    theirs.write_all(&[0])?;
    Ok((ours, OwnedFd::from(theirs)))
}

fn set_send_buffer(fd: RawFd, bytes: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&bytes)).map_err(io::Error::other)?;
    // SAFETY: the value is live and of the stated length.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const bytes).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes bytes, with a descriptor beside the first of them.
pub(crate) fn send(socket: RawFd, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    let mut control = [0_u64; 8];
    if let Some(fd) = fd {
        let len = u32::try_from(size_of::<RawFd>()).unwrap_or(4);
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute sizes; the buffer holds more than one
        // descriptor needs and is aligned for cmsghdr, so CMSG_FIRSTHDR and CMSG_DATA stay inside.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    #[cfg(target_os = "linux")]
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    #[cfg(not(target_os = "linux"))]
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the message points to live buffers of the stated lengths.
    let sent = unsafe { libc::sendmsg(socket, &raw const message, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent.cast_unsigned()) }
}

/// Duplicates a descriptor that somebody else owns.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl has no memory effects; a bad descriptor is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
