//! Reads an application's socket so that the last byte read stays in its queue.
//!
//! Linux tells a reader of a Unix socket whose other end is closed with unread bytes of
//! `ECONNRESET`, after the data (`unix_release_sock`). A byte that always waits makes every end an error,
//! also that of a daemon which dies; [`Intake::finish`] takes it before an orderly one.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

/// Bytes looked at before more are read.
const PEEK_LEN: usize = 4096;
/// After more bytes in a run nothing is left in a socket that the application made. Linux wakes a writer when a
/// quarter of its send buffer is in use at most, and one byte keeps a whole buffer of `sendfile(2)` in use; for
/// sockets that we made the send buffer is large enough ([`crate::fd::socket_pair`]).
const LONG_RUN: usize = 32 << 10;

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    /// Bytes; none at the end of the stream.
    pub(crate) len: usize,
    /// Whether the socket has no more.
    pub(crate) is_drained: bool,
}

/// The reading side of a socket to an application.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Bytes at the front of the queue that were taken already.
    left: usize,
    /// Whether the last look filled its buffer.
    has_more: bool,
    /// Bytes that are known to wait behind those, but for the last one.
    waiting: usize,
    /// Whether the socket can be read so.
    can_peek: bool,
    /// The application made the socket.
    is_foreign: bool,
    /// Bytes read since the socket was last empty.
    run: usize,
}

impl Intake {
    /// Reads a socket into which `left` bytes of ours were written from the other end; none into one that the
    /// application made.
    pub(crate) fn new(socket: &impl AsRawFd, left: usize) -> Self {
        Self {
            left,
            has_more: false,
            waiting: 0,
            can_peek: set_peek_offset(socket.as_raw_fd(), left).is_ok(),
            is_foreign: left == 0,
            run: 0,
        }
    }

    /// Reads into `room`, which must not be empty.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    pub(crate) fn read(&mut self, socket: &impl AsRawFd, room: &mut [u8]) -> io::Result<Taken> {
        let fd = socket.as_raw_fd();
        if !self.can_peek {
            self.finish(socket);
            let len = recv(fd, room, 0)?;
            return Ok(Taken { len, is_drained: len < room.len() });
        }
        if self.has_more && self.left <= 1 {
            // A long run: everything but one byte is read at once; a later look finds that.
            if self.waiting < room.len() {
                self.waiting = waiting(fd)?.saturating_sub(self.left + 1);
            }
            let fresh = self.waiting.min(room.len());
            if fresh >= room.len().min(PEEK_LEN) {
                let len = read_behind(fd, self.left, &mut room[..fresh])?;
                self.left = 0;
                self.run += len;
                self.waiting -= len;
                return Ok(Taken { len, is_drained: false });
            }
        }
        let limit = room.len().min(PEEK_LEN);
        self.waiting = 0;
        let looked = recv(fd, &mut room[..limit], libc::MSG_PEEK);
        let len = *looked.as_ref().unwrap_or(&0);
        (self.left, self.run) = (self.left + len, self.run + len);
        let is_drained = len < limit;
        let leaves_none = self.is_foreign && is_drained && self.run > LONG_RUN;
        if len > 0 || leaves_none {
            self.skip(fd, self.left - usize::from(!leaves_none));
        }
        if is_drained {
            self.run = 0;
        }
        looked?;
        self.has_more = !is_drained;
        Ok(Taken { len, is_drained })
    }

    /// Takes what was left, so that the reader of a socket closed now finds an orderly end.
    pub(crate) fn finish(&mut self, socket: &impl AsRawFd) {
        self.skip(socket.as_raw_fd(), self.left);
    }

    /// Takes bytes that were read already.
    fn skip(&mut self, fd: RawFd, mut count: usize) {
        let mut scratch = [0; PEEK_LEN];
        while count > 0 {
            let len = count.min(scratch.len());
            let Ok(taken @ 1..) = recv(fd, &mut scratch[..len], 0) else { return };
            self.left -= taken;
            count -= taken;
        }
    }
}

fn recv(fd: RawFd, room: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: the buffer is live and of the stated length.
    let len = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), flags | libc::MSG_DONTWAIT) };
    if len < 0 { Err(io::Error::last_os_error()) } else { Ok(len.cast_unsigned()) }
}

/// Reads into `room` what comes behind the first `left` bytes, at most one, and forgets those.
fn read_behind(fd: RawFd, left: usize, room: &mut [u8]) -> io::Result<usize> {
    let mut first = [0_u8; 1];
    let iov = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: left.min(1) },
        libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() },
    ];
    // SAFETY: both buffers are live and of the stated lengths.
    let len = unsafe { libc::readv(fd, iov.as_ptr(), 2) };
    if len < 0 { Err(io::Error::last_os_error()) } else { Ok(len.cast_unsigned().saturating_sub(left)) }
}

