//! The IO loop without its thread, turned by hand: for tests and fuzzing. Drivers are socket pairs, and the
//! node talks to itself, so that nothing passes a network.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Sender},
    },
};

use mio::{Events, Waker};
use pilot_proto::{
    config::Algorithm,
    wire::addr::{Address, NodeId},
};

use super::IoThread;
use crate::{
    control::{Command, Config, Shared},
    counters::LocalCounters,
    event::HostEvent,
    tag::Tag,
    trace::TraceConfig,
};

/// The node that the harness is.
pub const SELF: Address = Address { network: pilot_proto::wire::addr::NetworkId(0), node: NodeId(1) };

/// A daemon's IO loop.
pub struct Harness {
    io_thread: IoThread,
    ready: Events,
    commands: Sender<Command>,
    _waker: Waker,
    shared: Arc<Shared>,
    dir: PathBuf,
}

impl Harness {
    /// An IO loop with the echo service and the address [`SELF`].
    ///
    /// # Errors
    /// Those of its sockets.
    pub fn new() -> io::Result<Self> {
        Self::recording(TraceConfig::default())
    }

    /// The same with a record of what happens.
    pub(crate) fn recording(trace: TraceConfig) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pilot-net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir)?;
        let ipc = std::os::unix::net::UnixListener::bind(dir.join("ipc"))?;
        let config = Config { trace, ..Self::config(Some(OwnedFd::from(ipc))) };
        let (commands, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new()?);
        let (mut io_thread, waker) = IoThread::new(config, receiver, Arc::clone(&shared))?;
        io_thread.node.set_address(SELF);
        Ok(Self { io_thread, ready: Events::with_capacity(64), commands, _waker: waker, shared, dir })
    }

    pub(crate) fn config(ipc: Option<OwnedFd>) -> Config {
        Config {
            identity_seed: [1; 32],
            seed: [2; 32],
            listen: ([127, 0, 0, 1], 0).into(),
            ipc,
            has_echo: true,
            congestion: Algorithm::Cubic,
            greeting: "{}".into(),
            trace: TraceConfig::default(),
        }
    }

    /// A folder of its own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program's end of a new driver's socket.
    ///
    /// # Errors
    /// Those of `socketpair(2)`.
    pub fn connect(&mut self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.io_thread.add_client(mio::net::UnixStream::from_std(ours));
        Ok(theirs)
    }

    /// One turn that waits for nothing.
    ///
    /// # Errors
    /// Those of the poll.
    pub fn turn(&mut self) -> io::Result<()> {
        self.io_thread.has_more = true;
        self.io_thread.turn(&mut self.ready).map(drop)
    }

    /// What the control plane is asked.
    pub fn requests(&self) -> Vec<(Tag, u8, Vec<u8>)> {
        let mut events = Vec::new();
        loop {
            let some = self.shared.take();
            if some.is_empty() {
                break;
            }
            events.extend(some);
        }
        let request = |event| match event {
            HostEvent::Request { tag, command, payload } => Some((tag, command, payload)),
            HostEvent::RecordNeeded(_)
            | HostEvent::KeyNeeded(_)
            | HostEvent::AdmissionNeeded(..)
            | HostEvent::PolicyNeeded(_)
            | HostEvent::EndpointDiscovered(_)
            | HostEvent::HomeChanged(_)
            | HostEvent::PathChanged(..)
            | HostEvent::Stopped(_) => None,
        };
        events.into_iter().filter_map(request).collect()
    }

    /// Answers one of them.
    pub fn reply(&self, tag: Tag, body: Vec<u8>) {
        let _ = self.commands.send(Command::Reply { tag, body });
    }

    /// What happened to drivers.
    pub fn counters(&self) -> LocalCounters {
        self.io_thread.local_counters()
    }

    /// Drivers, their streams, requests at the control plane, and bytes held for them.
    pub fn load(&self) -> (usize, usize, usize, usize) {
        let io = &self.io_thread;
        (io.clients.len(), io.streams.len(), io.asked.len(), io.clients.held())
    }

    /// How long the loop would wait.
    #[cfg(test)]
    pub(crate) fn timeout(&self) -> Option<std::time::Duration> {
        self.io_thread.timeout()
    }

    /// Connections of the node that are being opened or open.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.io_thread.node.stats().connections
    }

    /// Ends the loop in an orderly way.
    #[cfg(test)]
    pub(crate) fn begin_stop(&mut self) {
        self.io_thread.begin_stop();
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
