//! The IO thread: one loop over every descriptor, deadline and command.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    event::Event as Ready,
    net::{UnixListener, UnixStream},
};
use pilot_proto::{
    config::{NodeConfig, TransportConfig},
    node::{ConnectionId, Event, Node, Transmit},
    time::Instant,
    transport::{CloseReason, State},
    wire::{
        addr::{Address, Port},
        ipc::{self, code},
    },
};
use tracing::{debug, error};

use crate::{
    client::{Client, Input},
    clock::Clock,
    handle::{Command, Config, ConnectionRow, HostEvent, PeerRow, Shared, Snapshot},
    heap::Heap,
    stream::{Bridge, Owner, Stream},
    udp::{SEND_LEN, Udp},
};

/// Names a connected driver.
pub type ClientId = u32;

/// Drivers at once.
const MAX_CLIENTS: usize = 1024;
/// Readiness events taken at once.
const MAX_READY: usize = 1024;
/// How long streams may finish when the daemon stops.
const LINGER: Duration = Duration::from_secs(1);
/// The echo service (whitepaper table of ports).
const ECHO: Port = Port(7);

const UDP: Token = Token(0);
const IPC: Token = Token(1);
const WAKE: Token = Token(2);
const KIND_SHIFT: u32 = 32;

/// What a token's descriptor is; its id is in the low bits.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Client = 1,
    Bridge = 2,
    Forward = 3,
}

pub(crate) fn token(kind: Kind, id: u32) -> Token {
    Token((kind as usize) << KIND_SHIFT | id as usize)
}

/// How accepted streams reach their application.
pub(crate) enum Delivery {
    /// As framed data.
    Framed,
    /// As a descriptor.
    Descriptor,
    /// By a connection to this path.
    Path(PathBuf),
}

/// A bound stream port.
pub(crate) struct Listener {
    pub(crate) client: ClientId,
    pub(crate) delivery: Delivery,
}

