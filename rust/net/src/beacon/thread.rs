//! The loop: receive what has arrived, send what the beacon's queue gives, and wait for more.

use std::{
    io,
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker};
use pilot_proto::{
    beacon::{Arrival, Beacon, Transmit},
    time::Instant,
    wire::addr::NodeId,
};
use tracing::{error, warn};

use super::{Config, Report, core_config, probes::Probes};
use crate::{clock::Clock, udp::Udp};

const WAKE: Token = Token(0);
const UDP: Token = Token(1);
const FIRST_PROBE: Token = Token(2);
/// Kind of a Notify: handshakes wait at the registry.
const HANDSHAKES_WAIT: u8 = 1;
/// Bytes of the kernel's buffer for what arrives while the thread sends.
const RECV_BUFFER: usize = 8 << 20;
/// Bytes received, and bytes sent, before the other has its turn. Receiving has the larger share: what waits
/// in the socket has no order but that of its arrival, and is dropped without regard to fairness; what waits in
/// the queue is not. But receiving what is dropped from a full queue is in vain, so while that is most of
/// what arrives, both have the same share.
const RECV_TURN: usize = 4 << 20;
const SEND_TURN: usize = 128 << 10;
/// Batches, of 64 KiB at most, received by one system call, and by one of those that receive in vain.
const RECV_AT_ONCE: usize = 32;
const RECV_IN_VAIN: usize = 8;
/// Time before a socket that fails is tried again.
const REST: Duration = Duration::from_millis(100);
const MAX_READY: usize = 128;

/// Asks for a receive buffer beyond the limit of the system, which privileged processes may.
fn enlarge(udp: &Udp) {
    #[cfg(target_os = "linux")]
    // Without the privilege the limit holds, which was logged.
    let _ = nix::sys::socket::setsockopt(&udp.socket, nix::sys::socket::sockopt::RcvBufForce, &RECV_BUFFER);
    #[cfg(not(target_os = "linux"))]
    let _ = udp;
}

/// What the owner asks of the thread.
pub(super) enum Command {
    SetBeacons(Vec<SocketAddr>),
    Notify(Vec<NodeId>),
    TakeUnconfirmed(usize, SyncSender<Vec<NodeId>>),
    SetKey(NodeId, Option<[u8; 32]>),
    Report(SyncSender<Report>),
    Stop,
}

/// The thread's state.
pub(super) struct BeaconThread {
    clock: Clock,
    poll: Poll,
    udp: Udp,
    probes: Probes,
    beacon: Beacon,
    commands: Receiver<Command>,
    out: Vec<u8>,
    /// A batch that the socket did not take.
    blocked: Option<Transmit>,
    is_readable: bool,
    has_errors: bool,
    /// Whether most of what arrived was dropped, because too much waits already.
    is_overloaded: bool,
    retry_at: Option<Instant>,
    is_stopping: bool,
}

impl BeaconThread {
    pub(super) fn new(config: Config, commands: Receiver<Command>) -> io::Result<(Self, Waker)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mut udp = Udp::bind(config.listen)?;
        enlarge(&udp);
        poll.registry().register(&mut udp.socket, UDP, Interest::READABLE)?;
        let probes = Probes::bind(poll.registry(), FIRST_PROBE, config.listen.ip(), &config.probe_ports)?;
        let beacon = Beacon::new(core_config(&config, probes.ports()?));
        let thread = Self {
            clock: Clock::new(),
            poll,
            udp,
            probes,
            beacon,
            commands,
            out: Vec::new(),
            blocked: None,
            is_readable: true,
            has_errors: false,
            is_overloaded: false,
            retry_at: None,
            is_stopping: false,
        };
        Ok((thread, waker))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut ready = Events::with_capacity(MAX_READY);
        let mut has_more = true;
        while !self.is_stopping {
            let timeout = if has_more { Some(Duration::ZERO) } else { self.timeout() };
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    error!("the beacon ends: {error}");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            self.on_ready(&ready);
            has_more = self.turn();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let due = [self.beacon.poll_timeout(), self.retry_at].into_iter().flatten().min()?;
        Some(due.saturating_since(self.clock.now()))
    }

