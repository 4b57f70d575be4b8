//! Python class of the daemon's IO thread.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use pilot_net::{Config, ConnectionRow, Handle, HostEvent, PeerRow, Tag, TraceConfig};
use pilot_proto::{
    config::UnknownAlgorithm,
    node::{Caller, Figures},
    trace::Detail,
    tunnel::{Candidate, CandidateKind, CandidateStatus, PathClass, Route},
    wire::addr::{Address, NetworkId, NodeId, Port},
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyTuple},
};

use crate::errors;

/// The IO thread: tunnels, streams, the Unix socket and its bridges. It never holds the GIL.
#[pyclass(frozen)]
pub(crate) struct Core {
    handle: Handle,
}

fn key(bytes: &[u8], what: &str) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| errors::invalid(format!("{what} must be 32 bytes")))
}

fn endpoint(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| errors::invalid(format!("{text:?} is not an IP address and port")))
}

fn detail(text: &str) -> PyResult<Detail> {
    match text {
        "events" => Ok(Detail::Events),
        "packets" => Ok(Detail::Packets),
        _ => Err(errors::invalid(format!("{text:?} is neither events nor packets"))),
    }
}

fn candidate_kind(text: &str) -> PyResult<CandidateKind> {
    match text {
        "host" => Ok(CandidateKind::Host),
        "mapped" => Ok(CandidateKind::Mapped),
        _ => Err(errors::invalid(format!("{text:?} is neither host nor mapped"))),
    }
}

/// The kind of a path, and the endpoint of the peer or the beacon.
fn path_of(route: Route) -> (&'static str, String) {
    match route {
        Route::Direct(address) => (PathClass::of(address).name(), address.to_string()),
        Route::Relayed { beacon, .. } => ("relay", beacon.to_string()),
    }
}

