//! Classifies a NAT by the endpoints that beacons report for our sockets.

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use super::{Allocation, Mapping, NatBehaviour, distance, port_after};
use crate::time::Instant;

/// Reports that are kept: enough for every beacon of a list, and some sockets besides.
const MAX_OBSERVATIONS: usize = 16;
/// Reports this far apart are not compared: the binding may have expired in between. Beacons are asked every
/// 30 s at least.
const COMPARABLE: Duration = Duration::from_secs(75);
/// Ports between two consecutive mappings at most for the allocation to be sequential: others behind the
/// same NAT use ports as well.
const MAX_GAP: i32 = 64;

/// One report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Port of the socket; 0 if it is not known.
    pub local_port: u16,
    /// The beacon.
    pub server: SocketAddr,
    /// What it saw.
    pub endpoint: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    what: Observation,
    /// The question that made the mapping: answers may overtake each other.
    asked: u64,
    /// When it was reported last.
    seen_at: Instant,
}

/// What beacons reported about our sockets, in the order of our questions.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    rows: VecDeque<Row>,
    /// Destinations without a report that we sent to since the newest mapping appeared.
    consumed: u32,
    opens_sockets: bool,
}

impl Observations {
    /// Takes the report that answers the `asked`th question. A mapping is the older one, however often it is reported.
    pub fn note(&mut self, now: Instant, asked: u64, what: Observation) {
        let same_place = |row: &Row| (row.what.local_port, row.what.server) == (what.local_port, what.server);
        if let Some(row) = self.rows.iter_mut().find(|row| same_place(row)) {
            if row.what.endpoint == what.endpoint {
                row.seen_at = now;
                return;
            }
            self.rows.retain(|row| !same_place(row));
        }
        if self.rows.len() >= MAX_OBSERVATIONS {
            self.rows.pop_front();
        }
        let at = self.rows.partition_point(|row| row.asked <= asked);
        if at == self.rows.len() {
            self.consumed = 0;
        }
        self.rows.insert(at, Row { what, asked, seen_at: now });
    }

    /// We sent to `count` destinations for the first time, each of which may have a mapping of its own now.
    pub fn on_new_destinations(&mut self, count: u32) {
        self.consumed = self.consumed.saturating_add(count);
    }

    /// Our address changed: there is another NAT now, or none.
    pub fn forget(&mut self) {
        *self = Self { opens_sockets: self.opens_sockets, ..Self::default() };
    }

    /// Whether this node can open sockets for a moment.
    pub fn set_opens_sockets(&mut self, opens_sockets: bool) {
        self.opens_sockets = opens_sockets;
    }

    /// What the reports say about the NAT.
    pub fn behaviour(&self, now: Instant) -> NatBehaviour {
        let mapping = self.mapping(now);
        let allocation = self.allocation(mapping);
        let step = match allocation {
            Allocation::Sequential(step) => Some(i32::from(step)),
            Allocation::Unknown
            | Allocation::Preserving
            | Allocation::PreservingWithOffset(_)
            | Allocation::Random => None,
        };
        let newest = self.rows.back();
        let next_port = step.zip(newest).map_or(0, |(step, newest)| {
            let steps = i32::try_from(self.consumed).unwrap_or(i32::MAX).saturating_add(1);
            port_after(newest.what.endpoint.port(), step.saturating_mul(steps))
        });
        NatBehaviour { mapping, allocation, next_port, opens_sockets: self.opens_sockets, begins: false }
    }

    fn mapping(&self, now: Instant) -> Mapping {
        let fresh: Vec<&Row> =
            self.rows.iter().filter(|row| now.saturating_since(row.seen_at) <= COMPARABLE).collect();
        let (mut is_independent, mut by_address, mut by_port) = (false, false, false);
        for (at, a) in fresh.iter().enumerate() {
            for b in fresh.iter().take(at).filter(|b| b.what.local_port == a.what.local_port) {
                let is_same = a.what.endpoint == b.what.endpoint;
                let is_same_host = a.what.server.ip() == b.what.server.ip();
                is_independent |= is_same && !is_same_host;
                by_address |= !is_same && !is_same_host;
                by_port |= !is_same && is_same_host;
            }
        }
        match (is_independent, by_address, by_port) {
            (_, _, true) => Mapping::AddressAndPortDependent,
            (_, true, false) if self.has_same_for_two_ports(&fresh) => Mapping::AddressDependent,
            (_, true, false) => Mapping::AddressAndPortDependent,
            (true, false, false) => Mapping::EndpointIndependent,
            (false, false, false) => Mapping::Unknown,
        }
    }

