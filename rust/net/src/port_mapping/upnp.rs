//! UPnP IGD by `igd-next`, which bounds the size of what devices answer.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use igd_next::{
    AddAnyPortError, AddPortError, Gateway, PortMappingProtocol, SearchError, SearchOptions, search_gateway,
};

use super::{Failure, Made, MappingProtocol, MappingTarget, usable};

/// Where devices are asked for (UPnP Device Architecture, section 1.3).
const SSDP_PORT: u16 = 1900;
/// A device answers a question to itself within 1 s, and one to all within the 3 s that `igd-next` allows.
const UNICAST: Duration = Duration::from_millis(1200);
const MULTICAST: Duration = Duration::from_millis(3500);
/// What routers show beside the mapping.
const DESCRIPTION: &str = "pilotstack";

/// A mapping, and the device that made it.
pub(super) struct Held {
    gateway: Gateway,
    port: u16,
}

/// Finds the router and maps the port.
pub(super) fn make(target: MappingTarget, seconds: u32) -> Made {
    map_on(find(target)?, target, target.port.get(), seconds)
}

impl Held {
    pub(super) fn renew(&self, target: MappingTarget, seconds: u32) -> Made {
        map_on(self.gateway.clone(), target, self.port, seconds)
    }

    pub(super) fn remove(self) {
        if let Err(error) = self.gateway.remove_port(PortMappingProtocol::UDP, self.port) {
            tracing::debug!("the port mapping is not removed: {error}");
        }
    }
}

/// The router's control point. Only the default gateway is taken: any host of the link can answer.
fn find(target: MappingTarget) -> Result<Gateway, Failure> {
    let to_gateway = SocketAddr::from((target.gateway, SSDP_PORT));
    let (found, is_all) = match search(target, Some(to_gateway), UNICAST) {
        Err(SearchError::NoResponseWithinTimeout | SearchError::IoError(_)) => {
            (search(target, None, MULTICAST), true)
        }
        found => (found, false),
    };
    match found {
        Ok(gateway) if gateway.addr.ip() == IpAddr::V4(target.gateway) => Ok(gateway),
        Ok(gateway) => {
            tracing::debug!("{} is not our router (all were asked: {is_all})", gateway.addr.ip());
            Err(Failure::Unanswered)
        }
        Err(SearchError::NoResponseWithinTimeout | SearchError::IoError(_)) => Err(Failure::Unanswered),
        Err(error) => Err(Failure::Refused(error.to_string())),
    }
}

fn search(target: MappingTarget, to: Option<SocketAddr>, timeout: Duration) -> Result<Gateway, SearchError> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::from((target.local, 0));
    options.broadcast_address = to.unwrap_or(options.broadcast_address);
    options.timeout = Some(timeout);
    options.single_search_timeout = Some(timeout);
    search_gateway(options)
}

fn map_on(gateway: Gateway, target: MappingTarget, port: u16, seconds: u32) -> Made {
    let local = SocketAddr::from((target.local, target.port.get()));
    let ip = match gateway.get_external_ip() {
        Ok(IpAddr::V4(ip)) => ip,
        Ok(IpAddr::V6(_)) => return Err(Failure::Refused("the router names no IPv4 address".into())),
        Err(error) => return Err(Failure::Refused(error.to_string())),
    };
    let (port, seconds) = match add(&gateway, local, port, seconds) {
        Err(AddAnyPortError::OnlyPermanentLeasesSupported) => {
            (add(&gateway, local, port, 0).map_err(refused)?, 0)
        }
        added => (added.map_err(refused)?, seconds),
    };
    let told = usable(MappingProtocol::Upnp, SocketAddrV4::new(ip, port), seconds)?;
    Ok((told, super::Held::Upnp(Held { gateway, port })))
}

/// Maps the external port that is wanted, or any other if it is taken.
fn add(gateway: &Gateway, local: SocketAddr, port: u16, seconds: u32) -> Result<u16, AddAnyPortError> {
    let protocol = PortMappingProtocol::UDP;
    match gateway.add_port(protocol, port, local, seconds, DESCRIPTION) {
        Ok(()) => Ok(port),
        Err(AddPortError::OnlyPermanentLeasesSupported) => Err(AddAnyPortError::OnlyPermanentLeasesSupported),
        Err(_) => gateway.add_any_port(protocol, local, seconds, DESCRIPTION),
    }
}

fn refused(error: AddAnyPortError) -> Failure {
    Failure::Refused(error.to_string())
}
