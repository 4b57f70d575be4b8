//! Port allocation: listeners, datagram ports, ephemeral ports (RFC 6335 range).

use std::collections::{BTreeMap, BTreeSet};

use super::NodeError;
use crate::wire::addr::Port;

/// The first port that is given to who asks for any.
pub(super) const EPHEMERAL_FIRST: u16 = 49_152;

/// The node's ports. Streams and datagrams have separate spaces.
#[derive(Debug, Default)]
pub(super) struct Ports {
    listening: BTreeSet<Port>,
    datagram: BTreeSet<Port>,
    /// Connections by local port.
    in_use: BTreeMap<Port, usize>,
    next: u16,
}

impl Ports {
    /// Binds a listener; port 0 chooses an ephemeral one.
    pub(super) fn listen(&mut self, port: Port) -> Result<Port, NodeError> {
        let port = if port.0 == 0 { self.ephemeral()? } else { port };
        if self.listening.insert(port) { Ok(port) } else { Err(NodeError::PortInUse) }
    }

    /// Unbinds a listener.
    pub(super) fn unlisten(&mut self, port: Port) -> Result<(), NodeError> {
        if self.listening.remove(&port) { Ok(()) } else { Err(NodeError::NotBound) }
    }

    pub(super) fn is_listening(&self, port: Port) -> bool {
        self.listening.contains(&port)
    }

    pub(super) fn listeners(&self) -> usize {
        self.listening.len() + self.datagram.len()
    }

    /// Binds a datagram port; 0 chooses an ephemeral one.
    pub(super) fn bind_datagrams(&mut self, port: Port) -> Result<Port, NodeError> {
        let port = if port.0 == 0 { self.ephemeral()? } else { port };
        if self.datagram.insert(port) { Ok(port) } else { Err(NodeError::PortInUse) }
    }

    pub(super) fn unbind_datagrams(&mut self, port: Port) -> Result<(), NodeError> {
        if self.datagram.remove(&port) { Ok(()) } else { Err(NodeError::NotBound) }
    }

    /// The next unused ephemeral port, round robin.
    pub(super) fn ephemeral(&mut self) -> Result<Port, NodeError> {
        for _ in EPHEMERAL_FIRST..=u16::MAX {
            let port = Port(self.next.max(EPHEMERAL_FIRST));
            self.next = port.0.checked_add(1).unwrap_or(EPHEMERAL_FIRST);
            let is_taken = self.in_use.contains_key(&port)
                || self.listening.contains(&port)
                || self.datagram.contains(&port);
            if !is_taken {
                return Ok(port);
            }
        }
        Err(NodeError::PortsExhausted)
    }

    pub(super) fn on_added(&mut self, port: Port) {
        *self.in_use.entry(port).or_default() += 1;
    }

    pub(super) fn on_removed(&mut self, port: Port) {
        if let Some(count) = self.in_use.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.in_use.remove(&port);
            }
        }
    }
}
