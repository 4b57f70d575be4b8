//! The IO thread: one loop over every descriptor, deadline and command.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, event::Event as Ready, net::UnixListener};
use pilot_proto::{
    config::{NodeConfig, TransportConfig},
    node::{ConnectionId, Event, Node, Transmit},
    time::Instant,
    transport::{CloseReason, State},
    wire::{
        addr::Port,
        ipc::{self, code},
    },
};
use tracing::{debug, error};

use crate::{
    asked::Asked,
    client::{Client, READ_LEN},
    clock::Clock,
    dial::Forward,
    handle::{Command, Config, ConnectionRow, HostEvent, PeerRow, Shared, Snapshot},
    heap::Heap,
    limits::{self, LocalCounters},
    listen::Listener,
    stream::{Owner, Stream},
    trace,
    udp::{SEND_LEN, Udp},
};

/// Names a connected driver.
/// Never used again.
pub type ClientId = u64;

/// Readiness events taken at once.
const MAX_READY: usize = 1024;
/// How long streams may finish when the daemon stops.
const LINGER: Duration = Duration::from_secs(1);
/// The echo service (`docs/reference/protocol/services.md#echo`).
pub(crate) const ECHO: Port = Port(7);

const UDP: Token = Token(0);
const IPC: Token = Token(1);
const WAKE: Token = Token(2);
const KIND_SHIFT: u32 = 56;

/// What a token's descriptor is; its id is in the low bits.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Client = 1,
    Bridge = 2,
    Forward = 3,
}

pub(crate) fn token(kind: Kind, id: impl Into<u64>) -> Token {
    Token((kind as usize) << KIND_SHIFT | usize::try_from(id.into()).unwrap_or(0))
}

/// What a deadline of the shell is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A dial, or a stream to a path, whose time is over.
    Stream(ConnectionId),
    /// The path of a listener is tried again.
    Path(Port),
    /// Listening sockets are tried again.
    Accept,
    /// The UDP socket is tried again.
    Udp,
    /// A driver that is gone and whose streams do not take what it left.
    Orphan(ClientId),
}

