//! How the control plane talks to the IO thread.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::Waker;
use pilot_proto::{
    config::Algorithm,
    node::{Caller, NodeStats},
    transport::{FourTuple, State, Stats},
    wire::addr::{Address, NetworkId, NodeId, Port},
};

use crate::{
    driver::{ClientId, Driver},
    inbox::Inbox,
    limits::LocalCounters,
    trace::TraceConfig,
};

/// What the IO thread needs to start.
pub struct Config {
    /// The Ed25519 seed.
    pub identity_seed: [u8; 32],
    /// Random octets, never used before.
    pub seed: [u8; 32],
    /// Where the tunnel's UDP socket is bound.
    pub listen: SocketAddr,
    /// The listening Unix socket that drivers connect to.
    pub ipc: OwnedFd,
    /// Whether port 7 echoes.
    pub has_echo: bool,
    /// The congestion controller of connections whose driver names none.
    pub congestion: Algorithm,
    /// What Hello is answered with, as JSON.
    pub greeting: String,
    /// What is recorded.
    pub trace: TraceConfig,
}

/// Names a request of a driver, for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Whose request.
    pub client: ClientId,
    /// Its id, if the driver gave one.
    pub id: Option<u32>,
}

/// What the control plane must act on.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// The registry must be asked about a node.
    RecordNeeded(NodeId),
    /// Somebody claims to be this node; our own questions go first.
    KeyNeeded(NodeId),
    /// A peer with this identity key wants in.
    AdmissionNeeded(Caller, [u8; 32]),
    /// A beacon says where our datagrams come from.
    EndpointDiscovered(SocketAddr),
    /// A driver asks something the IO thread cannot answer.
    Request {
        /// To be given back with the answer.
        tag: Tag,
        /// The verb.
        command: u8,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// The IO thread ended; the text is empty for an orderly end.
    Stopped(String),
}

/// One connection, for `connections` and `info`.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRow {
    /// Its id.
    pub id: u32,
    /// Its ends.
    pub tuple: FourTuple,
    /// Its state.
    pub state: State,
    /// Its figures.
    pub stats: Stats,
}

/// One peer, for `peers` and `info`.
#[derive(Clone, Copy, Debug)]
pub struct PeerRow {
    /// Who.
    pub node: u32,
    /// Where.
    pub endpoint: Option<SocketAddr>,
    /// Whether there is a session.
    pub is_encrypted: bool,
    /// Whether the identity was proved.
    pub is_authenticated: bool,
}

/// Everything there is to show.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node's figures.
    pub stats: NodeStats,
    /// Its peers.
    pub peers: Vec<PeerRow>,
    /// Its connections.
    pub connections: Vec<ConnectionRow>,
    /// Connected drivers.
    pub clients: usize,
    /// What happened to local programs.
    pub local: LocalCounters,
}

pub(crate) enum Command {
    SetAddress(Address),
    SetBeacons(Vec<SocketAddr>),
    Moved,
    SendDatagram {
        remote: Address,
        port: Port,
        data: Vec<u8>,
    },
    Record {
        node: NodeId,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
    },
    NoRecord(NodeId),
    Key {
        node: NodeId,
        identity_key: Option<[u8; 32]>,
    },
    SetIdentity([u8; 32]),
    SetPrivate(bool),
    SetNetworks(Vec<NetworkId>),
    Admission {
        caller: Caller,
        is_admitted: bool,
        lifetime: Duration,
    },
    ExpectCall(NodeId),
    Dismiss(NodeId),
    Reply {
        tag: Tag,
        body: Vec<u8>,
    },
    Fail {
        tag: Tag,
        code: String,
        message: String,
        hint: String,
    },
    Snapshot(Sender<Snapshot>),
    Stop,
    #[cfg(test)]
    Panic,
}

/// The queue from the IO thread to the control plane.
pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    wake: OwnedFd,
    wake_read: OwnedFd,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        let (wake_read, wake) = std::os::unix::net::UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        wake_read.set_nonblocking(true)?;
        Ok(Self { inbox: Mutex::default(), wake: wake.into(), wake_read: wake_read.into() })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable. A full pipe means that it is.
    fn wake(&self) {
        let _ = crate::fd::send(self.wake.as_raw_fd(), &[1], None);
    }

    /// Takes every event and some requests; the descriptor stays readable while there are more.
    pub(crate) fn take(&self) -> Vec<HostEvent> {
        let mut inbox = self.inbox();
        let mut scratch = [0_u8; 64];
        let fd = self.wake_read.as_raw_fd();
        // SAFETY: the buffer is live and of the stated length; the descriptor is ours.
        while unsafe { libc::read(fd, scratch.as_mut_ptr().cast(), scratch.len()) } > 0 {}
        let taken = inbox.take();
        if !inbox.is_empty() {
            self.wake();
        }
        taken
    }

    /// Queues the last event, whatever there is already.
    pub(crate) fn push_last(&self, event: HostEvent) {
        self.inbox().push_last(event);
        self.wake();
    }

    /// Queues an event. `false` when the control plane does not keep up.
    pub(crate) fn push(&self, event: HostEvent) -> bool {
        let mut inbox = self.inbox();
        let was_empty = inbox.is_empty();
        let is_queued = inbox.push(event);
        drop(inbox);
        if was_empty && is_queued {
            self.wake();
        }
        is_queued
    }

    /// Forgets the requests of a driver that is gone and that nobody has begun to answer.
    pub(crate) fn forget(&self, client: ClientId) -> Vec<Tag> {
        self.inbox().forget(client)
    }
}