    fn on_ready(&mut self, ready: &Events) {
        for event in ready {
            match event.token() {
                WAKE => {}
                UDP => {
                    let is_blocked = self.blocked.is_some();
                    self.udp.room.on_event(self.poll.registry(), &mut self.udp.socket, UDP, is_blocked);
                    self.is_readable |= event.is_readable() || event.is_error();
                    self.has_errors |= event.is_error();
                }
                Token(n) => self.probes.on_ready(n - FIRST_PROBE.0),
            }
        }
    }

    /// Does a bounded part of the work. Returns whether there is more.
    fn turn(&mut self) -> bool {
        let now = self.clock.now();
        self.take_commands(now);
        if self.beacon.poll_timeout().is_some_and(|due| now >= due) {
            self.beacon.handle_timeout(now);
        }
        let mut has_more = self.probes.receive(|port, from, bytes| {
            self.beacon.handle_probe(now, port, from, bytes);
        });
        self.receive(now);
        has_more |= self.transmit(now);
        has_more || self.is_readable
    }

    fn take_commands(&mut self, now: Instant) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::SetBeacons(beacons) => self.beacon.set_beacons(now, beacons),
                Command::Notify(nodes) => {
                    for node in nodes {
                        self.beacon.notify(now, node, HANDSHAKES_WAIT);
                    }
                }
                Command::TakeUnconfirmed(most, sender) => {
                    // The owner may wait no longer.
                    let _ = sender.try_send(self.beacon.take_unconfirmed(most));
                }
                Command::SetKey(node, key) => self.beacon.on_registry_key(now, node, key),
                Command::Report(sender) => {
                    let report = Report {
                        counters: *self.beacon.counters(),
                        holdings: self.beacon.holdings(),
                        socket_errors: self.udp.dropped(),
                    };
                    // The owner may wait no longer.
                    let _ = sender.try_send(report);
                }
                Command::Stop => self.is_stopping = true,
            }
        }
    }

    fn receive(&mut self, now: Instant) {
        if self.has_errors {
            // What the network says of datagrams that were too large concerns their senders.
            self.has_errors = self.udp.errors(|_| {});
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.is_readable = true;
        }
        let before = *self.beacon.counters();
        let (most, at_once) =
            if self.is_overloaded { (SEND_TURN, RECV_IN_VAIN) } else { (RECV_TURN, RECV_AT_ONCE) };
        let mut received = 0;
        while self.is_readable && received < most {
            let beacon = &mut self.beacon;
            self.is_readable = self.udp.recv_coalesced(at_once, |meta, buffer| {
                received += meta.len;
                let arrival = Arrival { from: meta.addr, local: meta.dst_ip, stride: meta.stride };
                beacon.handle_buffer(now, arrival, buffer, meta.len);
            });
            if self.udp.is_failing() {
                warn!("the beacon's socket cannot receive");
                self.is_readable = false;
                self.retry_at = Some(now + REST);
            }
        }
        let after = self.beacon.counters();
        let dropped = after.dropped_pair - before.dropped_pair;
        let taken = (after.relayed + after.forwarded) - (before.relayed + before.forwarded);
        self.is_overloaded = dropped > taken;
    }

    /// Sends what waits, as far as the socket takes it. Returns whether there is more that it may take.
    fn transmit(&mut self, now: Instant) -> bool {
        let max_segments = self.udp.max_gso_segments();
        let mut sent = 0;
        while sent < SEND_TURN {
            let blocked = self.blocked.take();
            let next = || self.beacon.poll_transmit(now, &mut self.out, max_segments);
            let Some(transmit) = blocked.or_else(next) else { return false };
            let contents = &self.out[..transmit.len];
            if self.udp.send(transmit.destination, contents, transmit.segment_size).is_err() {
                self.blocked = Some(transmit);
                return self.udp.room.watch(self.poll.registry(), &mut self.udp.socket, UDP).is_err();
            }
            sent += transmit.len;
        }
        true
    }
}
