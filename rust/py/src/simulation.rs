//! Python class of the network simulator, for tests of transfers over impaired paths.

use std::time::Duration;

use pilot_proto::{
    config::{Algorithm, NodeConfig, UnknownAlgorithm},
    node::DialOptions,
};
use pilot_sim::{FlowId, Loss, Path, World};
use pyo3::{prelude::*, types::PyDict};

use crate::errors;

/// Upper bound of hosts per network.
const MAX_HOSTS: usize = 1024;

/// Whole nodes, paths between them and bulk transfers. All randomness derives from the seed.
#[pyclass]
pub(crate) struct Simulation {
    world: World,
    hosts: usize,
}

fn seconds(value: f64, what: &str) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| errors::invalid(format!("{what} makes no sense")))
}

fn probability(value: f64, what: &str) -> PyResult<f64> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(errors::invalid(format!("{what} must be between 0 and 1")))
    }
}

impl Simulation {
    fn host(&self, host: usize) -> PyResult<usize> {
        if host < self.hosts { Ok(host) } else { Err(errors::not_found(format!("no host {host}"))) }
    }

    fn flow_id(&self, transfer: usize) -> PyResult<FlowId> {
        self.world.nth_flow(transfer).ok_or_else(|| errors::not_found(format!("no transfer {transfer}")))
    }
}

#[pymethods]
impl Simulation {
    #[new]
    fn new(seed: u64) -> Self {
        Self { world: World::new(seed, NodeConfig::default(), Path::default()), hosts: 0 }
    }

    /// Virtual time, seconds.
    #[getter]
    fn now(&self) -> f64 {
        self.world.now.as_nanos() as f64 / 1e9
    }

    fn add_host(&mut self) -> PyResult<usize> {
        if self.hosts == MAX_HOSTS {
            return Err(errors::invalid(format!("at most {MAX_HOSTS} hosts")));
        }
        self.hosts += 1;
        Ok(self.world.add_host())
    }

    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    #[pyo3(signature = (source, target, *, latency=0.0, jitter=0.0, noise=0.0, loss=0.0, burst=None,
        duplication=0.0, reordering=0.0, reorder_delay=0.0, mtu=0, icmp=false, rate=0, queue=0))]
    fn set_path(
        &mut self,
        source: usize,
        target: usize,
        latency: f64,
        jitter: f64,
        noise: f64,
        loss: f64,
        burst: Option<(f64, f64, f64)>,
        duplication: f64,
        reordering: f64,
        reorder_delay: f64,
        mtu: usize,
        icmp: bool,
        rate: u64,
        queue: usize,
    ) -> PyResult<()> {
        let loss = match burst {
            Some((begin, end, inside)) => Loss::Bursty {
                begin: probability(begin, "burst")?,
                end: probability(end, "burst")?,
                inside: probability(inside, "burst")?,
            },
            None if loss > 0.0 || loss.is_nan() => Loss::Random(probability(loss, "loss")?),
            None => Loss::None,
        };
        let mut path = Path {
            latency: seconds(latency, "latency")?,
            jitter: seconds(jitter, "jitter")?,
            noise: seconds(noise, "noise")?,
            loss,
            duplication: probability(duplication, "duplication")?,
            reordering: probability(reordering, "reordering")?,
            reorder_delay: seconds(reorder_delay, "reorder_delay")?,
            mtu,
            has_icmp: icmp,
            link: None,
        };
        let (source, target) = (self.host(source)?, self.host(target)?);
        path.link = (rate > 0).then(|| self.world.add_link(rate, queue));
        self.world.set_path(source, target, path);
        Ok(())
    }

    fn partition(&mut self, a: usize, b: usize, is_cut: bool) -> PyResult<()> {
        let (a, b) = (self.host(a)?, self.host(b)?);
        self.world.set_partition(a, b, is_cut);
        Ok(())
    }

    fn restart(&mut self, host: usize) -> PyResult<()> {
        let host = self.host(host)?;
        self.world.restart(host);
        Ok(())
    }

    #[pyo3(signature = (source, target, size, *, congestion=None, no_delay=false, echo=false))]
    fn transfer(
        &mut self,
        source: usize,
        target: usize,
        size: u64,
        congestion: Option<&str>,
        no_delay: bool,
        echo: bool,
    ) -> PyResult<usize> {
        let parse = |name: &str| name.parse::<Algorithm>();
        let congestion =
            congestion.map(parse).transpose().map_err(|error: UnknownAlgorithm| errors::invalid(error))?;
        let (source, target) = (self.host(source)?, self.host(target)?);
        self.world
            .start_flow(source, target, size, DialOptions { no_delay, congestion }, echo)
            .map_err(errors::invalid)?;
        Ok(self.world.flows().len() - 1)
    }

    fn abort(&mut self, transfer: usize) -> PyResult<()> {
        let id = self.flow_id(transfer)?;
        self.world.abort(id);
        Ok(())
    }

    /// Runs for `time` seconds of virtual time.
    fn run(&mut self, py: Python<'_>, time: f64) -> PyResult<()> {
        let time = seconds(time, "time")?;
        py.detach(|| self.world.run_for(time));
        Ok(())
    }

    /// Runs until every transfer has ended.
    #[pyo3(signature = (limit=600.0))]
    fn finish(&mut self, py: Python<'_>, limit: f64) -> PyResult<()> {
        let limit = seconds(limit, "limit")?;
        let is_over = |world: &mut World| {
            world.flows().iter().all(|flow| flow.finished.is_some() || flow.closed.is_some())
        };
        let stuck = py.detach(|| self.world.run_until(limit, is_over));
        stuck.map_err(errors::timed_out)
    }

    fn stats<'py>(&self, py: Python<'py>, transfer: usize) -> PyResult<Bound<'py, PyDict>> {
        let flow = self.world.flow(self.flow_id(transfer)?);
        let dict = PyDict::new(py);
        let at = |instant: Option<pilot_proto::time::Instant>| instant.map(|at| at.as_nanos() as f64 / 1e9);
        dict.set_item("received", flow.received)?;
        dict.set_item("returned", flow.returned())?;
        dict.set_item("connected_at", at(flow.connected))?;
        dict.set_item("finished_at", at(flow.finished))?;
        dict.set_item("closed", flow.closed.map(|reason| format!("{reason:?}")))?;
        dict.set_item("goodput", flow.goodput(self.world.now))?;
        dict.set_item("cwnd", flow.stats.cwnd)?;
        dict.set_item("max_segment", flow.stats.max_segment)?;
        dict.set_item("retransmissions", flow.stats.counters.retransmits + flow.stats.counters.fast_retx)?;
        dict.set_item("spurious", flow.stats.counters.spurious_retx)?;
        if flow.received > flow.total {
            return Err(errors::internal("more arrived than was sent"));
        }
        Ok(dict)
    }
}