/// Bytes in the socket's queue.
fn waiting(fd: RawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one integer, which is live.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// Makes `MSG_PEEK` begin behind the first `offset` bytes (SO_PEEK_OFF, socket(7)).
#[cfg(target_os = "linux")]
fn set_peek_offset(fd: RawFd, offset: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(offset).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the value is live and of the stated length.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn set_peek_offset(_: RawFd, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn pair() -> (UnixStream, UnixStream, Intake) {
        let (ours, theirs) = crate::fd::socket_pair().unwrap();
        let intake = Intake::new(&ours, 1);
        (ours, UnixStream::from(theirs), intake)
    }

    /// A pair that an application made.
    fn foreign_pair() -> (UnixStream, UnixStream, Intake) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let intake = Intake::new(&ours, 0);
        (ours, theirs, intake)
    }

    fn drain(ours: &UnixStream, intake: &mut Intake) -> Vec<u8> {
        let (mut all, mut room) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(taken) = intake.read(ours, &mut room) {
            all.extend_from_slice(&room[..taken.len]);
            if taken.len == 0 || taken.is_drained {
                break;
            }
        }
        all
    }

    #[test]
    fn every_byte_is_read_once_whatever_the_sizes() {
        let (ours, mut theirs, mut intake) = pair();
        let bytes: Vec<u8> = (0..=250).cycle().take(1 << 16).collect();
        for len in [1, 2, 3, 4095, 4096, 4097, 8192, 60_000, 1, 1] {
            theirs.write_all(&bytes[..len]).unwrap();
            assert_eq!(drain(&ours, &mut intake), bytes[..len], "{len}");
            assert_eq!(intake.left, 1);
        }
        theirs.write_all(&bytes[..10]).unwrap();
        let mut room = [0; 4];
        for (from, to) in [(0, 4), (4, 8), (8, 10)] {
            let taken = intake.read(&ours, &mut room).unwrap();
            assert_eq!(&room[..taken.len], &bytes[from..to]);
        }
        assert_eq!(intake.read(&ours, &mut room).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(intake.read(&ours, &mut room).unwrap().len, 0);
    }

    #[test]
    fn an_end_is_an_error_after_the_data_unless_it_is_orderly() {
        for has_sent in [false, true] {
            for is_orderly in [false, true] {
                let (mut ours, mut theirs, mut intake) = pair();
                if has_sent {
                    theirs.write_all(b"request").unwrap();
                    assert_eq!(drain(&ours, &mut intake), b"request");
                }
                ours.write_all(b"half").unwrap();
                if is_orderly {
                    intake.finish(&ours);
                }
                drop(ours);
                let mut got = Vec::new();
                let end = theirs.read_to_end(&mut got).map_err(|error| error.kind());
                assert_eq!(got, b"half");
                let expected = if is_orderly { Ok(4) } else { Err(ErrorKind::ConnectionReset) };
                assert_eq!(end, expected, "{has_sent} {is_orderly}");
            }
        }
    }

    #[test]
    fn data_that_the_application_did_not_read_is_a_reset() {
        let (mut ours, theirs, mut intake) = pair();
        ours.write_all(b"unread").unwrap();
        drop(theirs);
        let error = intake.read(&ours, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    /// `sendfile(2)` fills a buffer of the kernel with up to 16 pages, of which the byte that stays holds
    /// all. A writer is woken when a quarter of its socket's space is in use at most.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_sent_by_the_kernel_does_not_stall() {
        use std::{fs::File, os::fd::FromRawFd};

        // SAFETY: the name is a C string; the call has no other memory effects.
        let fd = unsafe { libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(4 << 20).unwrap();
        for is_foreign in [false, true] {
            let (ours, theirs, mut intake) = if is_foreign { foreign_pair() } else { pair() };
            theirs.set_nonblocking(true).unwrap();
            // SAFETY: both descriptors are open, and a null offset is the file's own.
            let sent = unsafe { libc::sendfile(theirs.as_raw_fd(), fd, core::ptr::null_mut(), 4 << 20) };
            assert!((1..4 << 20).contains(&sent), "the socket is full");
            assert_eq!(drain(&ours, &mut intake).len(), sent.cast_unsigned());
            let mut ready = libc::pollfd { fd: theirs.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            // SAFETY: the structure is live, and one.
            assert_eq!(unsafe { libc::poll(&raw mut ready, 1, 0) }, 1, "the writer goes on");
        }
    }

    /// What comes in small pieces leaves a byte there, so that a break is an error.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_byte_stays_in_an_application_s_socket_except_after_a_long_run() {
        let (ours, mut theirs, mut intake) = foreign_pair();
        let long = LONG_RUN + PEEK_LEN;
        for (len, left) in [(1, 1), (PEEK_LEN, 1), (LONG_RUN, 1), (LONG_RUN + 1, 0), (1, 1), (long, 0)] {
            theirs.write_all(&vec![7; len]).unwrap();
            assert_eq!(drain(&ours, &mut intake).len(), len);
            assert_eq!(intake.left, left, "{len}");
        }
    }
}