fn host_port(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

#[pymethods]
impl Core {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    #[pyo3(signature = (*, identity_seed, seed, listen, ipc_fd, has_echo, congestion, greeting,
        trace = None, qlog = None))]
    fn new(
        identity_seed: &[u8],
        seed: &[u8],
        listen: &str,
        ipc_fd: Option<i32>,
        has_echo: bool,
        congestion: &str,
        greeting: String,
        trace: Option<&str>,
        qlog: Option<PathBuf>,
    ) -> PyResult<Self> {
        let config = Config {
            identity_seed: key(identity_seed, "identity_seed")?,
            seed: key(seed, "seed")?,
            listen: endpoint(listen)?,
            ipc: ipc_fd.map(pilot_net::fd::duplicate).transpose()?,
            has_echo,
            congestion: congestion.parse().map_err(|error: UnknownAlgorithm| errors::invalid(error))?,
            greeting,
            trace: TraceConfig { log: trace.map(detail).transpose()?, qlog },
        };
        Ok(Self { handle: Handle::start(config)? })
    }

    /// Host and port of the UDP socket.
    fn local_addr(&self) -> (String, u16) {
        host_port(self.handle.local_addr())
    }

    /// Takes a driver of this process by one end of a socket pair, of which a duplicate is kept.
    fn attach(&self, fd: i32) -> PyResult<()> {
        Ok(self.handle.attach(pilot_net::fd::duplicate(fd)?)?)
    }

    /// Readable while there are events.
    fn event_fd(&self) -> i32 {
        self.handle.event_fd()
    }

    /// Drains all events and a bounded number of requests: tuples whose first member is the kind.
    fn take_events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = self.handle.take_events();
        let tuples: PyResult<Vec<_>> = events.into_iter().map(|event| event_tuple(py, event)).collect();
        PyList::new(py, tuples?)
    }

    fn set_address(&self, network: u16, node: u32) {
        self.handle.set_address(Address { network: NetworkId(network), node: NodeId(node) });
    }

    fn send_datagram(&self, network: u16, node: u32, port: u16, data: &[u8]) {
        let remote = Address { network: NetworkId(network), node: NodeId(node) };
        self.handle.send_datagram(remote, Port(port), data.to_vec());
    }

    fn set_beacons(&self, beacons: Vec<String>) -> PyResult<()> {
        let beacons: PyResult<Vec<_>> = beacons.iter().map(|text| endpoint(text)).collect();
        self.handle.set_beacons(beacons?);
        Ok(())
    }

    /// The address of this host changed: announces it to peers.
    fn on_moved(&self) {
        self.handle.on_moved();
    }

    /// The addresses at which this host may be reached: pairs of a kind, host or mapped, and an endpoint.
    fn set_candidates(&self, candidates: Vec<(String, String)>) -> PyResult<()> {
        let candidates: PyResult<Vec<_>> = candidates
            .iter()
            .map(|(kind, text)| Ok(Candidate { kind: candidate_kind(kind)?, address: endpoint(text)? }))
            .collect();
        self.handle.set_candidates(candidates?);
        Ok(())
    }

    /// Answers `record_needed`. Nothing is sent to the addresses of a node that takes frames by relay only.
    #[pyo3(signature = (node, identity_key, endpoint, *, candidates = Vec::new(), is_relay_only = false))]
    fn on_record(
        &self,
        node: u32,
        identity_key: &[u8],
        endpoint: Option<&str>,
        candidates: Vec<String>,
        is_relay_only: bool,
    ) -> PyResult<()> {
        let endpoint = endpoint.map(self::endpoint).transpose()?.filter(|_| !is_relay_only);
        let candidates: PyResult<Vec<_>> =
            candidates.iter().filter(|_| !is_relay_only).map(|text| self::endpoint(text)).collect();
        self.handle.on_record(NodeId(node), key(identity_key, "identity_key")?, endpoint, candidates?);
        Ok(())
    }

    /// Answers `record_needed` when there is none; `why` is told to whoever dials the node.
    #[pyo3(signature = (node, why = ""))]
    fn on_no_record(&self, node: u32, why: &str) {
        self.handle.on_no_record(NodeId(node), why.to_owned());
    }

    #[pyo3(signature = (node, identity_key))]
    fn on_key(&self, node: u32, identity_key: Option<&[u8]>) -> PyResult<()> {
        let identity_key = identity_key.map(|bytes| key(bytes, "identity_key")).transpose()?;
        self.handle.on_key(NodeId(node), identity_key);
        Ok(())
    }

    fn set_identity(&self, seed: &[u8]) -> PyResult<()> {
        self.handle.set_identity(key(seed, "seed")?);
        Ok(())
    }

    fn set_private(&self, is_private: bool) {
        self.handle.set_private(is_private);
    }

    fn set_networks(&self, networks: Vec<u16>) {
        self.handle.set_networks(networks.into_iter().map(NetworkId).collect());
    }

    /// Answers `policy_needed`, or says in advance which ports a network allows; none for all.
    fn set_network_policy(&self, network: u16, ports: Vec<u16>) {
        self.handle.set_network_policy(NetworkId(network), ports.into_iter().map(Port).collect());
    }

    /// Answers `admission_needed`, or sets a verdict in advance; on the backbone for these ports, or for all.
    #[pyo3(signature = (node, is_admitted, seconds, *, network = 0, ports = Vec::new()))]
    fn on_admission(
        &self,
        node: u32,
        is_admitted: bool,
        seconds: f64,
        network: u16,
        ports: Vec<u16>,
    ) -> PyResult<()> {
        let lifetime = Duration::try_from_secs_f64(seconds)
            .map_err(|_| errors::invalid("seconds must not be negative"))?;
        let caller = Caller { node: NodeId(node), network: NetworkId(network) };
        let ports = ports.into_iter().map(Port).collect();
        self.handle.on_admission(caller, is_admitted, lifetime, ports);
        Ok(())
    }

    fn expect_call(&self, node: u32) {
        self.handle.expect_call(NodeId(node));
    }

    fn dismiss(&self, node: u32) {
        self.handle.dismiss(NodeId(node));
    }

    #[pyo3(signature = (client, id, body))]
    fn reply(&self, client: u64, id: Option<u32>, body: &[u8]) {
        self.handle.reply(Tag { client, id }, body.to_vec());
    }

    #[pyo3(signature = (client, id, code, message, hint))]
    fn fail(&self, client: u64, id: Option<u32>, code: String, message: String, hint: String) {
        self.handle.fail(Tag { client, id }, code, message, hint);
    }

    /// Counters, peers and connections.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = py
            .detach(|| self.handle.snapshot())
            .ok_or_else(|| errors::internal("the IO thread does not answer"))?;
        let dict = PyDict::new(py);
        let stats = snapshot.stats;
        for (name, value) in snapshot.local.each().chain(stats.counters.each()) {
            dict.set_item(name, value)?;
        }
        for (name, value) in [
            ("connections", stats.connections as u64),
            ("ports", stats.ports as u64),
            ("peers", stats.peers as u64),
            ("encrypted_peers", stats.encrypted_peers as u64),
            ("clients", snapshot.clients as u64),
            ("recv_held", stats.held as u64),
            ("send_held", stats.send_held as u64),
        ] {
            dict.set_item(name, value)?;
        }
        dict.set_item("figures", figures_dict(py, &snapshot.figures)?)?;
        let peers: PyResult<Vec<_>> = snapshot.peers.iter().map(|row| peer_dict(py, row)).collect();
        dict.set_item("peer_list", peers?)?;
        let rows: PyResult<Vec<_>> =
            snapshot.connections.iter().map(|row| connection_dict(py, row)).collect();
        dict.set_item("conn_list", rows?)?;
        Ok(dict)
    }

    /// Closes every stream and socket, and stops the thread.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.handle.stop());
    }
}

