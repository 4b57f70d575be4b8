//! The control plane's end of the IO thread.

use std::{
    io,
    net::SocketAddr,
    os::fd::{OwnedFd, RawFd},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mio::{Waker, net::UnixStream};
use pilot_proto::{
    node::Caller,
    tunnel::Candidate,
    wire::addr::{Address, NetworkId, NodeId, Port},
};

use crate::{
    control::{Command, Config, Shared, Snapshot},
    event::HostEvent,
    io_thread::IoThread,
    tag::Tag,
};

/// The control plane's end. Dropping it ends the IO thread.
pub struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    local: SocketAddr,
    /// The process that has the thread; one that was forked off has not.
    process: u32,
}

impl Handle {
    /// Binds the UDP socket and starts the IO thread.
    ///
    /// # Errors
    /// Those of the sockets, and `InvalidInput` for an unusable identity.
    pub fn start(config: Config) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new()?);
        let (io_thread, waker) = IoThread::new(config, receiver, Arc::clone(&shared))?;
        let local = io_thread.local_addr()?;
        let thread = thread::Builder::new().name("pilot-io".into()).spawn(move || io_thread.run())?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { commands, waker: Arc::new(waker), shared, thread, local, process: process::id() })
    }

    /// Where the UDP socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Readable while there are events.
    pub fn event_fd(&self) -> RawFd {
        self.shared.event_fd()
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

    /// Names the addresses at which this host may be reached, besides the one that beacons see.
    pub fn set_candidates(&self, candidates: Vec<Candidate>) {
        self.command(Command::SetCandidates(candidates));
    }

    /// Says that our datagrams come from another address now.
    pub fn on_moved(&self) {
        self.command(Command::Moved);
    }

    /// Answers [`HostEvent::RecordNeeded`]; `candidates` are further addresses of the node.
    pub fn on_record(
        &self,
        node: NodeId,
        identity_key: [u8; 32],
        endpoint: Option<SocketAddr>,
        candidates: Vec<SocketAddr>,
    ) {
        self.command(Command::Record { node, identity_key, endpoint, candidates });
    }

    /// Answers [`HostEvent::RecordNeeded`] when there is no record or it cannot be asked for; `why` is for whoever
    /// dials the node.
    pub fn on_no_record(&self, node: NodeId, why: String) {
        self.command(Command::NoRecord { node, why });
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

    /// Answers [`HostEvent::PolicyNeeded`], or says in advance which ports a network allows; none for all.
    pub fn set_network_policy(&self, network: NetworkId, ports: Vec<Port>) {
        self.command(Command::NetworkPolicy { network, ports });
    }

    /// Answers [`HostEvent::AdmissionNeeded`], or decides before it is asked. On the backbone the peer may use
    /// these ports, or every port if there are none.
    pub fn on_admission(&self, caller: Caller, is_admitted: bool, lifetime: Duration, ports: Vec<Port>) {
        self.command(Command::Admission { caller, is_admitted, ports, lifetime });
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

    /// Takes a driver by one end of a socket pair, whose other end the driver has. If the thread has ended, or
    /// has too many drivers, this end is closed.
    ///
    /// # Errors
    /// Those of `fcntl(2)`.
    pub fn attach(&self, socket: OwnedFd) -> io::Result<()> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        self.command(Command::Attach(UnixStream::from_std(socket)));
        Ok(())
    }

    /// Finishes every connection, closes every socket and ends the thread. Does nothing in a process that was
    /// forked off: the thread is the parent's.
    pub fn stop(&self) {
        if process::id() != self.process {
            return;
        }
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