/// The thread's state.
pub(crate) struct Driver {
    clock: Clock,
    pub(crate) now: Instant,
    pub(crate) poll: Poll,
    pub(crate) node: Node,
    udp: Udp,
    is_udp_readable: bool,
    has_udp_errors: bool,
    pub(crate) ipc: UnixListener,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    pub(crate) next_client: ClientId,
    pub(crate) dirty_clients: BTreeSet<ClientId>,
    pub(crate) streams: BTreeMap<ConnectionId, Stream>,
    pub(crate) listeners: BTreeMap<Port, Listener>,
    pub(crate) datagram_ports: BTreeMap<Port, ClientId>,
    pub(crate) forwards: BTreeMap<u32, Forward>,
    pub(crate) next_forward: u32,
    /// Forwarded paths at which connections may wait.
    waiting_forwards: BTreeSet<u32>,
    pub(crate) deadlines: BinaryHeap<Reverse<(Instant, Due)>>,
    /// Whether listening sockets are tried again soon.
    pub(crate) is_accept_due: bool,
    /// Whether connections may wait at the daemon's socket.
    is_ipc_waiting: bool,
    pub(crate) asked: Asked,
    /// Bytes held for drivers.
    pub(crate) held: usize,
    pub(crate) local: LocalCounters,
    /// Drivers that have had their share of this turn.
    pub(crate) deferred: BTreeSet<ClientId>,
    /// Whether something is left to do without waiting.
    pub(crate) has_more: bool,
    pub(crate) scratch: Vec<u8>,
    pub(crate) greeting: String,
    commands: Receiver<Command>,
    pub(crate) shared: Arc<Shared>,
    out: Vec<u8>,
    /// A batch that the socket did not take.
    pub(crate) blocked: Option<Transmit>,
    stop_at: Option<Instant>,
    heap: Heap,
    trace: trace::Sink,
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> io::Result<(Self, Waker)> {
        let clock = Clock::new();
        let now = clock.now();
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mut udp = Udp::bind(config.listen)?;
        poll.registry().register(&mut udp.socket, UDP, Interest::READABLE)?;
        let ipc = std::os::unix::net::UnixListener::from(config.ipc);
        ipc.set_nonblocking(true)?;
        let mut ipc = UnixListener::from_std(ipc);
        poll.registry().register(&mut ipc, IPC, Interest::READABLE)?;
        let transport = TransportConfig { congestion: config.congestion, ..TransportConfig::default() };
        let trace = config.trace.detail();
        let node_config = NodeConfig { transport: Arc::new(transport), trace, ..NodeConfig::default() };
        let node = Node::new(now, &config.identity_seed, &config.seed, node_config);
        let mut node = node.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if config.has_echo {
            node.listen(ECHO).map_err(io::Error::other)?;
        }
        let driver = Self {
            clock,
            now,
            poll,
            node,
            udp,
            is_udp_readable: true,
            has_udp_errors: false,
            ipc,
            clients: BTreeMap::new(),
            next_client: 1,
            dirty_clients: BTreeSet::new(),
            streams: BTreeMap::new(),
            listeners: BTreeMap::new(),
            datagram_ports: BTreeMap::new(),
            forwards: BTreeMap::new(),
            next_forward: 1,
            waiting_forwards: BTreeSet::new(),
            deadlines: BinaryHeap::new(),
            is_accept_due: false,
            is_ipc_waiting: true,
            asked: Asked::default(),
            held: 0,
            local: LocalCounters::default(),
            deferred: BTreeSet::new(),
            has_more: false,
            scratch: vec![0; READ_LEN],
            greeting: config.greeting,
            commands,
            shared,
            out: vec![0; SEND_LEN],
            blocked: None,
            stop_at: None,
            heap: Heap::default(),
            trace: trace::Sink::new(&config.trace)?,
        };
        Ok((driver, waker))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
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
        let _ = catch_unwind(AssertUnwindSafe(move || {
            for forward in self.forwards.values() {
                forward.remove_file();
            }
        }));
        shared.push_last(HostEvent::Stopped(text));
    }

    fn run_loop(&mut self) -> io::Result<()> {
        let mut ready = Events::with_capacity(MAX_READY);
        while !self.turn(&mut ready)? {}
        Ok(())
    }