/// A path each of whose connections is dialled on.
pub(crate) struct Forward {
    pub(crate) listener: UnixListener,
    pub(crate) client: ClientId,
    pub(crate) remote: Address,
    pub(crate) port: Port,
    pub(crate) path: PathBuf,
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
    ipc: UnixListener,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    next_client: ClientId,
    pub(crate) dirty_clients: BTreeSet<ClientId>,
    pub(crate) streams: BTreeMap<ConnectionId, Stream>,
    pub(crate) listeners: BTreeMap<Port, Listener>,
    pub(crate) datagram_ports: BTreeMap<Port, ClientId>,
    pub(crate) forwards: BTreeMap<u32, Forward>,
    pub(crate) next_forward: u32,
    pub(crate) deadlines: BinaryHeap<Reverse<(Instant, ConnectionId)>>,
    pub(crate) greeting: String,
    commands: Receiver<Command>,
    pub(crate) shared: Arc<Shared>,
    out: Vec<u8>,
    /// A batch that the socket did not take.
    blocked: Option<Transmit>,
    stop_at: Option<Instant>,
    heap: Heap,
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
        poll.registry().register(&mut udp.socket, UDP, Interest::READABLE | Interest::WRITABLE)?;
        let ipc = std::os::unix::net::UnixListener::from(config.ipc);
        ipc.set_nonblocking(true)?;
        let mut ipc = UnixListener::from_std(ipc);
        poll.registry().register(&mut ipc, IPC, Interest::READABLE)?;
        let transport = TransportConfig { congestion: config.congestion, ..TransportConfig::default() };
        let node_config = NodeConfig { transport: Arc::new(transport), ..NodeConfig::default() };
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
            deadlines: BinaryHeap::new(),
            greeting: config.greeting,
            commands,
            shared,
            out: vec![0; SEND_LEN],
            blocked: None,
            stop_at: None,
            heap: Heap::default(),
        };
        Ok((driver, waker))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Runs until told to stop, and says how it ended.
    pub(crate) fn run(mut self) {
        let result = self.run_loop();
        if let Err(error) = &result {
            error!("the IO thread ends: {error}");
        }
        let text = result.err().map(|error| error.to_string()).unwrap_or_default();
        for forward in self.forwards.values() {
            let _ = std::fs::remove_file(&forward.path);
        }
        self.shared.push(HostEvent::Stopped(text));
    }

    fn run_loop(&mut self) -> io::Result<()> {
        let mut ready = Events::with_capacity(MAX_READY);
        loop {
            let is_busy = self.is_udp_readable || self.has_udp_errors;
            let timeout = if is_busy { Some(Duration::ZERO) } else { self.timeout() };
            match self.poll.poll(&mut ready, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.now = self.clock.now();
            for event in &ready {
                self.on_ready(event);
            }
            if self.has_udp_errors {
                let (node, now) = (&mut self.node, self.now);
                self.has_udp_errors = self.udp.errors(|report| node.handle_too_big(now, report));
            }
            if self.is_udp_readable {
                let (node, now) = (&mut self.node, self.now);
                self.is_udp_readable =
                    self.udp.recv(|from, datagram| node.handle_datagram(now, from, datagram));
            }
            self.node.handle_timeout(self.now);
            self.expire_dials();
            while let Ok(command) = self.commands.try_recv() {
                self.on_command(command);
            }
            self.service();
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let dial = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let next = [self.node.poll_timeout(), dial, self.stop_at].into_iter().flatten().min()?;
        Some(next.saturating_since(self.clock.now()))
    }

    fn on_ready(&mut self, event: &Ready) {
        let id = u32::try_from(event.token().0 & u32::MAX as usize).unwrap_or(0);
        match event.token() {
            UDP => {
                // An error may have been told to a call that then moved no data.
                self.is_udp_readable |= event.is_readable() || event.is_error();
                self.has_udp_errors |= event.is_error();
            }
            IPC => self.accept_clients(),
            WAKE => {}
            Token(value) if value >> KIND_SHIFT == Kind::Client as usize => {
                if let Some(client) = self.clients.get_mut(&id) {
                    let is_shut = event.is_read_closed() || event.is_error();
                    client.on_ready(event.is_readable(), event.is_writable(), is_shut);
                    self.dirty_clients.insert(id);
                }
            }
            Token(value) if value >> KIND_SHIFT == Kind::Bridge as usize => {
                let id = ConnectionId(id);
                if let Some(Stream { owner: Owner::Bridge(bridge), .. }) = self.streams.get_mut(&id) {
                    bridge.is_shut |= event.is_read_closed();
                    bridge.is_readable |= event.is_readable() || event.is_read_closed();
                    bridge.is_writable |= event.is_writable();
                    bridge.is_gone |= event.is_write_closed() && event.is_read_closed() || event.is_error();
                    self.pump(id);
                }
            }
            Token(_) => self.accept_forwarded(id),
        }
    }

    fn accept_clients(&mut self) {
        while let Ok((mut stream, _)) = self.ipc.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            let id = self.next_client;
            self.next_client = self.next_client.wrapping_add(1);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut stream, token(Kind::Client, id), interest).is_ok() {
                self.clients.insert(id, Client::new(stream));
                self.dirty_clients.insert(id);
            }
        }
    }

    /// Sends, reports and moves data until nothing more can be done without waiting.
    fn service(&mut self) {
        self.heap.follow(self.now, self.node.footprint());
        loop {
            self.transmit();
            let mut is_idle = true;
            while let Some(event) = self.node.poll_event() {
                is_idle = false;
                self.on_node_event(event);
            }
            while let Some(id) = self.dirty_clients.pop_first() {
                is_idle = false;
                self.serve_client(id);
            }
            if is_idle {
                return;
            }
        }
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
                return;
            }
        }
    }

    /// Takes frames from a driver and gives it what waits for it.
    fn serve_client(&mut self, id: ClientId) {
        let mut is_alive = true;
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            if !client.may_proceed() {
                break;
            }
            match client.next_frame() {
                Ok(Some(body)) => self.on_frame(id, None, &body),
                Ok(None) => match client.read() {
                    Input::Some => {}
                    Input::Nothing => break,
                    Input::End => {
                        is_alive = false;
                        break;
                    }
                },
                Err(length) => {
                    debug!(client = id, length, "frame over the limit");
                    is_alive = false;
                    break;
                }
            }
        }
        let is_flushed = self.clients.get_mut(&id).is_some_and(Client::flush);
        if !is_alive || !is_flushed {
            self.drop_client(id);
            return;
        }
        self.resume_framed(id);
    }

    /// Continues framed streams whose driver was slow to read.
    fn resume_framed(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.framed.is_empty() || client.output_len() > 0 {
            return;
        }
        for stream in client.framed.clone() {
            if self.node.connection(stream).is_some_and(|connection| connection.readable() > 0) {
                self.pump(stream);
            }
        }
    }

    /// Frees everything a driver owned. Streams it was handed live on.
    pub(crate) fn drop_client(&mut self, id: ClientId) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let _ = self.poll.registry().deregister(&mut client.stream);
        for port in client.listening {
            self.listeners.remove(&port);
            let _ = self.node.unlisten(port);
        }
        for port in client.datagram_ports {
            self.datagram_ports.remove(&port);
            let _ = self.node.unbind_datagrams(port);
        }
        for stream in client.framed.into_iter().chain(client.dials) {
            self.streams.remove(&stream);
            self.node.close(self.now, stream);
        }
        let over: Vec<u32> =
            self.forwards.iter().filter(|(_, forward)| forward.client == id).map(|(id, _)| *id).collect();
        for id in over {
            if let Some(mut forward) = self.forwards.remove(&id) {
                let _ = self.poll.registry().deregister(&mut forward.listener);
                let _ = std::fs::remove_file(&forward.path);
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
            Owner::Dialling(_) | Owner::Forward(_) => {}
        }
    }

    /// Joins a socket to a connection.
    pub(crate) fn bridge(&mut self, id: ConnectionId, mut socket: UnixStream, client: Option<ClientId>) {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, token(Kind::Bridge, id.0), interest) {
            debug!("a stream cannot be handed over: {error}");
            self.streams.remove(&id);
            self.node.abort(self.now, id);
            return;
        }
        self.streams.insert(id, Stream::new(Owner::Bridge(Bridge::new(socket, client))));
        self.pump(id);
    }

    /// A socket pair joined to a connection; the application's end is returned.
    pub(crate) fn hand_over(&mut self, id: ConnectionId, client: ClientId) -> Option<OwnedFd> {
        match crate::fd::socket_pair() {
            Ok((ours, theirs)) => {
                self.bridge(id, UnixStream::from_std(ours), Some(client));
                Some(theirs)
            }
            Err(error) => {
                debug!("a stream cannot be handed over: {error}");
                self.streams.remove(&id);
                self.node.abort(self.now, id);
                None
            }
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
                if let Some(client) = bridge.client.filter(|_| !bridge.is_output_over) {
                    self.tell_failure(client, id, reason);
                }
                self.streams.remove(&id);
                self.node.close(self.now, id);
            }
            Owner::Framed { .. } | Owner::Echo => self.pump(id),
            Owner::Dialling(_) => self.on_dial_failed(id, reason),
            Owner::Forward(_) => {
                self.streams.remove(&id);
                self.node.close(self.now, id);
            }
        }
    }

    /// Says why a stream broke, before its socket is shut.
    fn tell_failure(&mut self, client: ClientId, id: ConnectionId, reason: CloseReason) {
        let Some(client) = self.clients.get_mut(&client).filter(|client| client.is_extended) else { return };
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
        client.flush();
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
            Command::Reply { tag, body } => self.reply(tag, &body, None),
            Command::Fail { tag, code, message, hint } => self.fail(tag, &code, &message, &hint),
            Command::Snapshot(sender) => {
                let _ = sender.send(self.snapshot());
            }
            Command::Stop => self.begin_stop(),
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
        }
    }

    /// Finishes every stream.
    fn begin_stop(&mut self) {
        self.stop_at = Some(self.now + LINGER);
        let ids: Vec<ConnectionId> = self.streams.keys().copied().collect();
        for id in ids {
            self.pump_in(id);
            self.node.with_connection(id, |connection| connection.shutdown_at_once());
        }
    }

    /// Whether the thread may end: every FIN was answered, or the time is up.
    fn is_over(&mut self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
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
