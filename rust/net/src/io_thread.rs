//! The IO thread: one loop over every descriptor, deadline and command.
//!
//! The tables below it own what they hold; this module joins them: what a driver asks concerns several.

mod accepting;
mod commands;
mod dialling;
#[cfg(any(test, feature = "harness"))]
pub mod harness;
mod requests;
mod stopping;
mod turns;

#[cfg(test)]
pub(crate) use self::turns::refuse;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Waker, event::Event as Ready, net::UnixListener};
use pilot_proto::{
    config::{NodeConfig, TransportConfig},
    node::{ConnectionId, Event, Node},
    time::Instant,
    transport::CloseReason,
    wire::addr::{NodeId, Port},
};
use tracing::{debug, error};

use crate::{
    asked::Asked,
    clients::{Clients, READ_LEN},
    clock::Clock,
    control::{Command, Config, Shared},
    counters::LocalCounters,
    datagrams::Datagrams,
    deadlines::{Deadlines, Due},
    event::HostEvent,
    forwards::Forwards,
    heap::Heap,
    limits,
    ports::Ports,
    source::Source,
    streams::{Around, Streams},
    trace,
    udp::Udp,
};

/// Readiness events taken at once.
const MAX_READY: usize = 1024;
/// The echo service (`docs/reference/protocol/services.md#echo`).
const ECHO: Port = Port(7);

/// The thread's state.
pub(crate) struct IoThread {
    clock: Clock,
    /// When this turn began.
    now: Instant,
    poll: Poll,
    node: Node,
    datagrams: Datagrams,
    ipc: Option<UnixListener>,
    /// Whether connections may wait at the daemon's socket.
    is_ipc_waiting: bool,
    clients: Clients,
    streams: Streams,
    ports: Ports,
    forwards: Forwards,
    asked: Asked,
    deadlines: Deadlines,
    /// Whether listening sockets are tried again soon.
    is_accept_due: bool,
    counters: LocalCounters,
    /// Why nodes could not be found, for those who dial them.
    reasons: BTreeMap<NodeId, String>,
    /// Whether something is left to do without waiting.
    has_more: bool,
    scratch: Vec<u8>,
    greeting: String,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    stop_at: Option<Instant>,
    heap: Heap,
    trace: trace::Sink,
}

