//! Python class of a port mapping on the home router.

use std::{net::Ipv4Addr, num::NonZeroU16, time::Duration};

use pilot_net::port_mapping::{MappingTarget, PortMapper as Mapper};
use pyo3::prelude::*;

use crate::errors;

/// One UDP port on one router. Every call blocks.
#[pyclass(frozen)]
pub(crate) struct PortMapper {
    mapper: Mapper,
}

fn address(text: &str, what: &str) -> PyResult<Ipv4Addr> {
    text.parse().map_err(|_| errors::invalid(format!("{what} is not an IPv4 address: {text:?}")))
}

#[pymethods]
impl PortMapper {
    #[new]
    #[pyo3(signature = (*, gateway, local, port))]
    fn new(gateway: &str, local: &str, port: u16) -> PyResult<Self> {
        let target = MappingTarget {
            gateway: address(gateway, "gateway")?,
            local: address(local, "local")?,
            port: NonZeroU16::new(port).ok_or_else(|| errors::invalid("port must not be 0"))?,
        };
        Ok(Self { mapper: Mapper::new(target) })
    }

    /// Protocol, external host and port, and seconds of the lease, 0 if it does not end.
    fn map(&self, py: Python<'_>, seconds: u32) -> PyResult<(&'static str, String, u16, u64)> {
        let lifetime = Duration::from_secs(u64::from(seconds));
        let mapping = py.detach(|| self.mapper.map(lifetime)).map_err(errors::connection_failed)?;
        let granted = mapping.lifetime.map_or(0, |lifetime| lifetime.as_secs());
        let external = mapping.external;
        Ok((mapping.protocol.name(), external.ip().to_string(), external.port(), granted))
    }

    /// Removes the mapping, if there is one.
    fn remove(&self, py: Python<'_>) {
        py.detach(|| self.mapper.remove());
    }
}