/// The control plane's end. Dropping it ends the IO thread.
pub struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    local: SocketAddr,
}

impl Handle {
    /// Binds the UDP socket and starts the IO thread.
    ///
    /// # Errors
    /// Those of the sockets, and `InvalidInput` for an unusable identity.
    pub fn start(config: Config) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new()?);
        let (driver, waker) = Driver::new(config, receiver, Arc::clone(&shared))?;
        let local = driver.local_addr()?;
        let thread = thread::Builder::new().name("pilot-io".into()).spawn(move || driver.run())?;
        Ok(Self { commands, waker: Arc::new(waker), shared, thread: Mutex::new(Some(thread)), local })
    }

    /// Where the UDP socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Readable while there are events.
    pub fn event_fd(&self) -> RawFd {
        self.shared.wake_read.as_raw_fd()
    }

    /// Takes every event and some requests; [`Self::event_fd`] is readable while there are more.
    pub fn take_events(&self) -> Vec<HostEvent> {
        self.shared.take()
    }

    fn command(&self, command: Command) {
        // An ended thread takes no commands, and said so by `Stopped`.
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// Sets our address.
    pub fn set_address(&self, address: Address) {
        self.command(Command::SetAddress(address));
    }

    /// Sends a datagram from a port that nobody listens on; it may be lost.
    pub fn send_datagram(&self, remote: Address, port: Port, data: Vec<u8>) {
        self.command(Command::SendDatagram { remote, port, data });
    }

    /// Names the beacons and asks them where our datagrams come from.
    pub fn set_beacons(&self, beacons: Vec<SocketAddr>) {
        self.command(Command::SetBeacons(beacons));
    }

    /// Says that our datagrams come from another address now.
    pub fn on_moved(&self) {
        self.command(Command::Moved);
    }

    /// Answers [`HostEvent::RecordNeeded`].
    pub fn on_record(&self, node: NodeId, identity_key: [u8; 32], endpoint: Option<SocketAddr>) {
        self.command(Command::Record { node, identity_key, endpoint });
    }

    /// Answers [`HostEvent::RecordNeeded`] when there is no record or it cannot be asked for.
    pub fn on_no_record(&self, node: NodeId) {
        self.command(Command::NoRecord(node));
    }

    /// Answers [`HostEvent::KeyNeeded`]; `None` when there is no such node or it cannot be asked for.
    pub fn on_key(&self, node: NodeId, identity_key: Option<[u8; 32]>) {
        self.command(Command::Key { node, identity_key });
    }

    /// Replaces our identity by that of a seed.
    pub fn set_identity(&self, seed: [u8; 32]) {
        self.command(Command::SetIdentity(seed));
    }

    /// Whether only admitted peers may reach us.
    pub fn set_private(&self, is_private: bool) {
        self.command(Command::SetPrivate(is_private));
    }

    /// The networks that we are in besides the backbone.
    pub fn set_networks(&self, networks: Vec<NetworkId>) {
        self.command(Command::SetNetworks(networks));
    }

    /// Answers [`HostEvent::AdmissionNeeded`], or decides before it is asked.
    pub fn on_admission(&self, caller: Caller, is_admitted: bool, lifetime: Duration) {
        self.command(Command::Admission { caller, is_admitted, lifetime });
    }

    /// Lets a peer call back for a while.
    pub fn expect_call(&self, node: NodeId) {
        self.command(Command::ExpectCall(node));
    }

    /// Resets every connection with a peer and forgets its tunnel and every verdict about it.
    pub fn dismiss(&self, node: NodeId) {
        self.command(Command::Dismiss(node));
    }

    /// Answers a request with a reply frame's body: command and payload.
    pub fn reply(&self, tag: Tag, body: Vec<u8>) {
        self.command(Command::Reply { tag, body });
    }

    /// Refuses a request.
    pub fn fail(&self, tag: Tag, code: String, message: String, hint: String) {
        self.command(Command::Fail { tag, code, message, hint });
    }

    /// What there is to show, or `None` when the thread has ended or does not answer in time.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (sender, receiver) = mpsc::channel();
        self.command(Command::Snapshot(sender));
        receiver.recv_timeout(Duration::from_secs(5)).ok()
    }

    #[cfg(test)]
    pub(crate) fn panic(&self) {
        self.command(Command::Panic);
    }

    /// Finishes every connection, closes every socket and ends the thread.
    pub fn stop(&self) {
        self.command(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}