    /// Whether two ports of one beacon saw the same endpoint.
    fn has_same_for_two_ports(&self, fresh: &[&Row]) -> bool {
        let is_pair = |a: &Row, b: &Row| {
            a.what.server.ip() == b.what.server.ip()
                && a.what.server.port() != b.what.server.port()
                && a.what.local_port == b.what.local_port
                && a.what.endpoint == b.what.endpoint
        };
        fresh.iter().any(|a| fresh.iter().any(|b| is_pair(a, b)))
    }

    fn allocation(&self, mapping: Mapping) -> Allocation {
        let known = || self.rows.iter().filter(|row| row.what.local_port != 0);
        let offset = |row: &Row| distance(row.what.local_port, row.what.endpoint.port());
        if let Some(first) = known().next() {
            let constant = offset(first);
            let is_constant = known().all(|row| offset(row) == constant);
            // The offset of a single socket can be chance, unless it is none.
            let sockets = known().filter(|row| row.what.local_port != first.what.local_port).count();
            if is_constant && constant == 0 {
                return Allocation::Preserving;
            }
            if is_constant && sockets > 0 {
                return i16::try_from(constant).map_or(Allocation::Unknown, Allocation::PreservingWithOffset);
            }
        }
        let gaps = self.gaps();
        let is_near = |gap: &i32| gap.abs() <= MAX_GAP && gap.signum() == gaps[0].signum();
        if gaps.is_empty() {
            return Allocation::Unknown;
        }
        if gaps.iter().all(is_near) {
            let step = gaps.iter().fold(0, |step, gap| gcd(step, gap.abs())) * gaps[0].signum();
            return i16::try_from(step).map_or(Allocation::Unknown, Allocation::Sequential);
        }
        if mapping.is_dependent() { Allocation::Random } else { Allocation::Unknown }
    }

