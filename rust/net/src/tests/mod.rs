//! The IO loop against drivers over socket pairs, turn by turn.

mod bounds;
mod descriptors;
mod ends;
mod ownership;
mod recorded;

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use pilot_proto::wire::ipc::{self, code};

use crate::harness::{Harness, SELF};

/// Turns within which what is under way comes to its end.
const TURNS: usize = 400;

/// A program's driver.
struct Program {
    socket: UnixStream,
    input: Vec<u8>,
    /// What the socket did not take of a frame.
    output: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Program {
    fn new(harness: &mut Harness) -> Self {
        Self {
            socket: harness.connect().unwrap(),
            input: Vec::new(),
            output: Vec::new(),
            fds: VecDeque::new(),
        }
    }

    fn extended(harness: &mut Harness) -> Self {
        let mut program = Self::new(harness);
        program.send(&[&[code::HELLO, 0, 1]]);
        assert_eq!(program.expect(harness)[0], code::HELLO_OK);
        program
    }

    /// Writes a frame, or keeps what the socket does not take of it. `false` when it took nothing.
    fn try_send(&mut self, parts: &[&[u8]]) -> bool {
        if !self.flush() {
            return false;
        }
        let before = self.output.len();
        self.output.extend(ipc::frame(parts));
        let len = self.output.len() - before;
        self.flush();
        let is_taken = self.output.len() < len;
        if !is_taken {
            self.output.clear();
        }
        is_taken
    }

    /// Whether everything was written.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return false;
                }
            }
        }
        true
    }

    fn send(&mut self, parts: &[&[u8]]) {
        assert!(self.try_send(parts));
    }

    fn request(&mut self, id: u32, body: &[&[u8]]) {
        let id = id.to_be_bytes();
        let parts: Vec<&[u8]> = [&[code::REQUEST][..], &id].into_iter().chain(body.iter().copied()).collect();
        self.send(&parts);
    }

    fn dial(&mut self, id: u32, port: u16) -> bool {
        let flags = [0_u8; 5];
        self.try_send(&[&[code::OPEN_STREAM], &id.to_be_bytes(), &SELF.emit(), &port.to_be_bytes(), &flags])
    }

    /// The body of the next frame, if one is there.
    fn take(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((body, len)) = ipc::split(&self.input).unwrap() {
                let body = body.to_vec();
                self.input.drain(..len);
                return Some(body);
            }
            let mut scratch = [0; 4096];
            match receive(&self.socket, &mut scratch) {
                Some((0, _)) | None => return None,
                Some((n, fd)) => {
                    self.input.extend_from_slice(&scratch[..n]);
                    self.fds.extend(fd);
                }
            }
        }
    }

    /// The body of the next frame.
    fn expect(&mut self, harness: &mut Harness) -> Vec<u8> {
        for _ in 0..TURNS {
            if let Some(body) = self.take() {
                return body;
            }
            harness.turn().unwrap();
        }
        panic!("no frame came");
    }

    /// The number and the descriptor of the next stream that is handed over.
    fn stream(&mut self, harness: &mut Harness) -> (u32, UnixStream) {
        let body = self.expect(harness);
        let at = match body[0] {
            code::STREAM_OPENED => 5,
            code::STREAM_ACCEPTED => 3,
            other => panic!("{other:02x} {}", String::from_utf8_lossy(&body)),
        };
        let number = u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        let stream = UnixStream::from(self.fds.pop_front().unwrap());
        stream.set_nonblocking(true).unwrap();
        (number, stream)
    }
}

/// Bytes and a descriptor beside them; nothing when none are there or the socket is closed.
fn receive(socket: &UnixStream, scratch: &mut [u8]) -> Option<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: scratch.len() };
    let mut control = [0_u64; 8];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
    // SAFETY: the message points to live buffers of the stated lengths; a descriptor that came is new.
    unsafe {
        let len = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
        let len = usize::try_from(len).ok()?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let fd = (!header.is_null())
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()));
        Some((len, fd))
    }
}

/// What a stream ends with: its bytes and, unless it was orderly, the error.
fn read_to_end(harness: &mut Harness, stream: &mut UnixStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut all, mut scratch) = (Vec::new(), [0; 4096]);
    for _ in 0..TURNS {
        match stream.read(&mut scratch) {
            Ok(0) => return (all, None),
            Ok(n) => all.extend_from_slice(&scratch[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => harness.turn().unwrap(),
            Err(error) => return (all, Some(error.kind())),
        }
    }
    panic!("the stream has no end");
}

fn turns(harness: &mut Harness, count: usize) {
    for _ in 0..count {
        harness.turn().unwrap();
    }
}

fn failure_code(body: &[u8]) -> String {
    assert_eq!(body[0], code::FAILURE, "{}", String::from_utf8_lossy(body));
    let json: serde_json::Value = serde_json::from_slice(&body[5..]).unwrap();
    json["code"].as_str().unwrap().to_owned()
}
