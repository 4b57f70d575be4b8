//! Path emulation: delay, jitter, loss, duplication, reordering, bottleneck, MTU.

use core::time::Duration;

use crate::rng::Rng;
use pilot_proto::time::Instant;

/// Identifies a bottleneck, which several paths may share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub(crate) usize);

/// Loss models. Probabilities are between 0 and 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Loss {
    /// No loss.
    #[default]
    None,
    /// Independent loss with this probability.
    Random(f64),
    /// Burst loss: the Gilbert-Elliott model.
    Bursty {
        /// Probability per datagram that a burst begins.
        begin: f64,
        /// Probability per datagram that it ends.
        end: f64,
        /// Loss probability within a burst.
        inside: f64,
    },
}

/// Largest UDP payload of IPv4 over Ethernet, bytes.
pub const ETHERNET: usize = 1472;

/// One direction between two hosts; by default unimpaired, with the MTU of Ethernet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Path {
    /// Propagation delay.
    pub latency: Duration,
    /// Largest additional random delay, which reorders datagrams.
    pub jitter: Duration,
    /// Largest random delay before the bottleneck, without reordering: hosts are irregular. Without it, phase
    /// effects may favour one of two flows in a full queue (Floyd and Jacobson, On Traffic Phase Effects in
    /// Packet-Switched Gateways, 1992).
    pub noise: Duration,
    /// Loss model.
    pub loss: Loss,
    /// Probability of duplication.
    pub duplication: f64,
    /// Probability of an additional [`Self::reorder_delay`].
    pub reordering: f64,
    /// See [`Self::reordering`].
    pub reorder_delay: Duration,
    /// Largest datagram that passes, bytes; 0 for no limit.
    pub mtu: usize,
    /// Whether a router sends PTB messages.
    pub has_icmp: bool,
    /// The bottleneck.
    pub link: Option<LinkId>,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            noise: Duration::ZERO,
            loss: Loss::None,
            duplication: 0.0,
            reordering: 0.0,
            reorder_delay: Duration::ZERO,
            mtu: ETHERNET,
            has_icmp: false,
            link: None,
        }
    }
}

/// A bottleneck: a rate and a drop-tail queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    rate: u64,
    queue: usize,
    free_at: Instant,
    pub(crate) dropped: u64,
}

impl Link {
    pub(crate) fn new(rate: u64, queue: usize) -> Self {
        Self { rate: rate.max(1), queue, free_at: Instant::ZERO, dropped: 0 }
    }

    /// Departure time of a datagram that arrives now; `None` if it is dropped.
    fn pass(&mut self, now: Instant, size: usize) -> Option<Instant> {
        let nanos = |bytes: u64| Duration::from_nanos(bytes * 1_000_000_000 / self.rate);
        let backlog = self.free_at.saturating_since(now);
        if backlog > nanos(self.queue as u64) {
            self.dropped += 1;
            return None;
        }
        self.free_at = now + backlog + nanos(size as u64);
        Some(self.free_at)
    }
}

/// Fate of one datagram: arrival times of its copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fate {
    /// Arrival of the first copy.
    pub first: Option<Instant>,
    /// Arrival of the second.
    pub second: Option<Instant>,
    /// When the sender receives a PTB message.
    pub refused: Option<Instant>,
}

/// A path with its state.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// Parameters of the path.
    pub path: Path,
    is_in_burst: bool,
    /// When the last datagram reached the bottleneck.
    entered: Instant,
}

impl Channel {
    /// An unused path.
    pub fn new(path: Path) -> Self {
        Self { path, ..Self::default() }
    }

    /// Sends one datagram of `size` bytes.
    pub fn send(&mut self, now: Instant, size: usize, links: &mut Links, rng: &mut Rng) -> Fate {
        let path = self.path;
        if path.mtu > 0 && size > path.mtu {
            // The router is in the middle of the path.
            let refused = path.has_icmp.then_some(now + path.latency);
            return Fate { refused, ..Fate::default() };
        }
        if self.is_lost(rng) {
            return Fate::default();
        }
        if path.noise > Duration::ZERO {
            self.entered = self.entered.max(now + up_to(path.noise, rng));
        } else {
            self.entered = now;
        }
        let departure = match path.link.and_then(|link| links.0.get_mut(link.0)) {
            Some(link) => match link.pass(self.entered, size) {
                Some(at) => at,
                None => return Fate::default(),
            },
            None => self.entered,
        };
        let mut copy = || {
            let late = if rng.chance(path.reordering) { path.reorder_delay } else { Duration::ZERO };
            departure + path.latency + up_to(path.jitter, rng) + late
        };
        let first = Some(copy());
        let second = copy();
        Fate { first, second: rng.chance(path.duplication).then_some(second), refused: None }
    }

