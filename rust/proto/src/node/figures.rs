//! Figures for monitoring that need a sum over time: bytes by kind of path and by service, and how long round
//! trips, dials and key exchanges took. Bounded, whatever peers do. Nothing here decides anything.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Node, Slot};
use crate::{
    transport::{CloseReason, Counters},
    tunnel::{PathClass, Route},
    wire::addr::Port,
};

/// Upper bounds of the buckets of a histogram, microseconds.
pub const BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
/// Services that are told apart; further ones are counted together.
const MAX_SERVICES: usize = 64;
/// Ports from here on are chosen by the system and name no service (RFC 6335).
const EPHEMERAL_FIRST: u16 = 49_152;

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How often it took at most each of [`BOUNDS_MICROS`] and more than the one before; the last is beyond all.
    pub counts: [u64; BOUNDS_MICROS.len() + 1],
    /// All times together.
    pub sum: Duration,
}

impl Histogram {
    /// Adds one time.
    pub fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(time);
    }
}

/// A kind of path, by which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathKind {
    /// To an address of a class.
    Direct(PathClass),
    /// Through a beacon.
    Relay,
}

impl PathKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Direct(PathClass::Lan),
        Self::Direct(PathClass::Ipv6),
        Self::Direct(PathClass::Direct),
        Self::Relay,
    ];

    /// The kind of a route.
    pub fn of(route: Route) -> Self {
        route.direct().map_or(Self::Relay, |address| Self::Direct(PathClass::of(address)))
    }

    /// The name used in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct(class) => class.name(),
            Self::Relay => "relay",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Direct(PathClass::Lan) => 0,
            Self::Direct(PathClass::Ipv6) => 1,
            Self::Direct(PathClass::Direct) => 2,
            Self::Relay => 3,
        }
    }
}

/// Bytes of datagrams by one kind of path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathFigures {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Streams of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceFigures {
    /// How many there were.
    pub streams: u64,
    /// Their counters together.
    pub counters: Counters,
}

impl ServiceFigures {
    fn add(&mut self, counters: &Counters) {
        self.streams += 1;
        self.counters.add(counters);
    }
}

/// Figures since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Samples of round-trip times of streams.
    pub rtt: Histogram,
    /// From the call to the established stream, of streams that were dialled.
    pub dial: Histogram,
    /// From the first key sent to the first frame opened under the new session.
    pub handshake: Histogram,
    /// Dials that failed, by the reason.
    pub failed_dials: BTreeMap<&'static str, u64>,
    paths: [PathFigures; PathKind::ALL.len()],
    services: BTreeMap<Port, ServiceFigures>,
}

impl Figures {
    /// Bytes by kind of path.
    pub fn paths(&self) -> impl Iterator<Item = (PathKind, PathFigures)> + '_ {
        PathKind::ALL.into_iter().zip(self.paths)
    }

    /// Streams by the port of their service; those of further services and of ephemeral ports are at port 0.
    pub fn services(&self) -> impl Iterator<Item = (Port, &ServiceFigures)> {
        self.services.iter().map(|(port, figures)| (*port, figures))
    }

    #[inline]
    pub(super) fn on_sent(&mut self, route: Route, bytes: usize) {
        if let Some(path) = self.paths.get_mut(PathKind::of(route).index()) {
            path.sent += bytes as u64;
        }
    }

    #[inline]
    pub(super) fn on_received(&mut self, kind: PathKind, bytes: usize) {
        if let Some(path) = self.paths.get_mut(kind.index()) {
            path.received += bytes as u64;
        }
    }

    pub(super) fn on_failed_dial(&mut self, reason: CloseReason) {
        *self.failed_dials.entry(reason.name()).or_default() += 1;
    }

    pub(super) fn add_stream(&mut self, service: Port, counters: &Counters) {
        let is_told = service.0 < EPHEMERAL_FIRST
            && (self.services.len() < MAX_SERVICES || self.services.contains_key(&service));
        let port = if is_told { service } else { Port(0) };
        self.services.entry(port).or_default().add(counters);
    }
}

impl Slot {
    /// The port of the service that it leads to.
    pub(super) fn service(&self) -> Port {
        let tuple = self.connection.tuple();
        if self.is_inbound { tuple.local_port } else { tuple.remote_port }
    }
}

impl Node {
    /// Figures for monitoring, with those of streams that are open.
    pub fn figures(&self) -> Figures {
        let mut figures = self.figures.clone();
        #[expect(clippy::disallowed_methods, reason = "summed in any order")]
        let slots = self.slots.values();
        for slot in slots {
            figures.add_stream(slot.service(), slot.connection.counters());
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_bucket_of_its_upper_bound() {
        let mut times = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            times.add(Duration::from_micros(micros));
        }
        let filled: Vec<_> = times.counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (15, &1), (16, &1)]);
        assert_eq!(times.sum, Duration::from_micros(20_000_202));
    }

    #[test]
    fn kinds_of_paths_are_counted_where_they_are_told() {
        let mut figures = Figures::default();
        for (number, kind) in PathKind::ALL.into_iter().enumerate() {
            figures.on_received(kind, number + 1);
        }
        let told: Vec<_> = figures.paths().map(|(kind, bytes)| (kind.name(), bytes.received)).collect();
        assert_eq!(told, [("lan", 1), ("ipv6", 2), ("direct", 3), ("relay", 4)]);
    }

    #[test]
    fn services_beyond_the_bound_and_ephemeral_ports_are_counted_together() {
        let mut figures = Figures::default();
        let counters = Counters { bytes_sent: 1, ..Counters::default() };
        for port in (1..=100).chain([EPHEMERAL_FIRST, u16::MAX, 1]) {
            figures.add_stream(Port(port), &counters);
        }
        assert_eq!(figures.services().count(), MAX_SERVICES + 1);
        let of = |port| figures.services().find(|(found, _)| *found == Port(port)).unwrap().1.streams;
        assert_eq!((of(1), of(64), of(0)), (2, 1, 38));
        assert_eq!(figures.services().map(|(_, each)| each.counters.bytes_sent).sum::<u64>(), 103);
    }
}
