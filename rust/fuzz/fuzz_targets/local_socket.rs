//! The daemon's socket: several programs send whole, partial and invalid frames, read or not, listen, dial
//! each other, write to their streams, and disconnect. Invariants: no panic, bounded memory, nothing left
//! after all disconnected.
#![no_main]

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use libfuzzer_sys::fuzz_target;
use pilot_net::harness::{Harness, SELF};
use pilot_proto::wire::ipc::{self, code};

const PROGRAMS: usize = 4;
/// Turns after which all pending work is finished.
const SETTLE: usize = 60;

#[derive(Default)]
struct Program {
    socket: Option<UnixStream>,
    streams: Vec<UnixStream>,
}

impl Program {
    /// Reads pending data, keeps received descriptors and discards the rest.
    fn read(&mut self) {
        let Some(socket) = &self.socket else { return };
        let (mut bytes, mut control) = ([0_u8; 4096], [0_u64; 8]);
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: an all-zero msghdr is a valid empty one; it is made to point to live buffers of the stated
        // lengths, and a descriptor that comes is new.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            if libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) > 0 {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                if !header.is_null() {
                    let fd = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
                    self.streams.push(UnixStream::from(OwnedFd::from_raw_fd(fd)));
                }
            }
        }
    }
}

struct World {
    harness: Harness,
    programs: [Program; PROGRAMS],
}

/// Takes bytes off the front.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    head
}

fn byte(input: &mut &[u8]) -> u8 {
    take(input, 1).first().copied().unwrap_or(0)
}

/// A frame with plausible fields.
fn frame(input: &mut &[u8]) -> Vec<u8> {
    let (id, number) = (u32::from(byte(input) % 8).to_be_bytes(), u32::from(byte(input)).to_be_bytes());
    let port = u16::from(byte(input) % 10).to_be_bytes();
    let data = take(input, 16);
    match byte(input) % 20 {
        0 => ipc::frame(&[&[code::HELLO, 0, 1]]),
        1 => ipc::frame(&[&[code::OPEN_STREAM], &id, &SELF.emit(), &port, &[0; 5]]),
        2 => ipc::frame(&[&[code::LISTEN_STREAMS], &id, &port, &[0, 0]]),
        3 => ipc::frame(&[&[code::LISTEN_STREAMS], &id, &port, &[0, 0], b"/nonexistent/", data]),
        4 => ipc::frame(&[&[code::BIND_DATAGRAMS], &id, &port]),
        5 => ipc::frame(&[&[code::SEND_FROM], &port, &SELF.emit(), &port, data]),
        6 => ipc::frame(&[&[code::UNBIND_DATAGRAMS], &port]),
        7 => ipc::frame(&[&[code::CANCEL_REQUEST], &id]),
        8 => ipc::frame(&[&[code::ABORT_STREAM], &number]),
        9 => ipc::frame(&[&[code::DIAL], &SELF.emit(), &port]),
        10 => ipc::frame(&[&[code::BIND], &port]),
        11 => ipc::frame(&[&[code::SEND], &number, data]),
        12 => ipc::frame(&[&[code::CLOSE], &number]),
        13 => ipc::frame(&[&[code::REQUEST], &id, data]),
        14 => ipc::frame(&[&[code::REQUEST], &id, &[code::INFO]]),
        15 => ipc::frame(&[&[code::REQUEST], &id, &[code::DISCONNECT], &number]),
        16 => ipc::frame(&[&[code::OPEN_STREAM], &id, &[0, 0, 0, 0, 0, 99], &port, &[0; 5]]),
        17 => ipc::frame(&[&[code::REQUEST], &id, &[code::SEND_TO_CONFIRM], &SELF.emit(), &port, data]),
        18 => ipc::frame(&[data]),
        _ => data.to_vec(),
    }
}

impl World {
    fn step(&mut self, input: &mut &[u8]) {
        let action = byte(input);
        let program = &mut self.programs[usize::from(action) % PROGRAMS];
        match action / PROGRAMS as u8 % 10 {
            0 => program.socket = Some(self.harness.connect().unwrap()),
            1 => *program = Program::default(),
            2 => program.read(),
            3 => {
                if let Some(stream) = program.streams.last_mut() {
                    let _ = stream.set_nonblocking(true);
                    let _ = stream.write(take(input, 64));
                    let _ = stream.read(&mut [0; 64]);
                }
            }
            4 => drop(program.streams.pop()),
            5 => self.harness.turn().unwrap(),
            6 => {
                for (tag, command, _) in self.harness.requests() {
                    self.harness.reply(tag, vec![command + 1]);
                }
            }
            _ => {
                let frame = frame(input);
                if let Some(socket) = &mut program.socket {
                    let _ = socket.write(&frame);
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let Ok(harness) = Harness::new() else { return };
    let mut world = World { harness, programs: Default::default() };
    for program in &mut world.programs {
        program.socket = Some(world.harness.connect().unwrap());
    }
    while !input.is_empty() {
        world.step(&mut input);
    }
    for _ in 0..4 {
        world.harness.turn().unwrap();
    }
    let (clients, streams, asked, held) = world.harness.load();
    assert!(clients <= PROGRAMS + 4096 && streams <= 8192 && asked <= 4096 && held < 64 << 20);
    world.programs = Default::default();
    for _ in 0..SETTLE {
        for (tag, command, _) in world.harness.requests() {
            world.harness.reply(tag, vec![command + 1]);
        }
        world.harness.turn().unwrap();
        if world.harness.load() == (0, 0, 0, 0) {
            return;
        }
    }
    assert_eq!(world.harness.load(), (0, 0, 0, 0), "something is left");
});