impl IoThread {
    pub(crate) fn new(
        config: Config,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> io::Result<(Self, Waker)> {
        let clock = Clock::new();
        let now = clock.now();
        let poll = Poll::new()?;
        let registry = poll.registry();
        let waker = Waker::new(registry, Source::Wake.token())?;
        let datagrams = Datagrams::new(registry, Udp::bind(config.listen)?)?;
        let ipc = config.ipc.map(|socket| listener(registry, socket)).transpose()?;
        let transport = TransportConfig { congestion: config.congestion, ..TransportConfig::default() };
        let trace = config.trace.detail();
        let node_config = NodeConfig { transport: Arc::new(transport), trace, ..NodeConfig::default() };
        let node = Node::new(now, &config.identity_seed, &config.seed, node_config);
        let mut node = node.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        node.set_opens_sockets(true);
        if config.has_echo {
            node.listen(ECHO).map_err(io::Error::other)?;
        }
        let io_thread = Self {
            clock,
            now,
            poll,
            node,
            datagrams,
            ipc,
            is_ipc_waiting: true,
            clients: Clients::default(),
            streams: Streams::default(),
            ports: Ports::default(),
            forwards: Forwards::default(),
            asked: Asked::default(),
            deadlines: Deadlines::default(),
            is_accept_due: false,
            counters: LocalCounters::default(),
            reasons: BTreeMap::new(),
            has_more: false,
            scratch: vec![0; READ_LEN],
            greeting: config.greeting,
            commands,
            shared,
            stop_at: None,
            heap: Heap::default(),
            trace: trace::Sink::new(&config.trace)?,
        };
        Ok((io_thread, waker))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.datagrams.udp().local_addr()
    }

    /// Runs until told to stop, and says how it ended.
    pub(crate) fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.run_loop()));
        let text = match result {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => format!("the IO thread ends: {error}"),
            Err(panic) => format!("the IO thread panicked: {}", panic_text(panic.as_ref())),
        };
        if !text.is_empty() {
            error!("{text}");
        }
        let shared = Arc::clone(&self.shared);
        // What broke the loop may break the clean-up; the end is told in any case.
        let _ = catch_unwind(AssertUnwindSafe(move || self.forwards.remove_files()));
        shared.push_last(HostEvent::Stopped(text));
    }

    fn run_loop(&mut self) -> io::Result<()> {
        let mut ready = Events::with_capacity(MAX_READY);
        while !self.turn(&mut ready)? {}
        Ok(())
    }

    /// Waits for work and does a bounded part of it. Returns whether the thread may end.
    fn turn(&mut self, ready: &mut Events) -> io::Result<bool> {
        match self.poll.poll(ready, self.timeout()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.now = self.clock.now();
        self.has_more = false;
        for event in &*ready {
            self.on_ready(event);
        }
        self.clients.begin_turn();
        self.accept();
        if self.datagrams.receive(&mut self.node, self.now) {
            self.deadlines.push(self.now + limits::ACCEPT_PAUSE, Due::Udp);
        }
        self.node.handle_timeout(self.now);
        self.expire();
        self.take_commands();
        self.service();
        let is_over = self.is_over();
        if self.trace.is_on() {
            self.trace.take(&mut self.node);
        }
        Ok(is_over)
    }

    /// The streams, and what stands around them.
    fn streams(&mut self) -> (&mut Streams, Around<'_>) {
        let around = Around {
            now: self.now,
            node: &mut self.node,
            clients: &mut self.clients,
            registry: self.poll.registry(),
            counters: &mut self.counters,
        };
        (&mut self.streams, around)
    }

    /// Ends a stream with RST.
    fn reset_stream(&mut self, id: ConnectionId) {
        let (streams, mut around) = self.streams();
        streams.reset(&mut around, id);
    }

    /// Accepts connections of drivers and to forwarded paths.
    fn accept(&mut self) {
        if core::mem::take(&mut self.is_ipc_waiting) {
            self.is_ipc_waiting = self.accept_clients();
        }
        for id in self.forwards.take_waiting() {
            if self.accept_forwarded(id) {
                self.forwards.on_ready(id);
                self.has_more = true;
            }
        }
    }

    /// Waits before listening sockets are tried again; the poll tells nothing of those who wait already.
    fn pause_accept(&mut self, error: &io::Error) {
        debug!("a connection cannot be accepted for now: {error}");
        self.counters.dropped_accepts += 1;
        if !core::mem::replace(&mut self.is_accept_due, true) {
            self.deadlines.push(self.now + limits::ACCEPT_PAUSE, Due::Accept);
        }
    }

    /// Acts on the shell's own deadlines.
    fn expire(&mut self) {
        while let Some(due) = self.deadlines.expire(self.now) {
            match due {
                Due::Stream(id) => self.expire_stream(id),
                Due::Path(port) => self.retry_path(port),
                Due::Udp => self.datagrams.retry(),
                Due::Spare => {
                    if let Some(at) = self.datagrams.expire_spare(self.now) {
                        self.deadlines.push(at, Due::Spare);
                    }
                }
                Due::Orphan(id) => {
                    if self.clients.get(id).is_some_and(|client| client.is_gone()) {
                        self.drop_client(id);
                    }
                }
                Due::Accept => {
                    self.is_accept_due = false;
                    self.is_ipc_waiting = true;
                    self.forwards.on_all_ready();
                    self.has_more = true;
                }
            }
        }
    }

    /// How long there is nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.datagrams.may_receive() || self.has_more {
            return Some(Duration::ZERO);
        }
        let own = self.deadlines.next_at();
        let next = [self.node.poll_timeout(), own, self.heap.poll_timeout(), self.stop_at]
            .into_iter()
            .flatten()
            .min();
        let wait = next.map(|at| at.saturating_since(self.clock.now()));
        if self.clients.has_deferred() {
            Some(wait.map_or(limits::PACE, |wait| wait.min(limits::PACE)))
        } else {
            wait
        }
    }

    fn on_ready(&mut self, event: &Ready) {
        match Source::of(event.token()) {
            Source::Udp => self.datagrams.on_ready(self.poll.registry(), event),
            Source::Spare(id) => self.datagrams.on_spare_ready(id),
            Source::Ipc => self.is_ipc_waiting = true,
            Source::Wake => {}
            Source::Client(id) => {
                if self.clients.on_ready(self.poll.registry(), id, event) {
                    self.on_gone(id);
                }
            }
            Source::Bridge(id) => {
                let (streams, mut around) = self.streams();
                streams.on_ready(&mut around, id, event);
            }
            Source::Forward(id) => self.forwards.on_ready(id),
        }
    }

    /// Sends, reports and moves data, until nothing more can be done without waiting or others must have
    /// their turn.
    fn service(&mut self) {
        self.heap.follow(self.now, self.node.footprint() + self.clients.held());
        for _ in 0..limits::TURN_PASSES {
            self.transmit();
            let is_idle = !self.take_events() & self.clients.is_idle();
            let dirty = self.clients.take_dirty();
            let share = limits::TURN_ALL_FRAMES / dirty.len().max(1);
            let share = share.clamp(limits::MIN_TURN_FRAMES, limits::TURN_FRAMES);
            for id in dirty {
                self.serve_client(id, share);
            }
            if is_idle {
                return;
            }
        }
        self.has_more = true;
    }

    fn transmit(&mut self) {
        self.has_more |= self.datagrams.transmit(&mut self.node, self.now, self.poll.registry());
    }

    /// Acts on what happened in the node. Returns whether something did.
    fn take_events(&mut self) -> bool {
        for count in 0..limits::PASS_EVENTS {
            let Some(event) = self.node.poll_event() else { return count > 0 };
            self.on_node_event(event);
        }
        true
    }

    fn on_node_event(&mut self, event: Event) {
        match event {
            Event::RecordNeeded(node) => {
                if !self.shared.push(HostEvent::RecordNeeded(node)) {
                    self.node.on_no_record(node);
                }
            }
            Event::KeyNeeded(node) => {
                if !self.shared.push(HostEvent::KeyNeeded(node)) {
                    self.node.on_key(self.now, node, None);
                }
            }
            Event::AdmissionNeeded(caller, key) => {
                if !self.shared.push(HostEvent::AdmissionNeeded(caller, key)) {
                    self.node.on_admission(self.now, caller, false, Duration::ZERO);
                }
            }
            Event::PolicyNeeded(network) => {
                self.shared.push(HostEvent::PolicyNeeded(network));
            }
            Event::EndpointDiscovered(endpoint) => {
                self.shared.push(HostEvent::EndpointDiscovered(endpoint));
            }
            Event::HomeChanged(beacon) => {
                self.shared.push(HostEvent::HomeChanged(beacon));
            }
            Event::PathChanged(node, route) => {
                self.shared.push(HostEvent::PathChanged(node, route));
            }
            Event::SocketsNeeded { to, datagrams } => {
                let registry = self.poll.registry();
                if let Some(at) = self.datagrams.open_spare(self.now, registry, to, &datagrams) {
                    self.deadlines.push(at, Due::Spare);
                }
            }
            Event::Connected(id) => self.on_connected(id),
            Event::Accepted(id) => self.on_accepted(id),
            Event::Closed(id, reason) => self.on_closed(id, reason),
            Event::Datagram { src, src_port, dst_port, data } => {
                self.on_datagram(src, src_port, dst_port, &data);
            }
            Event::Readable(id) => {
                let (streams, mut around) = self.streams();
                streams.pump(&mut around, id);
            }
            Event::Writable(id) => {
                let (streams, mut around) = self.streams();
                streams.on_writable(&mut around, id);
            }
            Event::RemoteFinished(id) => {
                let (streams, mut around) = self.streams();
                streams.on_remote_finished(&mut around, id);
            }
        }
    }

    fn on_closed(&mut self, id: ConnectionId, reason: CloseReason) {
        use crate::streams::Ended;
        let (streams, mut around) = self.streams();
        match streams.on_closed(&mut around, id, reason) {
            Ended::Done => {}
            Ended::Dial => self.on_dial_failed(id, reason),
            Ended::Broken(client) => {
                self.tell_failure(client, id, reason);
                let (streams, mut around) = self.streams();
                streams.drop_broken(&mut around, id);
            }
        }
    }
}

/// The daemon's listening socket.
fn listener(registry: &Registry, socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    let mut listener = UnixListener::from_std(socket);
    registry.register(&mut listener, Source::Ipc.token(), Interest::READABLE)?;
    Ok(listener)
}

/// Whether an error of `accept(2)` is about one connection, not about the listening socket.
fn is_of_one(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// What a panic says.
fn panic_text(panic: &(dyn core::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