fn event_tuple<'py>(py: Python<'py>, event: HostEvent) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        HostEvent::RecordNeeded(node) => ("record_needed", node.0).into_pyobject(py),
        HostEvent::KeyNeeded(node) => ("key_needed", node.0).into_pyobject(py),
        HostEvent::AdmissionNeeded(caller, key) => {
            ("admission_needed", caller.node.0, caller.network.0, PyBytes::new(py, &key)).into_pyobject(py)
        }
        HostEvent::PolicyNeeded(network) => ("policy_needed", network.0).into_pyobject(py),
        HostEvent::EndpointDiscovered(endpoint) => {
            let (host, port) = host_port(endpoint);
            ("endpoint", host, port).into_pyobject(py)
        }
        HostEvent::HomeChanged(beacon) => ("home", beacon.to_string()).into_pyobject(py),
        HostEvent::PathChanged(node, route) => {
            let (kind, endpoint) = path_of(route);
            ("path", node.0, kind, endpoint).into_pyobject(py)
        }
        HostEvent::Request { tag, command, payload } => {
            ("request", tag.client, tag.id, command, PyBytes::new(py, &payload)).into_pyobject(py)
        }
        HostEvent::Stopped(text) => ("stopped", text).into_pyobject(py),
    }
}

/// Sums over time: `(sent, received)` bytes by kind of path, counters by port of a service, and histograms as
/// `(counts, seconds)`.
fn figures_dict<'py>(py: Python<'py>, figures: &Figures) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let paths = PyDict::new(py);
    for (kind, bytes) in figures.paths() {
        paths.set_item(kind.name(), (bytes.sent, bytes.received))?;
    }
    dict.set_item("paths", paths)?;
    let services = PyDict::new(py);
    for (port, figures) in figures.services() {
        let row = PyDict::new(py);
        row.set_item("streams", figures.streams)?;
        for (name, value) in figures.counters.each() {
            row.set_item(name, value)?;
        }
        services.set_item(port.0, row)?;
    }
    dict.set_item("services", services)?;
    dict.set_item("failed_dials", figures.failed_dials.clone())?;
    for (name, times) in [("rtt", figures.rtt), ("dial", figures.dial), ("handshake", figures.handshake)] {
        dict.set_item(name, (times.counts.to_vec(), times.sum.as_secs_f64()))?;
    }
    Ok(dict)
}

fn peer_dict<'py>(py: Python<'py>, row: &PeerRow) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let status = &row.status;
    let text = |address: Option<SocketAddr>| address.map_or_else(String::new, |address| address.to_string());
    let relayed = status.route.filter(|route| route.is_relayed() && status.is_encrypted);
    let kind = if relayed.is_some() { "relay" } else { status.class.map_or("", PathClass::name) };
    dict.set_item("node_id", row.node)?;
    dict.set_item("endpoint", text(status.endpoint))?;
    dict.set_item("encrypted", status.is_encrypted)?;
    dict.set_item("authenticated", status.is_authenticated)?;
    dict.set_item("relay", relayed.is_some())?;
    dict.set_item("path", kind)?;
    dict.set_item("beacon", text(relayed.map(Route::next_hop)))?;
    dict.set_item("rtt", status.rtt.map_or(0.0, |rtt| rtt.as_secs_f64()))?;
    dict.set_item("mtu", status.segment)?;
    dict.set_item("loss", row.loss)?;
    dict.set_item("path_age", status.path_age.map_or(0.0, |age| age.as_secs_f64()))?;
    let candidates: Vec<_> = status
        .candidates
        .iter()
        .map(|candidate| {
            let CandidateStatus { address, source, state } = *candidate;
            (address.to_string(), source.name(), state.name(), state.reason())
        })
        .collect();
    dict.set_item("candidates", candidates)?;
    Ok(dict)
}

fn connection_dict<'py>(py: Python<'py>, row: &ConnectionRow) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let (tuple, stats) = (row.tuple, row.stats);
    for (name, value) in stats.counters.each() {
        dict.set_item(name, value)?;
    }
    dict.set_item("state", row.state.to_string())?;
    dict.set_item("remote_addr", tuple.remote.to_string())?;
    dict.set_item("in_recovery", stats.in_recovery)?;
    dict.set_item("congestion", stats.congestion.name())?;
    for (name, value) in [
        ("id", u64::from(row.id)),
        ("local_port", u64::from(tuple.local_port.0)),
        ("remote_port", u64::from(tuple.remote_port.0)),
        ("cong_win", stats.cwnd as u64),
        ("ssthresh", stats.ssthresh as u64),
        ("pacing_rate", stats.pacing_rate),
        ("delivery_rate", stats.delivery_rate),
        ("in_flight", stats.in_flight as u64),
        ("srtt_ns", stats.srtt_ns),
        ("rttvar_ns", stats.rttvar_ns),
        ("min_rtt_ns", stats.min_rtt_ns),
        ("unacked", stats.unacked as u64),
        ("ooo_buf", stats.ooo_buf as u64),
        ("peer_recv_win", stats.snd_wnd as u64),
        ("recv_win", stats.rcv_wnd as u64),
        ("max_segment", stats.max_segment as u64),
    ] {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}