    /// Distances between the ports of mappings in the order in which they appeared.
    fn gaps(&self) -> Vec<i32> {
        let mut ports: Vec<u16> = Vec::new();
        for row in &self.rows {
            let port = row.what.endpoint.port();
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports.windows(2).map(|pair| distance(pair[0], pair[1])).collect()
    }
}

fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, host], port))
    }

    fn outside(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    /// Reports as (port of the socket, beacon, its port, port that it saw), a second apart.
    fn after(reports: &[(u16, u8, u16, u16)]) -> NatBehaviour {
        let mut observations = Observations::default();
        let mut now = Instant::ZERO;
        for (asked, (local_port, host, port, seen)) in (0..).zip(reports) {
            now += Duration::from_secs(1);
            let (server, endpoint) = (beacon(*host, *port), outside(*seen));
            observations.note(now, asked, Observation { local_port: *local_port, server, endpoint });
        }
        observations.behaviour(now)
    }

    #[test]
    fn reports_tell_mapping_and_allocation() {
        use Allocation::{Preserving, PreservingWithOffset, Random, Sequential, Unknown};
        use Mapping::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        type Reports = &'static [(u16, u8, u16, u16)];
        let table: &[(Reports, Mapping, Allocation, u16)] = &[
            (&[], Mapping::Unknown, Unknown, 0),
            (&[(0, 1, 9001, 4000)], Mapping::Unknown, Unknown, 0),
            (&[(4000, 1, 9001, 4000)], Mapping::Unknown, Preserving, 0),
            (&[(0, 1, 9001, 5000), (0, 2, 9001, 5000)], EndpointIndependent, Unknown, 0),
            (&[(4000, 1, 9001, 4000), (4000, 2, 9001, 4000)], EndpointIndependent, Preserving, 0),
            (
                &[(4000, 1, 9001, 5000), (4000, 2, 9001, 5000), (4007, 1, 9001, 5007)],
                EndpointIndependent,
                PreservingWithOffset(1000),
                0,
            ),
            (&[(0, 1, 9001, 5000), (0, 2, 9001, 5001)], AddressAndPortDependent, Sequential(1), 5002),
            (&[(0, 1, 9001, 5000), (0, 2, 9001, 4998)], AddressAndPortDependent, Sequential(-2), 4996),
            (
                &[(0, 1, 9001, 5000), (0, 2, 9001, 5004), (0, 3, 9001, 5006)],
                AddressAndPortDependent,
                Sequential(2),
                5008,
            ),
            (&[(0, 1, 9001, 5000), (0, 2, 9001, 9000)], AddressAndPortDependent, Random, 0),
            (
                &[(0, 1, 9001, 5000), (0, 1, 9002, 5000), (0, 2, 9001, 5001)],
                AddressDependent,
                Sequential(1),
                5002,
            ),
            (
                &[(0, 1, 9001, 5000), (0, 1, 9002, 5001), (0, 2, 9001, 5002)],
                AddressAndPortDependent,
                Sequential(1),
                5003,
            ),
            // Both directions: no pattern.
            (
                &[(0, 1, 9001, 5000), (0, 2, 9001, 5020), (0, 3, 9001, 5010)],
                AddressAndPortDependent,
                Random,
                0,
            ),
            // Past the last port.
            (&[(0, 1, 9001, 65_535), (0, 2, 9001, 1024)], AddressAndPortDependent, Sequential(1), 1025),
        ];
        for (reports, mapping, allocation, next_port) in table {
            let expected = NatBehaviour {
                mapping: *mapping,
                allocation: *allocation,
                next_port: *next_port,
                opens_sockets: false,
                begins: false,
            };
            assert_eq!(after(reports), expected, "{reports:?}");
        }
    }

    #[test]
    fn one_report_alone_for_each_beacon_counts_and_repeats_change_nothing() {
        let mut observations = Observations::default();
        let mut now = Instant::ZERO;
        for _ in 0..100 {
            now += Duration::from_secs(25);
            for (host, port) in [(1, 5000), (2, 5001)] {
                let (server, endpoint) = (beacon(host, 9001), outside(port));
                observations.note(now, port.into(), Observation { local_port: 0, server, endpoint });
            }
        }
        let behaviour = observations.behaviour(now);
        assert_eq!(behaviour.allocation, Allocation::Sequential(1));
        assert_eq!(behaviour.next_port, 5002);
    }

    #[test]
    fn reports_from_different_times_are_not_compared() {
        let mut observations = Observations::default();
        let first = Observation { local_port: 0, server: beacon(1, 9001), endpoint: outside(5000) };
        observations.note(Instant::ZERO, 1, first);
        let later = Instant::ZERO + Duration::from_secs(600);
        observations.note(
            later,
            2,
            Observation { server: beacon(2, 9001), endpoint: outside(7000), ..first },
        );
        assert_eq!(observations.behaviour(later).mapping, Mapping::Unknown);
    }

    #[test]
    fn destinations_of_our_own_move_the_next_port() {
        let mut observations = Observations::default();
        for (host, port) in [(1, 5000), (2, 5002)] {
            let (server, endpoint) = (beacon(host, 9001), outside(port));
            observations.note(Instant::ZERO, port.into(), Observation { local_port: 0, server, endpoint });
        }
        observations.on_new_destinations(10);
        assert_eq!(observations.behaviour(Instant::ZERO).next_port, 5024);
        // A newer report is worth more than counting.
        let newest = Observation { local_port: 0, server: beacon(3, 9001), endpoint: outside(5030) };
        observations.note(Instant::ZERO, 6000, newest);
        assert_eq!(observations.behaviour(Instant::ZERO).next_port, 5032);
    }

    #[test]
    fn answers_that_overtake_each_other_change_nothing() {
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            let mut observations = Observations::default();
            for asked in order {
                let (server, endpoint) = (beacon(asked, 9001), outside(5000 + u16::from(asked)));
                let what = Observation { local_port: 0, server, endpoint };
                observations.note(Instant::ZERO, asked.into(), what);
            }
            let behaviour = observations.behaviour(Instant::ZERO);
            assert_eq!((behaviour.allocation, behaviour.next_port), (Allocation::Sequential(1), 5003));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut observations = Observations::default();
        for port in 0..1000 {
            let what = Observation { local_port: 0, server: beacon(1, port), endpoint: outside(port) };
            observations.note(Instant::ZERO, port.into(), what);
        }
        assert_eq!(observations.rows.len(), MAX_OBSERVATIONS);
    }
}
