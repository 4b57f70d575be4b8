//! Stream and datagram ports of drivers.

use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use pilot_proto::{
    node::{ConnectionId, Node, NodeError},
    time::Instant,
    wire::addr::Port,
};

use crate::{
    clients::{Clients, Owned},
    limits::MAX_PATH_BACKLOG,
    tag::ClientId,
};

/// The first and the longest pause before a path whose server was busy is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// How accepted streams reach their application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// As framed data.
    Framed,
    /// As a descriptor.
    Descriptor,
    /// By a connection to this path.
    Path(PathBuf),
}

impl Delivery {
    /// Where ListenStreams has its streams go.
    pub(crate) fn of_path(path: &[u8]) -> Self {
        match path {
            [] => Self::Descriptor,
            path => Self::Path(Path::new(std::ffi::OsStr::from_bytes(path)).to_owned()),
        }
    }
}

/// A bound stream port.
struct Listener {
    client: ClientId,
    delivery: Delivery,
    /// Streams that wait for the server at the path.
    waiting: VecDeque<ConnectionId>,
    pause: Duration,
    retry_at: Option<Instant>,
}

/// Whether a stream was put where it waits for the server at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    /// There are too many.
    Full,
    /// The path is tried again later anyway.
    Waits,
    /// The path is to be tried now.
    First,
}

/// The ports.
#[derive(Default)]
pub(crate) struct Ports {
    listeners: BTreeMap<Port, Listener>,
    datagrams: BTreeMap<Port, ClientId>,
}

impl Ports {
    /// Binds a stream port for a driver; port 0 means any.
    pub(crate) fn listen(
        &mut self,
        node: &mut Node,
        clients: &mut Clients,
        client_id: ClientId,
        port: Port,
        delivery: Delivery,
    ) -> Result<Port, NodeError> {
        let client = clients.get_mut(client_id).filter(|client| client.may_bind());
        let client = client.ok_or(NodeError::PortsExhausted)?;
        let port = node.listen(port)?;
        client.owned_mut().listening.insert(port);
        let waiting = VecDeque::new();
        let listener = Listener { client: client_id, delivery, waiting, pause: MIN_PAUSE, retry_at: None };
        self.listeners.insert(port, listener);
        Ok(port)
    }

    /// Frees a driver's stream port. Returns the streams that nobody has taken; `None` if it is not the
    /// driver's.
    pub(crate) fn unlisten(
        &mut self,
        node: &mut Node,
        clients: &mut Clients,
        client_id: ClientId,
        port: Port,
    ) -> Option<Vec<ConnectionId>> {
        self.listeners.get(&port).filter(|listener| listener.client == client_id)?;
        if let Some(client) = clients.get_mut(client_id) {
            client.owned_mut().listening.remove(&port);
        }
        Some(self.close(node, port))
    }

    fn close(&mut self, node: &mut Node, port: Port) -> Vec<ConnectionId> {
        let Some(listener) = self.listeners.remove(&port) else { return Vec::new() };
        let _ = node.unlisten(port);
        Vec::from(listener.waiting)
    }

    /// Binds a datagram port for a driver; port 0 means any.
    pub(crate) fn bind_datagrams(
        &mut self,
        node: &mut Node,
        clients: &mut Clients,
        client_id: ClientId,
        port: Port,
    ) -> Result<Port, NodeError> {
        let client = clients.get_mut(client_id).filter(|client| client.may_bind());
        let client = client.ok_or(NodeError::PortsExhausted)?;
        let port = node.bind_datagrams(port)?;
        client.owned_mut().datagram_ports.insert(port);
        self.datagrams.insert(port, client_id);
        Ok(port)
    }

    /// Frees a driver's datagram port. `false` if it is not the driver's.
    pub(crate) fn unbind_datagrams(
        &mut self,
        node: &mut Node,
        clients: &mut Clients,
        client_id: ClientId,
        port: Port,
    ) -> bool {
        if self.taker(port) != Some(client_id) {
            return false;
        }
        self.datagrams.remove(&port);
        let _ = node.unbind_datagrams(port);
        if let Some(client) = clients.get_mut(client_id) {
            client.owned_mut().datagram_ports.remove(&port);
        }
        true
    }

    /// Frees what a driver owned that is gone. Returns the streams that nobody has taken.
    pub(crate) fn free(&mut self, node: &mut Node, owned: &Owned) -> Vec<ConnectionId> {
        for port in &owned.datagram_ports {
            self.datagrams.remove(port);
            let _ = node.unbind_datagrams(*port);
        }
        owned.listening.iter().flat_map(|port| self.close(node, *port)).collect()
    }

    /// Who takes the datagrams to a port.
    pub(crate) fn taker(&self, port: Port) -> Option<ClientId> {
        self.datagrams.get(&port).copied()
    }

    /// Who listens on a port, and where its streams go.
    pub(crate) fn listener(&self, port: Port) -> Option<(ClientId, &Delivery)> {
        self.listeners.get(&port).map(|listener| (listener.client, &listener.delivery))
    }

    /// Puts a stream where it waits for the server at a port's path.
    pub(crate) fn queue(&mut self, port: Port, id: ConnectionId) -> Queued {
        match self.listeners.get_mut(&port) {
            Some(listener) if listener.waiting.len() < MAX_PATH_BACKLOG => {
                listener.waiting.push_back(id);
                if listener.retry_at.is_none() { Queued::First } else { Queued::Waits }
            }
            Some(_) | None => Queued::Full,
        }
    }

    /// The stream that waits longest for the server at a port's path.
    pub(crate) fn first_waiting(&self, port: Port) -> Option<(ConnectionId, &Path)> {
        let listener = self.listeners.get(&port)?;
        let Delivery::Path(path) = &listener.delivery else { return None };
        Some((*listener.waiting.front()?, path))
    }

    /// It waits no longer. `is_taken` says that the server was there.
    pub(crate) fn pop_waiting(&mut self, port: Port, is_taken: bool) {
        let Some(listener) = self.listeners.get_mut(&port) else { return };
        listener.waiting.pop_front();
        if is_taken {
            listener.pause = MIN_PAUSE;
        }
    }

    /// The server at a port's path takes no more for now. Returns when it is tried again.
    pub(crate) fn pause(&mut self, now: Instant, port: Port) -> Option<Instant> {
        let listener = self.listeners.get_mut(&port)?;
        let at = now + listener.pause;
        listener.pause = (2 * listener.pause).min(MAX_PAUSE);
        listener.retry_at = Some(at);
        Some(at)
    }

    /// Whether a port's path is to be tried again now.
    pub(crate) fn take_retry(&mut self, now: Instant, port: Port) -> bool {
        let listener = self.listeners.get_mut(&port);
        listener.is_some_and(|listener| listener.retry_at.take_if(|at| *at <= now).is_some())
    }
}