    /// Waits for work and does a bounded part of it. Returns whether the thread may end.
    pub(crate) fn turn(&mut self, ready: &mut Events) -> io::Result<bool> {
        match self.poll.poll(ready, self.timeout()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.now = self.clock.now();
        self.has_more = false;
        for event in &*ready {
            self.on_ready(event);
        }
        self.dirty_clients.append(&mut self.deferred);
        self.accept();
        self.receive();
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

    /// Takes what arrived at the UDP socket.
    fn receive(&mut self) {
        let (node, now) = (&mut self.node, self.now);
        if self.has_udp_errors {
            self.has_udp_errors = self.udp.errors(|report| node.handle_too_big(now, report));
        }
        if self.is_udp_readable {
            self.is_udp_readable = self.udp.recv(|from, datagram| node.handle_datagram(now, from, datagram));
            if self.udp.is_failing() {
                self.is_udp_readable = false;
                self.deadlines.push(Reverse((now + limits::ACCEPT_PAUSE, Due::Udp)));
            }
        }
    }

    fn take_commands(&mut self) {
        for _ in 0..limits::TURN_COMMANDS {
            let Ok(command) = self.commands.try_recv() else { return };
            self.on_command(command);
        }
        self.has_more = true;
    }

    /// Accepts connections of drivers and to forwarded paths.
    fn accept(&mut self) {
        if core::mem::take(&mut self.is_ipc_waiting) {
            self.is_ipc_waiting = self.accept_clients();
        }
        for id in core::mem::take(&mut self.waiting_forwards) {
            if self.accept_forwarded(id) {
                self.waiting_forwards.insert(id);
                self.has_more = true;
            }
        }
    }

    /// Waits before listening sockets are tried again; the poll tells nothing of those who wait already.
    pub(crate) fn pause_accept(&mut self, error: &io::Error) {
        debug!("a connection cannot be accepted for now: {error}");
        self.local.dropped_accepts += 1;
        if !core::mem::replace(&mut self.is_accept_due, true) {
            self.deadlines.push(Reverse((self.now + limits::ACCEPT_PAUSE, Due::Accept)));
        }
    }

    /// Acts on the shell's own deadlines.
    fn expire(&mut self) {
        while let Some(Reverse((at, due))) = self.deadlines.peek().copied() {
            if at > self.now {
                return;
            }
            self.deadlines.pop();
            match due {
                Due::Stream(id) => self.expire_stream(id),
                Due::Path(port) => self.retry_path(port),
                Due::Udp => self.is_udp_readable = true,
                Due::Orphan(id) => {
                    if self.clients.get(&id).is_some_and(|client| client.is_gone) {
                        self.drop_client(id);
                    }
                }
                Due::Accept => {
                    self.is_accept_due = false;
                    self.is_ipc_waiting = true;
                    self.waiting_forwards = self.forwards.keys().copied().collect();
                    self.has_more = true;
                }
            }
        }
    }

    /// How long there is nothing to do.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        if self.is_udp_readable || self.has_udp_errors || self.has_more {
            return Some(Duration::ZERO);
        }
        let own = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let next = [self.node.poll_timeout(), own, self.heap.poll_timeout(), self.stop_at]
            .into_iter()
            .flatten()
            .min();
        let wait = next.map(|at| at.saturating_since(self.clock.now()));
        if self.deferred.is_empty() {
            wait
        } else {
            Some(wait.map_or(limits::PACE, |wait| wait.min(limits::PACE)))
        }
    }

    fn on_ready(&mut self, event: &Ready) {
        let client = event.token().0 as u64 & ((1 << KIND_SHIFT) - 1);
        let id = u32::try_from(client).unwrap_or(0);
        match event.token() {
            UDP => {
                let is_needed = self.blocked.is_some();
                self.udp.room.on_event(self.poll.registry(), &mut self.udp.socket, UDP, is_needed);
                // An error may have been told to a call that then moved no data.
                self.is_udp_readable |= event.is_readable() || event.is_error();
                self.has_udp_errors |= event.is_error();
            }
            IPC => self.is_ipc_waiting = true,
            WAKE => {}
            Token(value) if value >> KIND_SHIFT == Kind::Client as usize => {
                let Some(found) = self.clients.get_mut(&client) else { return };
                let was_gone = found.is_gone;
                found.on_ready(self.poll.registry(), event);
                let is_news = found.is_gone && !was_gone;
                self.dirty_clients.insert(client);
                if is_news {
                    self.on_gone(client);
                }
            }
            Token(value) if value >> KIND_SHIFT == Kind::Bridge as usize => {
                let id = ConnectionId(id);
                if let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.streams.get_mut(&id) {
                    bridge.on_ready(self.poll.registry(), id, event);
                    self.pump(id);
                }
            }
            Token(_) => {
                self.waiting_forwards.insert(id);
            }
        }
    }

