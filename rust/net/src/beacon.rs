//! The beacon: tells nodes where their datagrams come from, and, for its registry, that something waits
//! for them there (`docs/reference/protocol/beacon.md`).

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use pilot_proto::{
    time::Instant,
    wire::{addr::NodeId, beacon::Message},
};

use crate::clock::Clock;

/// Octets of the longest message that is read.
const RECV_LEN: usize = 1 << 16;

/// Time for which a node's endpoint is good; nodes announce themselves every 30 to 60 seconds.
const ENDPOINT_TTL: Duration = Duration::from_secs(600);
/// Nodes whose endpoint is kept.
const MAX_NODES: usize = 500_000;
/// Least time between two searches for endpoints that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Kind of a Notify: handshakes wait at the registry.
const HANDSHAKES_WAIT: u8 = 1;

/// What a beacon has done.
#[derive(Debug, Default)]
pub struct BeaconCounters {
    /// Endpoints told.
    pub discovered: AtomicU64,
    /// Nodes that were told to ask the registry.
    pub notified: AtomicU64,
    /// Datagrams that are no message, or one that this beacon does not serve.
    pub dropped: AtomicU64,
}

/// Where nodes announced themselves from.
#[derive(Default)]
struct Endpoints {
    nodes: BTreeMap<NodeId, (SocketAddr, Instant)>,
    last_sweep: Option<Instant>,
}

impl Endpoints {
    fn learn(&mut self, node: NodeId, endpoint: SocketAddr, now: Instant) {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&node) {
            if self.last_sweep.is_some_and(|last| now < last + SWEEP_INTERVAL) {
                return;
            }
            self.last_sweep = Some(now);
            self.nodes.retain(|_, (_, heard)| now < *heard + ENDPOINT_TTL);
            if self.nodes.len() >= MAX_NODES {
                return;
            }
        }
        self.nodes.insert(node, (endpoint, now));
    }

    fn find(&self, node: NodeId, now: Instant) -> Option<SocketAddr> {
        let (endpoint, heard) = self.nodes.get(&node)?;
        (now < *heard + ENDPOINT_TTL).then_some(*endpoint)
    }
}

/// What the thread and its owner share.
struct Shared {
    socket: UdpSocket,
    clock: Clock,
    counters: BeaconCounters,
    endpoints: Mutex<Endpoints>,
    is_stopping: AtomicBool,
}

/// A beacon and its thread.
pub struct Beacon {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Beacon {
    /// Binds and starts.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn start(listen: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: UdpSocket::bind(listen)?,
            clock: Clock::new(),
            counters: BeaconCounters::default(),
            endpoints: Mutex::default(),
            is_stopping: AtomicBool::new(false),
        });
        let worker = {
            let shared = Arc::clone(&shared);
            move || serve(&shared)
        };
        let thread = thread::Builder::new().name("pilot-beacon".into()).spawn(worker)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// What it has done.
    pub fn counters(&self) -> &BeaconCounters {
        &self.shared.counters
    }

    /// Tells a node that handshakes wait for it at the registry, if it announced itself lately. A
    /// datagram may be lost; nodes ask from time to time anyway.
    pub fn notify(&self, node: NodeId) {
        let shared = &*self.shared;
        let found = shared.endpoints().find(node, shared.clock.now());
        let Some(endpoint) = found else { return };
        let mut octets = Vec::new();
        Message::Notify { kind: HANDSHAKES_WAIT }.emit(&mut octets);
        if shared.socket.send_to(&octets, endpoint).is_ok() {
            shared.counters.notified.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stops and waits for the end.
    pub fn stop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let Ok(mut address) = self.local_addr() else { return };
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // The thread waits for a datagram.
        let _ = self.shared.socket.send_to(&[], address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn endpoints(&self) -> std::sync::MutexGuard<'_, Endpoints> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(shared: &Shared) {
    let mut buffer = vec![0; RECV_LEN];
    let mut answer = Vec::new();
    loop {
        let received = shared.socket.recv_from(&mut buffer);
        if shared.is_stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok((len, from)) = received else { continue };
        answer.clear();
        match Message::parse(&buffer[..len]) {
            Ok(Message::Discover { node, .. }) => {
                // A dual-stack socket shows IPv4 as IPv6.
                let origin = SocketAddr::new(from.ip().to_canonical(), from.port());
                Message::DiscoverReply(origin).emit(&mut answer);
                let _ = shared.socket.send_to(&answer, from);
                shared.counters.discovered.fetch_add(1, Ordering::Relaxed);
                // Whoever asks before it has an id asks with 0.
                if node.0 != 0 {
                    shared.endpoints().learn(node, from, shared.clock.now());
                }
            }
            Ok(_) | Err(_) => {
                shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_both_families_where_they_come_from() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let mut beacon = Beacon::start(listen.parse().unwrap()).unwrap();
            let socket = UdpSocket::bind(listen).unwrap();
            let ours = socket.local_addr().unwrap();
            let mut buffer = [0; 64];
            socket.send_to(b"\x05garbage", beacon.local_addr().unwrap()).unwrap();
            socket.send_to(&[1, 0, 0, 0, 9], beacon.local_addr().unwrap()).unwrap();
            let (len, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(Message::parse(&buffer[..len]), Ok(Message::DiscoverReply(ours)));
            beacon.stop();
            assert_eq!(beacon.counters().dropped.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn tells_ipv4_as_such_on_a_dual_stack_socket() {
        let beacon = Beacon::start("[::]:0".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 64];
        socket.send_to(&[1, 0, 0, 0, 9], ("127.0.0.1", beacon.local_addr().unwrap().port())).unwrap();
        let (len, _) = socket.recv_from(&mut buffer).unwrap();
        let ours = socket.local_addr().unwrap();
        assert_eq!(Message::parse(&buffer[..len]), Ok(Message::DiscoverReply(ours)));
    }

    #[test]
    fn notifies_the_nodes_that_announced_themselves() {
        let beacon = Beacon::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 64];
        for node in [0, 7] {
            let mut octets = Vec::new();
            let discover = Message::Discover { node: NodeId(node), identity_key: None, is_extended: false };
            discover.emit(&mut octets);
            socket.send_to(&octets, beacon.local_addr().unwrap()).unwrap();
            socket.recv_from(&mut buffer).unwrap();
        }
        // The reply leaves before the endpoint is learnt.
        while beacon.shared.endpoints().nodes.is_empty() {
            thread::yield_now();
        }
        beacon.notify(NodeId(0));
        beacon.notify(NodeId(8));
        beacon.notify(NodeId(7));
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(Message::parse(&buffer[..len]), Ok(Message::Notify { kind: HANDSHAKES_WAIT }));
        assert_eq!(from, beacon.local_addr().unwrap());
        assert_eq!(beacon.counters().notified.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn endpoints_grow_old_and_are_bounded() {
        let mut endpoints = Endpoints::default();
        let from = "192.0.2.1:4000".parse().unwrap();
        let start = Instant::from_nanos(0);
        for node in 1..=u32::try_from(MAX_NODES).unwrap() + 9 {
            endpoints.learn(NodeId(node), from, start);
        }
        assert_eq!(endpoints.nodes.len(), MAX_NODES);
        assert_eq!(endpoints.find(NodeId(1), start + ENDPOINT_TTL / 2), Some(from));
        let later = start + ENDPOINT_TTL;
        assert_eq!(endpoints.find(NodeId(1), later), None);
        endpoints.learn(NodeId(0xffff_fff0), from, later);
        assert_eq!(endpoints.nodes.len(), 1);
    }
}
