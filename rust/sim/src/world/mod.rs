//! The simulated network: hosts, paths and virtual time.

mod beacons;
mod hosts;
mod realms;
mod registry;
#[cfg(test)]
mod tests;
mod transfers;
mod wire;

use core::{fmt, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use self::{
    beacons::BeaconHost,
    hosts::Host,
    realms::{Party, Realms},
    wire::Parcel,
};
pub use self::{
    beacons::BeaconId,
    hosts::{Attachment, Notice},
    realms::{BoxConfig, BoxId, Place},
};
use crate::{
    channel::{Channel, Links, Path},
    flow::{Flow, FlowId, HostId},
    qlog::Recorder,
    rng::Rng,
};
use pilot_proto::{
    config::NodeConfig,
    node::{ConnectionId, Event},
    time::Instant,
    trace::Detail,
};

/// Why a run ended before its condition was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// The time limit was reached.
    TooLong(Instant),
    /// There are no further events.
    Forever(Instant),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(at) => write!(f, "not done at {at:?} of virtual time"),
            Self::Forever(at) => write!(f, "nothing will ever happen after {at:?} of virtual time"),
        }
    }
}

impl std::error::Error for Stuck {}

/// A simulated network.
#[derive(Debug)]
pub struct World {
    /// The virtual time.
    pub now: Instant,
    /// Source of all randomness.
    pub rng: Rng,
    config: NodeConfig,
    hosts: Vec<Host>,
    beacons: Vec<BeaconHost>,
    realms: Realms,
    registry_delay: Duration,
    flows: Vec<Flow>,
    senders: BTreeMap<(HostId, ConnectionId), FlowId>,
    receivers: BTreeMap<(HostId, ConnectionId), FlowId>,
    default_path: Path,
    channels: BTreeMap<(Party, Party), Channel>,
    links: Links,
    cut: BTreeSet<(HostId, HostId)>,
    wire: BTreeMap<(Instant, u64), Parcel>,
    serial: u64,
    datagrams: u64,
    buffer: Vec<u8>,
    recorder: Option<Recorder>,
}

impl World {
    /// A network without hosts. Added hosts get this configuration, and paths default to `path`. If
    /// `SIM_QLOG` names a folder, qlog files are written there when the run gets stuck or panics.
    pub fn new(seed: u64, config: NodeConfig, path: Path) -> Self {
        let mut world = Self {
            now: Instant::from_millis(1),
            rng: Rng(seed),
            config,
            hosts: Vec::new(),
            beacons: Vec::new(),
            realms: Realms::default(),
            registry_delay: Duration::ZERO,
            flows: Vec::new(),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            default_path: path,
            channels: BTreeMap::new(),
            links: Links::default(),
            cut: BTreeSet::new(),
            wire: BTreeMap::new(),
            serial: 0,
            datagrams: 0,
            buffer: vec![0; 65_536],
            recorder: None,
        };
        if let Some(dir) = std::env::var_os("SIM_QLOG").filter(|dir| !dir.is_empty()) {
            world.record(dir.into(), seed);
        }
        world
    }

    /// Traces hosts added from now on, into a subfolder of `dir`.
    pub fn record(&mut self, dir: PathBuf, seed: u64) {
        self.config.trace = Some(Detail::Packets);
        self.recorder = Some(Recorder::new(dir, seed));
    }

    /// A network of two hosts.
    pub fn pair(seed: u64, config: NodeConfig, path: Path) -> Self {
        let mut world = Self::new(seed, config, path);
        world.add_host();
        world.add_host();
        world
    }

    /// Advances to the next event.
    ///
    /// # Errors
    /// [`Stuck::Forever`] when there is none.
    pub fn step(&mut self) -> Result<(), Stuck> {
        let next = self.next_at().ok_or(Stuck::Forever(self.now))?;
        self.advance(next);
        Ok(())
    }