    fn is_lost(&mut self, rng: &mut Rng) -> bool {
        match self.path.loss {
            Loss::None => false,
            Loss::Random(probability) => rng.chance(probability),
            Loss::Bursty { begin, end, inside } => {
                self.is_in_burst = if self.is_in_burst { !rng.chance(end) } else { rng.chance(begin) };
                self.is_in_burst && rng.chance(inside)
            }
        }
    }
}

fn up_to(most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(u64::try_from(most.as_nanos()).unwrap_or(0) + 1))
}

/// Bottlenecks by [`LinkId`].
#[derive(Clone, Debug, Default)]
pub struct Links(pub(crate) Vec<Link>);

impl Links {
    /// Adds a bottleneck of `rate` bytes per second with a queue of `queue` bytes.
    pub fn add(&mut self, rate: u64, queue: usize) -> LinkId {
        self.0.push(Link::new(rate, queue));
        LinkId(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(path: Path, links: &mut Links, count: u64, gap: Duration) -> Vec<Fate> {
        let mut channel = Channel::new(path);
        let mut rng = Rng(1);
        let mut now = Instant::ZERO;
        (0..count)
            .map(|_| {
                now += gap;
                channel.send(now, 1000, links, &mut rng)
            })
            .collect()
    }

    #[test]
    fn a_link_has_a_rate_and_drops_at_its_tail() {
        let mut links = Links(vec![Link::new(1_000_000, 10_000)]);
        let path = Path { link: Some(LinkId(0)), ..Path::default() };
        let fates = arrivals(path, &mut links, 20, Duration::ZERO);
        let passed: Vec<_> = fates.iter().filter_map(|fate| fate.first).collect();
        assert_eq!(passed.len(), 11);
        assert_eq!(passed.last(), Some(&Instant::from_millis(11)));
        assert_eq!(links.0[0].dropped, 9);
    }

    #[test]
    fn loss_has_the_configured_rate_and_bursts() {
        let lost = |loss| {
            let fates =
                arrivals(Path { loss, ..Path::default() }, &mut Links::default(), 100_000, Duration::ZERO);
            let lost: Vec<bool> = fates.iter().map(|fate| fate.first.is_none()).collect();
            let runs = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
            (lost.iter().filter(|lost| **lost).count(), runs)
        };
        let (count, runs) = lost(Loss::Random(0.02));
        assert!((1800..2200).contains(&count) && runs > count * 9 / 10, "{count} in {runs}");
        let (count, runs) = lost(Loss::Bursty { begin: 0.002, end: 0.1, inside: 1.0 });
        assert!((1400..2500).contains(&count) && runs * 6 < count, "{count} in {runs}");
    }

    #[test]
    fn noise_delays_without_reordering() {
        let noise = Duration::from_millis(3);
        let mut links = Links(vec![Link::new(1_000_000_000, 10_000)]);
        let path = Path { noise, link: Some(LinkId(0)), ..Path::default() };
        let gap = Duration::from_millis(1);
        let fates = arrivals(path, &mut links, 1000, gap);
        let at: Vec<_> = fates.iter().filter_map(|fate| fate.first).collect();
        assert_eq!(at.len(), 1000);
        assert!(at.is_sorted());
        let late: Vec<_> =
            (1..).zip(&at).map(|(n, at)| at.saturating_since(Instant::ZERO + gap * n)).collect();
        assert!(late.iter().all(|late| *late <= noise + Duration::from_micros(3)), "{late:?}");
        assert!(late.iter().filter(|late| **late > gap).count() > 500);
        assert!(late.iter().filter(|late| **late < 2 * gap).count() > 250);
    }

    #[test]
    fn datagrams_above_the_mtu_are_dropped() {
        let latency = Duration::from_millis(5);
        let path = Path { mtu: 999, latency, ..Path::default() };
        assert_eq!(arrivals(path, &mut Links::default(), 1, Duration::ZERO), [Fate::default()]);
        let told = arrivals(Path { has_icmp: true, ..path }, &mut Links::default(), 1, Duration::ZERO);
        assert_eq!(told, [Fate { refused: Some(Instant::from_millis(5)), ..Fate::default() }]);
    }
}
