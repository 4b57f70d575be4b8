//! Python class of the beacon thread.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use pilot_net::beacon::{Beacon, Config, Report};
use pilot_proto::{
    beacon::{Counters, MAX_PROBE_PORTS},
    wire::addr::NodeId,
};
use pyo3::{prelude::*, types::PyDict};

use crate::errors;

/// A beacon in its own thread.
#[pyclass(frozen)]
pub(crate) struct BeaconServer {
    beacon: Mutex<Beacon>,
    local_addr: SocketAddr,
}

#[pymethods]
impl BeaconServer {
    #[new]
    #[pyo3(signature = (listen, *, seed, id = 0, trusts_loopback = true, probe_ports = vec![], public_ips = vec![]))]
    fn new(
        listen: &str,
        seed: [u8; 32],
        id: u32,
        trusts_loopback: bool,
        probe_ports: Vec<u16>,
        public_ips: Vec<IpAddr>,
    ) -> PyResult<Self> {
        let listen: SocketAddr = listen.parse().map_err(|_| errors::invalid("not an IP address and port"))?;
        if probe_ports.len() > MAX_PROBE_PORTS {
            return Err(errors::invalid(format!("more than {MAX_PROBE_PORTS} ports for proofs")));
        }
        let beacon = Beacon::start(Config { listen, id, seed, trusts_loopback, probe_ports, public_ips })?;
        Ok(Self { local_addr: beacon.local_addr(), beacon: Mutex::new(beacon) })
    }

    /// Bound host and port.
    fn local_addr(&self) -> (String, u16) {
        (self.local_addr.ip().to_string(), self.local_addr.port())
    }

    /// Sets the addresses of the other beacons.
    fn set_beacons(&self, py: Python<'_>, beacons: Vec<String>) -> PyResult<()> {
        let parsed: Result<Vec<SocketAddr>, _> = beacons.iter().map(|text| text.parse()).collect();
        let beacons = parsed.map_err(|_| errors::invalid("not an IP address and port"))?;
        py.detach(|| self.with(|beacon| beacon.set_beacons(beacons)))
    }

    /// Notifies nodes of pending items at the registry.
    fn notify(&self, py: Python<'_>, nodes: Vec<u32>) -> PyResult<()> {
        let nodes = nodes.into_iter().map(NodeId).collect();
        py.detach(|| self.with(|beacon| beacon.notify(nodes)))
    }

    /// At most `most` nodes whose keys the registry must be asked for.
    fn take_unconfirmed(&self, py: Python<'_>, most: usize) -> PyResult<Vec<u32>> {
        let nodes = py.detach(|| self.with(|beacon| beacon.take_unconfirmed(most)))?;
        Ok(nodes.into_iter().map(|node| node.0).collect())
    }

    /// Sets a node's key at the registry, or that the registry does not know the node.
    fn set_key(&self, py: Python<'_>, node: u32, key: Option<[u8; 32]>) -> PyResult<()> {
        py.detach(|| self.with(|beacon| beacon.set_key(NodeId(node), key)))
    }

    /// Counters and holdings by name.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Report { counters, holdings, socket_errors } = py.detach(|| self.with(Beacon::report))?;
        let report = PyDict::new(py);
        for (name, value) in counters.each() {
            report.set_item(name, value)?;
        }
        report.set_item("socket_errors", socket_errors)?;
        for (name, value) in holdings.each() {
            report.set_item(name, value)?;
        }
        Ok(report)
    }

    /// Names and descriptions of the counters.
    #[staticmethod]
    fn counter_names() -> Vec<(&'static str, &'static str)> {
        Counters::NAMES.iter().map(|(name, text)| (*name, text.trim())).collect()
    }

    /// Stops and joins the thread.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.beacon.lock().unwrap_or_else(PoisonError::into_inner).stop());
    }
}

impl BeaconServer {
    fn with<T>(&self, ask: impl FnOnce(&Beacon) -> std::io::Result<T>) -> PyResult<T> {
        let beacon = self.beacon.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&beacon).map_err(errors::internal)
    }
}
