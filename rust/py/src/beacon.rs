//! Python class of the beacon thread.

use std::{net::SocketAddr, sync::atomic::Ordering};

use pilot_net::beacon::Beacon;
use pilot_proto::wire::addr::NodeId;
use pyo3::prelude::*;

use crate::errors;

/// A beacon in its own thread.
#[pyclass(frozen)]
pub(crate) struct BeaconServer {
    beacon: std::sync::Mutex<Beacon>,
}

#[pymethods]
impl BeaconServer {
    #[new]
    fn new(listen: &str) -> PyResult<Self> {
        let listen: SocketAddr = listen.parse().map_err(|_| errors::invalid("not an IP address and port"))?;
        Ok(Self { beacon: std::sync::Mutex::new(Beacon::start(listen)?) })
    }

    /// Bound host and port.
    fn local_addr(&self) -> PyResult<(String, u16)> {
        let beacon = self.beacon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let address = beacon.local_addr()?;
        Ok((address.ip().to_string(), address.port()))
    }

    /// Notifies nodes of pending items at the registry.
    fn notify(&self, nodes: Vec<u32>) {
        let beacon = self.beacon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for node in nodes {
            beacon.notify(NodeId(node));
        }
    }

    /// Counters: discovery replies sent, datagrams dropped.
    fn counters(&self) -> (u64, u64) {
        let beacon = self.beacon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counters = beacon.counters();
        (counters.discovered.load(Ordering::Relaxed), counters.dropped.load(Ordering::Relaxed))
    }

    /// Stops and joins the thread.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            self.beacon.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stop();
        });
    }
}
