//! PCP and NAT-PMP by `crab_nat`, whose calls are asynchronous: each runs to its end on this thread.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig,
    natpmp::{self, Failure as NatPmpFailure},
    pcp::{self, BaseMapRequest, Failure as PcpFailure},
};

use super::{Failure, Held, Made, MappingProtocol, MappingTarget, usable};

/// Requests are sent after 0, 250 and 750 ms, and the last is waited for 1 s (RFC 6886 section 3.1 has the
/// same first interval). RFC 6887 begins with 3 s; a home router answers within milliseconds.
const ATTEMPTS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// When a mapping is removed, two requests within the time that a stopping daemon has.
const REMOVAL: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 1, max_retry_timeout: None };

fn options(
    target: MappingTarget,
    seconds: u32,
    before: Option<&crab_nat::PortMapping>,
) -> PortMappingOptions {
    PortMappingOptions {
        // The port that others may know already, or the one that most NATs map it to anyway.
        external_port: Some(before.map_or(target.port, crab_nat::PortMapping::external_port)),
        lifetime_seconds: Some(seconds),
        timeout_config: Some(ATTEMPTS),
    }
}

/// Maps the port by PCP.
pub(super) fn pcp(target: MappingTarget, seconds: u32, before: Option<&crab_nat::PortMapping>) -> Made {
    // The nonce shows that it is us who renews.
    let (nonce, external) = match before.map(crab_nat::PortMapping::mapping_type) {
        Some(PortMappingType::Pcp { nonce, external_ip, .. }) => (Some(nonce), Some(external_ip)),
        Some(PortMappingType::NatPmp) | None => (None, None),
    };
    let request =
        BaseMapRequest::new(target.gateway.into(), target.local.into(), InternetProtocol::Udp, target.port);
    let made = block_on(pcp::port_mapping(request, nonce, external, options(target, seconds, before)))?;
    let mapping = made.map_err(|error| match error {
        PcpFailure::Timeout | PcpFailure::UnsupportedVersion(_) => Failure::Unanswered,
        PcpFailure::Socket(error) => unanswered_if_refused(&error),
        PcpFailure::Nonce
        | PcpFailure::InvalidResponse(_)
        | PcpFailure::NotAuthorized(_)
        | PcpFailure::MalformedRequest
        | PcpFailure::UnsupportedOpcode
        | PcpFailure::UnsupportedOption
        | PcpFailure::MalformedOption
        | PcpFailure::NetworkFailure(_)
        | PcpFailure::NoResources(_)
        | PcpFailure::UnsupportedProtocol
        | PcpFailure::UserExceededQuota(_)
        | PcpFailure::CannotProvideExternal(_)
        | PcpFailure::AddressMismatch
        | PcpFailure::ExcessiveRemotePeers => Failure::Refused(error.to_string()),
    })?;
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => v4(external_ip),
        PortMappingType::NatPmp => None,
    };
    let ip = ip.ok_or_else(|| Failure::Refused("the router names no IPv4 address".into()))?;
    let external = SocketAddrV4::new(ip, mapping.external_port().get());
    let told = usable(MappingProtocol::Pcp, external, mapping.lifetime())?;
    Ok((told, Held::Pcp(mapping)))
}

/// Maps the port by NAT-PMP.
pub(super) fn nat_pmp(target: MappingTarget, seconds: u32, before: Option<&crab_nat::PortMapping>) -> Made {
    let gateway = GatewayAddress::from(target.gateway);
    let both = block_on(async {
        let ip = natpmp::external_address(gateway, Some(ATTEMPTS)).await?;
        let options = options(target, seconds, before);
        let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, target.port, options).await?;
        Ok((ip, mapping))
    })?;
    let (ip, mapping) = both.map_err(|error| match error {
        NatPmpFailure::Timeout | NatPmpFailure::UnsupportedVersion(_) => Failure::Unanswered,
        NatPmpFailure::Socket(error) => unanswered_if_refused(&error),
        NatPmpFailure::InvalidResponse(_)
        | NatPmpFailure::NotAuthorized
        | NatPmpFailure::NetworkFailure
        | NatPmpFailure::OutOfResources
        | NatPmpFailure::UnsupportedOpcode => Failure::Refused(error.to_string()),
    })?;
    let external = SocketAddrV4::new(ip, mapping.external_port().get());
    let told = usable(MappingProtocol::NatPmp, external, mapping.lifetime())?;
    Ok((told, Held::NatPmp(mapping)))
}

/// Removes a mapping; a router that does not answer forgets it when it expires.
pub(super) fn remove(mut mapping: crab_nat::PortMapping) {
    mapping.timeout_config = REMOVAL;
    if let Ok(Err((error, _))) = block_on(mapping.try_drop()) {
        tracing::debug!("the port mapping is not removed: {error}");
    }
}

/// An ICMP message that nobody listens is no answer.
fn unanswered_if_refused(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Failure::Unanswered;
    }
    Failure::Refused(error.to_string())
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map(|runtime| runtime.block_on(future)).map_err(|error| Failure::Refused(error.to_string()))
}
