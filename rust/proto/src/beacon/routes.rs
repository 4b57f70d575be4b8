//! Other beacons, and the nodes that they said to serve.
//!
//! A route is taken only from the address of a beacon that the registry lists. It says where frames for a
//! node may be forwarded to, and nothing about who the node is.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use crate::{
    time::{Duration, Instant},
    wire::addr::NodeId,
};

/// A route that is not repeated for this long is forgotten; beacons repeat them every 10 s.
pub(super) const ROUTE_TTL: Duration = Duration::from_secs(90);
/// Routes kept of one beacon, and of all.
const MAX_ROUTES_OF_ONE: usize = 125_000;
const MAX_ROUTES: usize = 500_000;
/// Routes looked at in one step of a sweep.
const SWEEP_STEP: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Route {
    beacon: SocketAddr,
    until: Instant,
}

/// The other beacons and their nodes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Routes kept of each beacon.
    beacons: BTreeMap<SocketAddr, usize>,
    routes: BTreeMap<NodeId, Route>,
    swept_to: NodeId,
}

impl Routes {
    /// Replaces the list of beacons. Routes of those that left are no longer used.
    pub(super) fn set_beacons(&mut self, beacons: impl IntoIterator<Item = SocketAddr>) {
        let known = core::mem::take(&mut self.beacons);
        for address in beacons {
            self.beacons.insert(address, known.get(&address).copied().unwrap_or(0));
        }
        if known.keys().any(|address| !self.beacons.contains_key(address)) {
            let beacons = &self.beacons;
            self.routes.retain(|_, route| beacons.contains_key(&route.beacon));
        }
    }

    pub(super) fn beacons(&self) -> impl Iterator<Item = SocketAddr> {
        self.beacons.keys().copied()
    }

    pub(super) fn is_beacon(&self, address: SocketAddr) -> bool {
        self.beacons.contains_key(&address)
    }

    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Takes a list of nodes, four bytes each, from a beacon. Returns whether all of it was taken.
    pub(super) fn learn(&mut self, now: Instant, beacon: SocketAddr, nodes: &[u8]) -> bool {
        let mut is_all = true;
        let until = now + ROUTE_TTL;
        for id in nodes.as_chunks::<4>().0 {
            let node = NodeId(u32::from_be_bytes(*id));
            let Some(count) = self.beacons.get(&beacon).copied() else { return false };
            match self.routes.get_mut(&node) {
                Some(route) if route.beacon == beacon => route.until = until,
                // The node may still be heard there; it is asked again when that route has expired.
                Some(route)
                    if route.until > now + ROUTE_TTL / 2 && self.beacons.contains_key(&route.beacon) => {}
                known => {
                    if count >= MAX_ROUTES_OF_ONE || (known.is_none() && self.routes.len() >= MAX_ROUTES) {
                        is_all = false;
                        continue;
                    }
                    let replaced = self.routes.insert(node, Route { beacon, until });
                    self.uncount(replaced);
                    self.beacons.entry(beacon).and_modify(|count| *count += 1);
                }
            }
        }
        is_all
    }

    /// The beacon that serves a node.
    pub(super) fn find(&self, now: Instant, node: NodeId) -> Option<SocketAddr> {
        self.routes.get(&node).filter(|route| now < route.until).map(|route| route.beacon)
    }

    /// Forgets some of what has expired.
    pub(super) fn sweep(&mut self, now: Instant) {
        let some: Vec<_> = self
            .routes
            .range(self.swept_to..)
            .take(SWEEP_STEP)
            .map(|(node, route)| (*node, now >= route.until))
            .collect();
        self.swept_to = match some.last() {
            Some((last, _)) if some.len() == SWEEP_STEP => NodeId(last.0.saturating_add(1)),
            Some(_) | None => NodeId(0),
        };
        for (node, _) in some.into_iter().filter(|(_, is_expired)| *is_expired) {
            let removed = self.routes.remove(&node);
            self.uncount(removed);
        }
    }

    fn uncount(&mut self, route: Option<Route>) {
        if let Some(count) = route.and_then(|route| self.beacons.get_mut(&route.beacon)) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn ids(nodes: impl IntoIterator<Item = u32>) -> Vec<u8> {
        nodes.into_iter().flat_map(u32::to_be_bytes).collect()
    }

    fn routes() -> Routes {
        let mut routes = Routes::default();
        routes.set_beacons([at(1), at(2)]);
        routes
    }

    #[test]
    fn routes_are_taken_from_beacons_only_and_expire() {
        let mut routes = routes();
        let start = Instant::from_millis(1000);
        assert!(!routes.learn(start, at(3), &ids([7])));
        assert!(routes.learn(start, at(1), &ids([7, 8])));
        assert_eq!(routes.find(start, NodeId(7)), Some(at(1)));
        assert_eq!(routes.find(start, NodeId(9)), None);
        let later = start + ROUTE_TTL;
        assert_eq!(routes.find(later, NodeId(7)), None);
        routes.sweep(later);
        assert_eq!((routes.len(), routes.beacons[&at(1)]), (0, 0));
    }

    #[test]
    fn a_node_that_moves_to_another_beacon_is_found_there() {
        let mut routes = routes();
        let start = Instant::from_millis(1000);
        routes.learn(start, at(1), &ids([7]));
        routes.learn(start, at(2), &ids([7]));
        assert_eq!(routes.find(start, NodeId(7)), Some(at(1)), "both say so: no oscillation");
        let later = start + ROUTE_TTL / 2;
        routes.learn(later, at(2), &ids([7]));
        assert_eq!(routes.find(later, NodeId(7)), Some(at(2)));
    }

    #[test]
    fn routes_of_beacons_that_left_are_gone() {
        let mut routes = routes();
        let start = Instant::from_millis(1000);
        routes.learn(start, at(1), &ids([7]));
        routes.learn(start, at(2), &ids([8]));
        routes.set_beacons([at(2)]);
        assert_eq!(routes.find(start, NodeId(7)), None);
        assert_eq!(routes.find(start, NodeId(8)), Some(at(2)));
        assert_eq!(routes.beacons[&at(2)], 1);
    }

    #[test]
    fn one_beacon_cannot_fill_the_table() {
        let mut routes = routes();
        let start = Instant::from_millis(1000);
        let most = u32::try_from(MAX_ROUTES_OF_ONE).unwrap();
        assert!(!routes.learn(start, at(1), &ids(0..most + 9)));
        assert_eq!(routes.len(), MAX_ROUTES_OF_ONE);
        assert!(routes.learn(start, at(2), &ids([most + 5])));
        let later = start + ROUTE_TTL;
        for _ in 0..MAX_ROUTES_OF_ONE / SWEEP_STEP + 2 {
            routes.sweep(later);
        }
        assert_eq!(routes.len(), 0);
    }
}
