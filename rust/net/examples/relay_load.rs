//! Load for a relay: greedy flows, whose windows are always full, and a thin one whose delays are measured.
//!
//! `relay_load flood TARGET FLOWS FRAME SECONDS` announces nodes 1 to FLOWS and 1001 to 1000+FLOWS, each at a
//! socket of its own, and sends frames of FRAME bytes from each of the former to one of the latter. Prints
//! `{"sent": packets, "received": packets, "seconds": X, "flows": [packets received, ...]}`.
//!
//! `relay_load thin TARGET PACKETS INTERVAL_US` sends small frames from node 2001 to node 2002 and prints
//! `{"p50_us": X, "p99_us": X, "lost": N}`.
//!
//! `flood` with TARGET `plain:ADDRESS@SINK` sends the same datagrams to a forwarder that knows no nodes, and
//! counts what arrives at SINK.
#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first error")]
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use pilot_proto::wire::{addr::NodeId, beacon::Message};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

const BUFFER: usize = 1 << 16;
const SOCKET_BUFFER: usize = 4 << 20;
/// Packets of one batch, and those of one flow that may be on their way: bulk transfers whose windows are
/// full, which together keep the relay busy without a pause.
const BATCH: usize = 16;
const WINDOW: u64 = 64;
/// Time after which packets on their way are given up.
const GIVE_UP: Duration = Duration::from_millis(20);
/// Id of the receiver of the first flow, and of the two ends of the thin one.
const RECEIVERS: u32 = 1001;
const THIN: [u32; 2] = [2001, 2002];
/// Bytes of a frame of the thin flow.
const THIN_FRAME: usize = 100;

/// A socket with its batches.
struct End {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl End {
    fn new(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        #[cfg(target_os = "linux")]
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &SOCKET_BUFFER);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        Self { socket, state }
    }

    /// A socket that has announced itself as a node.
    fn announced(target: SocketAddr, node: u32) -> Self {
        let any = SocketAddr::new(target.ip(), 0);
        let end = Self::new(any);
        end.socket.set_nonblocking(false).unwrap();
        end.socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = Vec::new();
        Message::Discover { node: NodeId(node), identity_key: None, is_extended: true }.emit(&mut bytes);
        end.socket.send_to(&bytes, target).unwrap();
        end.socket.recv(&mut [0; 64]).expect("the relay answers");
        end.socket.set_read_timeout(None).unwrap();
        end.socket.set_nonblocking(true).unwrap();
        end
    }

    fn send(&self, destination: SocketAddr, contents: &[u8], segment: usize) -> bool {
        let segment_size = (contents.len() > segment).then_some(segment);
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).is_ok()
    }
}

