//! Links narrower than the base size, directly and through a relay, without ICMP: from the start, and black holes in
//! the middle of streams. A failing case is printed and replays.

use std::time::Duration;

use pilot_proto::{
    config::{Algorithm, NodeConfig},
    node::DialOptions,
    time::Instant,
};
use pilot_sim::{BeaconId, FlowId, HostId, LinkId, Path, Rng, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Headers of IPv4 and UDP.
const IP_UDP: usize = 28;
/// MTUs of links, and the segments that they carry directly and through a relay.
const LINKS: [(usize, usize, usize); 7] = [
    (1500, 1402, 1393),
    (1280, 1152, 1152),
    (1124, 1026, 997),
    (1000, 902, 873),
    (900, 802, 773),
    (700, 602, 573),
    (600, 502, 473),
];

/// Two hosts, and a beacon if they reach each other only through it.
struct Net {
    world: World,
    beacon: Option<BeaconId>,
    path: Path,
    /// The bottleneck of what each host sends directly. Through a relay both share the first.
    links: [LinkId; 2],
}

impl Net {
    /// Paths `latency` long one way, `rate` bytes per second and with a queue of two bandwidth-delay products.
    fn new(seed: u64, is_relayed: bool, latency: Duration, rate: u64) -> Self {
        let mut world = World::new(seed, NodeConfig::default(), Path { latency, ..Path::default() });
        let beacon = is_relayed.then(|| world.add_beacon());
        world.add_host();
        world.add_host();
        world.set_partition(0, 1, is_relayed);
        let queue = (2 * rate * latency.as_micros() as u64 / 1_000_000) as usize;
        let links = [0, 1].map(|_| world.add_link(rate, queue.max(50_000)));
        let path = Path { latency, ..Path::default() };
        let mut net = Self { world, beacon, path, links };
        net.set_mtu(&[0, 1], 1500);
        net
    }

    /// Sets the MTU of the links of these hosts: directly that of what they send, at a relay both ways.
    fn set_mtu(&mut self, hosts: &[HostId], link: usize) {
        for host in hosts {
            let bottleneck = self.links[if self.beacon.is_some() { 0 } else { *host }];
            let narrow = Path { mtu: link - IP_UDP, link: Some(bottleneck), ..self.path };
            match self.beacon {
                None => self.world.set_path(*host, 1 - host, narrow),
                // The link of one host is the bottleneck, that of the other is fast and short.
                Some(beacon) if *host == 0 => self.world.set_beacon_path(0, beacon, narrow),
                Some(beacon) => {
                    let near = Path { latency: Duration::ZERO, link: None, ..narrow };
                    self.world.set_beacon_path(1, beacon, near);
                }
            }
        }
    }

    fn start(&mut self, from: HostId, total: u64, congestion: Algorithm) -> FlowId {
        let options = DialOptions { congestion: Some(congestion), ..DialOptions::default() };
        self.world.start_flow(from, 1 - from, total, options, false).unwrap()
    }

    fn is_finished(&self, flow: FlowId) -> bool {
        self.world.flow(flow).finished.is_some()
    }

    fn segment(&mut self, host: HostId) -> usize {
        self.world.node(host).connections().next().map_or(0, |(_, connection)| connection.max_segment())
    }

    /// Segments that a host received twice.
    fn duplicates(&mut self, host: HostId) -> u64 {
        self.world
            .node(host)
            .connections()
            .map(|(_, connection)| connection.stats().counters.duplicates)
            .sum()
    }

    /// Segments that a host received.
    fn received(&mut self, host: HostId) -> u64 {
        self.world.node(host).connections().map(|(_, connection)| connection.stats().counters.segs_recv).sum()
    }

    /// Runs until the transfers end and returns the longest time without a byte read of any that goes on.
    fn longest_stall(&mut self, flows: &[FlowId], limit: Duration) -> Duration {
        let end = self.world.now + limit;
        let mut progress: Vec<_> =
            flows.iter().map(|flow| (self.world.flow(*flow).received, self.world.now)).collect();
        let mut longest = Duration::ZERO;
        while self.world.now < end && !flows.iter().all(|flow| self.is_finished(*flow)) {
            self.world.run_for(5 * MS);
            for (flow, (received, at)) in flows.iter().zip(&mut progress) {
                let flow = self.world.flow(*flow);
                if flow.finished.is_none() && flow.received == *received {
                    longest = longest.max(self.world.now.saturating_since(*at));
                } else {
                    (*received, *at) = (flow.received, self.world.now);
                }
            }
        }
        longest
    }
}

/// Time to dial and send one MiB, and the segment size at the end.
fn megabyte(
    congestion: Algorithm,
    is_relayed: bool,
    latency: Duration,
    rate: u64,
    link: usize,
) -> (Duration, usize) {
    let mut net = Net::new(1, is_relayed, latency, rate);
    net.set_mtu(&[0, 1], link);
    net.world.run_for(SECOND);
    let started = net.world.now;
    let flow = net.start(0, 1 << 20, congestion);
    net.world.run_until(60 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    let finished: Instant = net.world.flow(flow).finished.unwrap();
    (finished.saturating_since(started), net.segment(0))
}

#[test]
fn a_megabyte_takes_at_most_half_as_long_again_over_narrow_links() {
    for congestion in Algorithm::ALL {
        for (latency, rate) in [(10, 5_000_000), (50, 1_250_000), (1, 12_500_000), (100, 5_000_000)] {
            for is_relayed in [false, true] {
                let run = |link| megabyte(congestion, is_relayed, latency * MS, rate, link);
                let (wide, _) = run(1500);
                for (link, direct, relayed) in LINKS {
                    let (narrow, segment) = run(link);
                    let case =
                        format!("{congestion}, {latency} ms, {rate} bytes/s, relayed {is_relayed}, {link}");
                    println!("{case}: {narrow:?} of {wide:?}, segment {segment}");
                    assert!(narrow <= wide * 3 / 2, "{case}: {narrow:?} instead of {wide:?}");
                    // A transfer may end before the search does.
                    let most = if is_relayed { relayed } else { direct };
                    assert!(segment <= most.max(1152), "{case}: {segment}");
                }
            }
        }
    }
}

/// The search ends at the largest size that fits.
#[test]
fn the_search_fills_narrow_links() {
    for (link, direct, relayed) in LINKS {
        for is_relayed in [false, true] {
            let mut net = Net::new(1, is_relayed, 10 * MS, 5_000_000);
            net.set_mtu(&[0, 1], link);
            let flow = net.start(0, u64::MAX, Algorithm::Cubic);
            net.world.run_for(10 * SECOND);
            assert_eq!(
                net.segment(0),
                if is_relayed { relayed } else { direct },
                "{link}, relayed {is_relayed}"
            );
            assert!(net.world.flow(flow).received > 10_000_000, "{link}, relayed {is_relayed}");
        }
    }
}

/// Without ICMP, in either direction or both, while data flows in one or both.
#[test]
fn a_black_hole_in_the_middle_stalls_no_stream_for_a_second() {
    for seed in 0..48 {
        let mut rng = Rng(seed);
        let is_relayed = seed % 2 == 1;
        let latency = Duration::from_micros(1000 + rng.below(49_000));
        let rate = 1_000_000 + rng.below(9_000_000);
        let (link, ..) = LINKS[1 + rng.below(6) as usize];
        let narrowed: &[HostId] = [&[0][..], &[1], &[0, 1]][rng.below(3) as usize];
        let is_both = rng.below(2) == 0;
        let congestion = Algorithm::ALL[rng.below(3) as usize];
        let case = format!(
            "seed {seed}: {congestion}, relayed {is_relayed}, {latency:?}, {rate} bytes/s, {link} at {narrowed:?}, \
             both {is_both}"
        );
        let mut net = Net::new(seed, is_relayed, latency, rate);
        let senders: &[HostId] = if is_both { &[0, 1] } else { &[0] };
        let flows: Vec<_> = senders.iter().map(|from| net.start(*from, 3 * rate, congestion)).collect();
        let before = net.longest_stall(&flows, Duration::from_millis(700 + rng.below(1000)));
        let repeated = [net.duplicates(0), net.duplicates(1)];
        net.set_mtu(narrowed, link);
        let stall = net.longest_stall(&flows, 60 * SECOND);
        println!("{case}: {stall:?}, before {before:?}");
        assert!(flows.iter().all(|flow| net.is_finished(*flow)), "{case}");
        assert!(stall < SECOND, "{case}: {stall:?}");
        for (host, before) in repeated.into_iter().enumerate() {
            let repeated = net.duplicates(host) - before;
            // Full queues and lost acknowledgements make some as well.
            let most = net.received(host) / 20;
            assert!(repeated <= most, "{case}: {repeated} segments twice at {host}");
        }
    }
}

/// One that is narrower than any supported: the stream waits, and goes on when the link is as before.
#[test]
fn a_link_below_all_sizes_loses_nothing() {
    for is_relayed in [false, true] {
        let mut net = Net::new(1, is_relayed, 10 * MS, 5_000_000);
        let flow = net.start(0, 10_000_000, Algorithm::Cubic);
        net.world.run_for(SECOND);
        net.set_mtu(&[0, 1], 400);
        net.world.run_for(3 * SECOND);
        let waiting = net.world.flow(flow).received;
        assert!(waiting < 10_000_000, "relayed {is_relayed}");
        net.set_mtu(&[0, 1], 1500);
        net.world.run_until(30 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    }
}