    /// Time of the next event, after sending everything that can be sent now.
    fn next_at(&mut self) -> Option<Instant> {
        for host in 0..self.hosts.len() {
            self.drain(host);
        }
        for beacon in 0..self.beacons.len() {
            self.drain_beacon(beacon);
        }
        let awake = self.hosts.iter().filter(|host| host.is_awake);
        let timer = awake.filter_map(|host| host.node.poll_timeout()).min();
        let beacons = self.beacons.iter().filter_map(BeaconHost::poll_timeout).min();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(beacons).chain(arrival).min()
    }

    /// Advances the time to `at` and processes its events.
    fn advance(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let parcel = entry.remove();
            self.deliver(parcel);
        }
        for host in 0..self.hosts.len() {
            let at = &mut self.hosts[host];
            if at.is_awake && at.node.poll_timeout().is_some_and(|at| at <= self.now) {
                at.node.handle_timeout(self.now);
                self.drain(host);
            }
        }
        for beacon in 0..self.beacons.len() {
            if self.beacons[beacon].poll_timeout().is_some_and(|at| at <= self.now) {
                self.beacons[beacon].handle_timeout(self.now);
                self.drain_beacon(beacon);
            }
        }
    }

    /// Runs until `is_done`, for at most `limit` of virtual time.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Stuck> {
        let end = self.now + limit;
        while !is_done(self) {
            let result = if self.now > end { Err(Stuck::TooLong(self.now)) } else { self.step() };
            if result.is_err() {
                self.recorder.iter_mut().for_each(Recorder::save);
                return result;
            }
        }
        Ok(())
    }

    /// Runs for exactly this time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_at().filter(|at| *at <= end) {
            self.advance(at);
        }
        self.now = end;
    }

    /// Drains a host's datagrams and events.
    fn drain(&mut self, host: HostId) {
        if !self.hosts[host].is_awake {
            return;
        }
        loop {
            let mut is_idle = true;
            while self.transmit(host) {
                is_idle = false;
            }
            while let Some(event) = self.hosts[host].node.poll_event() {
                is_idle = false;
                self.on_event(host, event);
            }
            if is_idle {
                break;
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.take(host, &mut self.hosts[host].node);
        }
    }

    fn on_event(&mut self, host: HostId, event: Event) {
        match event {
            Event::RecordNeeded(id) => self.ask_record(host, id),
            Event::KeyNeeded(id) => self.answer_key(host, id),
            Event::Connected(id) => {
                if let Some(flow) = self.senders.get(&(host, id)).copied() {
                    self.flows[flow.0].connected = Some(self.now);
                    self.pump_sender(flow);
                }
            }
            Event::Accepted(id) => self.accept(host, id),
            Event::Writable(id) => match self.senders.get(&(host, id)).copied() {
                Some(flow) => self.pump_sender(flow),
                None => self.pump_receiver_of(host, id),
            },
            Event::Readable(id) => match self.senders.get(&(host, id)).copied() {
                Some(flow) => self.pump_returned(flow),
                None => self.pump_receiver_of(host, id),
            },
            Event::Closed(id, reason) => {
                if let Some(flow) = self.senders.get(&(host, id)).copied() {
                    self.flows[flow.0].closed = Some(reason);
                } else {
                    self.hosts[host].events.push_back(Event::Closed(id, reason));
                }
            }
            Event::EndpointDiscovered(endpoint) => {
                self.hosts[host].discovered = Some(endpoint);
                self.hosts[host].events.push_back(event);
            }
            Event::AdmissionNeeded(..)
            | Event::PolicyNeeded(_)
            | Event::HomeChanged(_)
            | Event::PathChanged(..)
            | Event::SocketsNeeded { .. }
            | Event::RemoteFinished(_)
            | Event::Datagram { .. } => {
                self.hosts[host].events.push_back(event);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.recorder.iter_mut().for_each(Recorder::save);
        }
    }
}
