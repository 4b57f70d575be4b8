//! What the machine can do at best: four processes, Unix sockets at both ends, CRC, AES-256-GCM, UDP
//! with GSO and GRO in between, and no protocol. Credits keep the socket's buffer from overflowing.
//!
//! `bare_pipe --bytes N --segment N` prints `{"mb_per_s": X}`.
#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first error")]
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    io::{IoSliceMut, Read, Write},
    net::UdpSocket,
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::Instant,
};

use pilot_proto::{
    crypto::{Suite, aead::TunnelKey},
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{Frame, Nonce, SEALED_HEADER_LEN, SEALED_OVERHEAD, SealedHeader, TAG_LEN},
    },
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

const CHUNK: usize = 256 << 10;
const MAX_BATCH: usize = 65_507;

fn argument(name: &str) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().and_then(|value| value.parse().ok()).expect("--bytes N --segment N")
}

fn child(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the process has one thread, so the child may do anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        work();
        std::process::exit(0);
    }
    pid
}

fn key() -> TunnelKey {
    TunnelKey::new(Suite::G2, &[7; 32]).unwrap()
}

fn seal(
    mut from: UnixStream,
    udp: &UdpSocket,
    to: std::net::SocketAddr,
    mut credits: UnixStream,
    segment: usize,
    window: u64,
) {
    let state = UdpSocketState::new(UdpSockRef::from(udp)).unwrap();
    let frame_len = segment + HEADER_LEN + SEALED_OVERHEAD;
    let per_batch = state.max_gso_segments().min(MAX_BATCH / frame_len);
    let (key, mut data, mut batch) = (key(), vec![0; CHUNK], vec![0; MAX_BATCH]);
    let (mut counter, mut sent, mut credited) = (0, 0_u64, 0_u64);
    loop {
        let n = from.read(&mut data).unwrap();
        if n == 0 {
            return;
        }
        for pieces in data[..n].chunks(segment * per_batch) {
            let mut used = 0;
            for piece in pieces.chunks(segment) {
                let frame = &mut batch[used..used + piece.len() + HEADER_LEN + SEALED_OVERHEAD];
                let packet_end = frame.len() - TAG_LEN;
                frame[SEALED_HEADER_LEN + HEADER_LEN..packet_end].copy_from_slice(piece);
                let header = Header {
                    flags: Flags::ACK,
                    protocol: Protocol::Stream,
                    src: Address::backbone(NodeId(1)),
                    dst: Address::backbone(NodeId(2)),
                    src_port: Port(1),
                    dst_port: Port(2),
                    seq: SeqNumber::default(),
                    ack: SeqNumber::default(),
                    window: 512,
                };
                assert!(header.emit(&mut frame[SEALED_HEADER_LEN..packet_end]));
                counter += 1;
                let nonce = Nonce { prefix: 1, counter };
                key.seal(SealedHeader { sender: NodeId(1), nonce }, frame).unwrap();
                used += frame.len();
            }
            while sent - credited > window {
                let mut total = [0; 8];
                credits.read_exact(&mut total).unwrap();
                credited = u64::from_be_bytes(total);
            }
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: &batch[..used],
                segment_size: (used > frame_len).then_some(frame_len),
                src_ip: None,
            };
            while let Err(error) = state.try_send(UdpSockRef::from(udp), &transmit) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
            }
            sent += pieces.len() as u64;
        }
    }
}

fn open(udp: &UdpSocket, mut to: UnixStream, mut credits: UnixStream, bytes: usize) {
    let state = UdpSocketState::new(UdpSockRef::from(udp)).unwrap();
    let (key, mut buffers, mut out) = (key(), vec![vec![0; 1 << 16]; BATCH_SIZE], Vec::new());
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut total = 0;
    while total < bytes {
        let mut iter = buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            core::array::from_fn(|_| IoSliceMut::new(iter.next().unwrap()));
        let count = match state.recv(UdpSockRef::from(udp), &mut slices, &mut metas) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut ready = libc::pollfd { fd: udp.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one live pollfd is passed, and its number.
                unsafe { libc::poll(&raw mut ready, 1, -1) };
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        out.clear();
        for (meta, buffer) in metas.iter().zip(&mut buffers).take(count) {
            for datagram in buffer[..meta.len].chunks_mut(meta.stride) {
                let Ok(Frame::Sealed(header)) = Frame::parse(datagram) else { panic!("no frame") };
                let packet = key.open(header, datagram).unwrap();
                let (_, payload) = Header::parse(packet).unwrap();
                out.extend_from_slice(payload);
            }
        }
        total += out.len();
        to.write_all(&out).unwrap();
        credits.write_all(&(total as u64).to_be_bytes()).unwrap();
    }
}

fn main() {
    let (bytes, segment) = (argument("--bytes"), argument("--segment"));
    let (app_a, pipe_a) = UnixStream::pair().unwrap();
    let (pipe_b, mut app_b) = UnixStream::pair().unwrap();
    let (credit_a, credit_b) = UnixStream::pair().unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    // What is on its way must fit the receiver's buffer, which counts its bookkeeping, too.
    let state = UdpSocketState::new(UdpSockRef::from(&receiver)).unwrap();
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&receiver), 4 << 20);
    let window = state.recv_buffer_size(UdpSockRef::from(&receiver)).unwrap() as u64 / 4;
    let begin = Instant::now();
    let mut app_a = Some(app_a);
    let children = [
        child(|| {
            let (mut app, chunk) = (app_a.take().unwrap(), vec![0; CHUNK]);
            let mut left = bytes;
            while left > 0 {
                let n = left.min(CHUNK);
                app.write_all(&chunk[..n]).unwrap();
                left -= n;
            }
        }),
        child(|| {
            seal(pipe_a.try_clone().unwrap(), &sender, to, credit_a.try_clone().unwrap(), segment, window)
        }),
        child(|| open(&receiver, pipe_b.try_clone().unwrap(), credit_b.try_clone().unwrap(), bytes)),
    ];
    let (mut got, mut buffer) = (0, vec![0; CHUNK]);
    while got < bytes {
        let n = app_b.read(&mut buffer).unwrap();
        assert!(n > 0, "the pipe broke after {got} bytes");
        got += n;
    }
    let seconds = begin.elapsed().as_secs_f64();
    for pid in children {
        // SAFETY: these are our children; a kill of an ended one is harmless.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, core::ptr::null_mut(), 0);
        }
    }
    println!("{{\"mb_per_s\": {}}}", got as f64 / seconds / 1e6);
}