    /// Sends, reports and moves data, until nothing more can be done without waiting or others must have
    /// their turn.
    fn service(&mut self) {
        self.heap.follow(self.now, self.node.footprint() + self.held);
        for _ in 0..limits::TURN_PASSES {
            self.transmit();
            let is_idle = !self.take_events() & self.dirty_clients.is_empty();
            let dirty = core::mem::take(&mut self.dirty_clients);
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

    /// Acts on what happened in the node. Returns whether something did.
    fn take_events(&mut self) -> bool {
        for count in 0..limits::PASS_EVENTS {
            let Some(event) = self.node.poll_event() else { return count > 0 };
            self.on_node_event(event);
        }
        true
    }

    fn transmit(&mut self) {
        let max_segments = self.udp.max_gso_segments();
        loop {
            let transmit = match self.blocked.take() {
                Some(transmit) => transmit,
                None => match self.node.poll_transmit(self.now, &mut self.out, max_segments) {
                    Some(transmit) => transmit,
                    None => return,
                },
            };
            let contents = &self.out[..transmit.len];
            if self.udp.send(transmit.destination, contents, transmit.segment_size).is_err() {
                self.blocked = Some(transmit);
                let watched = self.udp.room.watch(self.poll.registry(), &mut self.udp.socket, UDP);
                // Without it, the next turn tries again.
                self.has_more |= watched.is_err();
                return;
            }
        }
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
            Event::EndpointDiscovered(endpoint) => {
                self.shared.push(HostEvent::EndpointDiscovered(endpoint));
            }
            Event::Connected(id) => self.on_connected(id),
            Event::Accepted(id) => self.on_accepted(id),
            Event::Readable(id) => self.pump(id),
            Event::Writable(id) => self.on_writable(id),
            Event::RemoteFinished(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.is_remote_finished = true;
                    self.pump(id);
                }
            }
            Event::Closed(id, reason) => self.on_closed(id, reason),
            Event::Datagram { src, src_port, dst_port, data } => {
                self.on_datagram(src, src_port, dst_port, &data);
            }
        }
    }

    fn on_writable(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get(&id) else { return };
        match stream.owner {
            Owner::Bridge(_) | Owner::Echo => self.pump(id),
            Owner::Framed { client, .. } => self.resume_stalled(client),
            Owner::Dialling(_) | Owner::Forward(_) | Owner::Waiting => {}
        }
    }

    fn on_closed(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(stream) = self.streams.get_mut(&id) else {
            // Nobody will close it.
            self.node.close(self.now, id);
            return;
        };
        stream.closed = Some(reason);
        match &mut stream.owner {
            Owner::Bridge(bridge) => {
                if reason == CloseReason::Finished {
                    self.pump(id);
                    return;
                }
                // Who has read the peer's FIN has read everything; only writing fails from now on.
                if bridge.is_output_over {
                    bridge.finish();
                } else if let Some(client) = bridge.client {
                    self.tell_failure(client, id, reason);
                }
                self.remove_stream(id);
                self.node.close(self.now, id);
            }
            Owner::Framed { client, .. } => {
                let client = *client;
                self.pump(id);
                self.resume_stalled(client);
            }
            Owner::Echo => self.pump(id),
            Owner::Dialling(_) => self.on_dial_failed(id, reason),
            // What the peer sent before it finished still goes to the server.
            Owner::Waiting if reason == CloseReason::Finished => {}
            Owner::Forward(_) | Owner::Waiting => {
                self.remove_stream(id);
                self.node.close(self.now, id);
            }
        }
    }

