//! Messages between the control plane and the IO thread.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::Duration,
};

use mio::net::UnixStream;
use pilot_proto::{
    config::Algorithm,
    node::{Caller, Figures, NodeStats},
    transport::{FourTuple, State, Stats},
    tunnel::{Candidate, PeerStatus},
    wire::addr::{Address, NetworkId, NodeId, Port},
};

use crate::{
    counters::LocalCounters,
    event::HostEvent,
    inbox::Inbox,
    tag::{ClientId, Tag},
    trace::TraceConfig,
};

/// What the IO thread needs to start.
pub struct Config {
    /// The Ed25519 seed.
    pub identity_seed: [u8; 32],
    /// Random bytes, never used before.
    pub seed: [u8; 32],
    /// Where the tunnel's UDP socket is bound.
    pub listen: SocketAddr,
    /// The listening Unix socket that drivers connect to; without one, all of them are attached.
    pub ipc: Option<OwnedFd>,
    /// Whether port 7 echoes.
    pub has_echo: bool,
    /// The congestion controller of connections whose driver names none.
    pub congestion: Algorithm,
    /// What Hello is answered with, as JSON.
    pub greeting: String,
    /// What is recorded.
    pub trace: TraceConfig,
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
#[derive(Clone, Debug)]
pub struct PeerRow {
    /// Who.
    pub node: u32,
    /// Its sessions and paths.
    pub status: PeerStatus,
    /// Segments retransmitted among those sent to it, by its open connections.
    pub loss: f64,
}

/// Everything there is to show.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node's figures.
    pub stats: NodeStats,
    /// Sums over time.
    pub figures: Figures,
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
    SetCandidates(Vec<Candidate>),
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
        candidates: Vec<SocketAddr>,
    },
    NoRecord {
        node: NodeId,
        why: String,
    },
    Key {
        node: NodeId,
        identity_key: Option<[u8; 32]>,
    },
    SetIdentity([u8; 32]),
    SetPrivate(bool),
    SetNetworks(Vec<NetworkId>),
    NetworkPolicy {
        network: NetworkId,
        ports: Vec<Port>,
    },
    Admission {
        caller: Caller,
        is_admitted: bool,
        ports: Vec<Port>,
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
    Attach(UnixStream),
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

    /// Readable while there is something to take.
    pub(crate) fn event_fd(&self) -> RawFd {
        self.wake_read.as_raw_fd()
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