/// Buffers to receive into.
struct Receiver {
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Receiver {
    fn new() -> Self {
        Self { buffers: vec![0; BUFFER * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// Packets that wait at a socket.
    fn count(&mut self, end: &End) -> u64 {
        let mut total = 0;
        loop {
            let mut chunks = self.buffers.chunks_exact_mut(BUFFER).map(IoSliceMut::new);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = core::array::from_fn(|_| chunks.next().unwrap());
            match end.state.recv(UdpSockRef::from(&end.socket), &mut slices, &mut self.metas) {
                Ok(count) => {
                    let packets =
                        self.metas[..count].iter().map(|meta| meta.len.div_ceil(meta.stride.max(1)));
                    total += packets.sum::<usize>() as u64;
                    if count < BATCH_SIZE {
                        return total;
                    }
                }
                Err(_) => return total,
            }
        }
    }
}

fn relayed(sender: u32, destination: u32, frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Message::Relay { sender: NodeId(sender), destination: NodeId(destination), frame }.emit(&mut bytes);
    bytes
}

/// A flow that always has data, and a window of what may be on its way.
#[derive(Clone)]
struct Flow {
    batch: Vec<u8>,
    sent: u64,
    /// Packets that have arrived, or were given up.
    settled: u64,
    heard: Instant,
}

impl Flow {
    fn may_send(&mut self, window: u64) -> bool {
        if self.heard.elapsed() > GIVE_UP {
            self.heard = Instant::now();
            self.settled = self.sent;
        }
        self.sent - self.settled < window
    }
}

fn flood(target: &str, flows: u32, frame: usize, seconds: f64) {
    let plain = target.strip_prefix("plain:").and_then(|rest| rest.split_once('@'));
    let address: SocketAddr = plain.map_or(target, |(address, _)| address).parse().unwrap();
    let (senders, receivers): (Vec<_>, Vec<_>) = match plain {
        Some((_, sink)) => {
            let any = SocketAddr::new(address.ip(), 0);
            ((0..flows).map(|_| End::new(any)).collect(), vec![End::new(sink.parse().unwrap())])
        }
        None => {
            let end = |node| End::announced(address, node);
            ((1..=flows).map(end).collect(), (RECEIVERS..RECEIVERS + flows).map(end).collect())
        }
    };
    let packet = frame + 9;
    let begin = Instant::now();
    let flow = |n| {
        let batch = relayed(1 + n, RECEIVERS + n, &vec![0x50; frame]).repeat(BATCH);
        Flow { batch, sent: 0, settled: 0, heard: begin }
    };
    let mut flows: Vec<_> = (0..flows).map(flow).collect();
    let mut received = vec![0; receivers.len()];
    let mut receiver = Receiver::new();
    while begin.elapsed().as_secs_f64() < seconds {
        for n in 0..flows.len() {
            if let Some(end) = receivers.get(n) {
                let count = receiver.count(end);
                received[n] += count;
                settle(&mut flows, n, count, receivers.len() > 1);
            }
            if flows[n].may_send(WINDOW) && senders[n].send(address, &flows[n].batch, packet) {
                flows[n].sent += BATCH as u64;
            }
        }
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let (sent, total) = (flows.iter().map(|flow| flow.sent).sum::<u64>(), received.iter().sum::<u64>());
    println!("{{\"sent\": {sent}, \"received\": {total}, \"seconds\": {elapsed}, \"flows\": {received:?}}}");
}

/// Counts packets that arrived for a flow, or for all of them alike if there is one receiver.
fn settle(flows: &mut [Flow], n: usize, count: u64, is_own: bool) {
    let share = if is_own { 1 } else { flows.len() as u64 };
    let which = if is_own { n..n + 1 } else { 0..flows.len() };
    for flow in flows[which].iter_mut().filter(|_| count > 0) {
        flow.settled = (flow.settled + count.div_ceil(share)).min(flow.sent);
        flow.heard = Instant::now();
    }
}

fn thin(target: SocketAddr, packets: usize, interval: Duration) {
    let [sender, receiver] = THIN.map(|node| End::announced(target, node));
    receiver.socket.set_nonblocking(false).unwrap();
    receiver.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut delays, mut lost) = (Vec::new(), 0);
    let begin = Instant::now();
    for n in 0..packets {
        let due = begin + interval * u32::try_from(n).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut frame = vec![0x50; THIN_FRAME];
        frame[4..8].copy_from_slice(&u32::try_from(n).unwrap().to_be_bytes());
        let at = Instant::now();
        let bytes = relayed(THIN[0], THIN[1], &frame);
        sender.send(target, &bytes, bytes.len());
        let mut buffer = [0; 2048];
        loop {
            match receiver.socket.recv(&mut buffer) {
                Ok(len) if buffer[..len].ends_with(&frame[4..]) => break delays.push(at.elapsed()),
                // One that was given up.
                Ok(_) => {}
                Err(_) => break lost += 1,
            }
        }
    }
    delays.sort();
    let at = |share: usize| delays.get(delays.len() * share / 100).map_or(-1.0, |d| d.as_secs_f64() * 1e6);
    println!("{{\"p50_us\": {:.1}, \"p99_us\": {:.1}, \"lost\": {lost}}}", at(50), at(99));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["flood", target, flows, frame, seconds] => {
            flood(target, flows.parse().unwrap(), frame.parse().unwrap(), seconds.parse().unwrap());
        }
        ["thin", target, packets, interval] => {
            let interval = Duration::from_micros(interval.parse().unwrap());
            thin(target.parse().unwrap(), packets.parse().unwrap(), interval);
        }
        _ => panic!("flood or thin"),
    }
}