    /// Says why a stream broke, before its socket is shut.
    fn tell_failure(&mut self, client_id: ClientId, id: ConnectionId, reason: CloseReason) {
        let Some(client) = self.clients.get_mut(&client_id).filter(|client| client.is_extended) else {
            return;
        };
        let code = match reason {
            CloseReason::Finished => 0_u8,
            CloseReason::Refused => 1,
            CloseReason::Reset => 2,
            CloseReason::Aborted => 3,
            CloseReason::SynTimeout | CloseReason::RetransmissionTimeout => 4,
            CloseReason::IdleTimeout => 5,
            CloseReason::PeerRestarted => 6,
            CloseReason::Unreachable => 7,
            CloseReason::Shutdown => 8,
        };
        client.push(ipc::frame(&[&[code::STREAM_FAILED], &id.0.to_be_bytes(), &[code]]), None);
        self.flush_client(client_id);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::SetAddress(address) => self.node.set_address(address),
            Command::SendDatagram { remote, port, data } => {
                if self.node.send_datagram(self.now, Port(0), remote, port, &data).is_err() {
                    self.node.counters_mut().dropped_limited += 1;
                }
            }
            Command::SetBeacons(beacons) => self.node.set_beacons(self.now, beacons),
            Command::Moved => self.node.on_own_address(self.now),
            Command::Record { node, identity_key, endpoint } => {
                self.node.on_record(self.now, node, identity_key, endpoint);
            }
            Command::NoRecord(node) => self.node.on_no_record(node),
            Command::Key { node, identity_key } => self.node.on_key(self.now, node, identity_key),
            Command::SetIdentity(seed) => {
                if let Err(error) = self.node.set_identity(&seed) {
                    error!("the identity is refused: {error}");
                }
            }
            Command::SetPrivate(is_private) => self.node.set_private(is_private),
            Command::SetNetworks(networks) => self.node.set_networks(self.now, networks),
            Command::Admission { caller, is_admitted, lifetime } => {
                self.node.on_admission(self.now, caller, is_admitted, lifetime);
            }
            Command::ExpectCall(node) => self.node.expect_call(self.now, node),
            Command::Dismiss(node) => self.node.dismiss(self.now, node),
            Command::Reply { tag, body } => {
                self.on_answered(tag);
                self.reply(tag, &body);
            }
            Command::Fail { tag, code, message, hint } => {
                self.on_answered(tag);
                self.fail(tag, &code, &message, &hint);
            }
            Command::Snapshot(sender) => {
                let _ = sender.send(self.snapshot());
            }
            Command::Stop => self.begin_stop(),
            #[cfg(test)]
            Command::Panic => panic!("as asked"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let connections = self.node.connections().map(|(id, connection)| ConnectionRow {
            id: id.0,
            tuple: *connection.tuple(),
            state: connection.state(),
            stats: connection.stats(),
        });
        let peers = self.node.peers().map(|(node, peer)| PeerRow {
            node: node.0,
            endpoint: peer.endpoint,
            is_encrypted: peer.is_encrypted,
            is_authenticated: peer.is_authenticated,
        });
        Snapshot {
            stats: self.node.stats(),
            peers: peers.collect(),
            connections: connections.collect(),
            clients: self.clients.len(),
            local: LocalCounters { dropped_udp: self.udp.dropped() + self.local.dropped_udp, ..self.local },
        }
    }

    /// Finishes every stream whose application did. The others break, once what they sent has arrived: FIN
    /// would tell the peer that it has everything.
    pub(crate) fn begin_stop(&mut self) {
        self.stop_at = Some(self.now + LINGER);
        let ids: Vec<ConnectionId> = self.streams.keys().copied().collect();
        for id in ids {
            self.pump_in(id);
            if !self.streams.get(&id).is_some_and(Stream::is_unfinished) {
                self.node.with_connection(id, |connection| connection.shutdown_at_once());
            }
        }
    }

    /// Breaks the unfinished streams of which nothing is under way any more.
    fn break_unfinished(&mut self) {
        let unfinished = self.streams.iter().filter(|(_, stream)| stream.is_unfinished());
        let ids: Vec<ConnectionId> = unfinished.map(|(id, _)| *id).collect();
        for id in ids {
            let undelivered = self.node.with_connection(id, |connection| connection.undelivered());
            if undelivered.is_none_or(|len| len == 0) {
                self.reset_stream(id);
            }
        }
        self.transmit();
    }

    /// Whether the thread may end: every FIN was answered, or the time is up.
    fn is_over(&mut self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        self.break_unfinished();
        let is_finished = |state: State| {
            matches!(state, State::Closed | State::TimeWait | State::FinWait2 | State::SynSent)
        };
        let is_over = self.now >= stop_at
            || self.node.connections().all(|(_, connection)| is_finished(connection.state()));
        if is_over {
            let ids: Vec<ConnectionId> = self.node.connections().map(|(id, _)| id).collect();
            for id in ids {
                self.node.abort(self.now, id);
            }
            self.transmit();
        }
        is_over
    }
}

/// Whether an error of `accept(2)` is about one connection, not about the listening socket.
pub(crate) fn is_of_one(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// What a panic says.
fn panic_text(panic: &(dyn core::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
