//! What a path does to datagrams.

use core::time::Duration;

use crate::rng::Rng;
use pilot_proto::time::Instant;

/// Names a bottleneck that several paths may share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub(crate) usize);

/// How datagrams are lost. Probabilities are between 0 and 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Loss {
    /// Not at all.
    #[default]
    None,
    /// Each with this probability.
    Random(f64),
    /// In bursts: the Gilbert-Elliott model.
    Bursty {
        /// Probability of a burst's beginning, per datagram.
        begin: f64,
        /// Probability of its end, per datagram.
        end: f64,
        /// Loss within a burst.
        inside: f64,
    },
}

/// Bytes of the largest UDP datagram of IPv4 over Ethernet.
pub const ETHERNET: usize = 1472;

/// One direction between two hosts; by default one that carries everything at once, if Ethernet does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Path {
    /// Time every datagram takes.
    pub latency: Duration,
    /// At most this much more, different for each, so that they overtake each other.
    pub jitter: Duration,
    /// At most this much more before the bottleneck, different for each, none overtaking another: hosts
    /// are not regular. Without it one of two flows may find room in a full queue each time and the
    /// other never (Floyd and Jacobson, On Traffic Phase Effects in Packet-Switched Gateways, 1992).
    pub noise: Duration,
    /// What is lost.
    pub loss: Loss,
    /// Probability of arriving twice.
    pub duplication: f64,
    /// Probability of arriving late by [`Self::reorder_delay`].
    pub reordering: f64,
    /// See [`Self::reordering`].
    pub reorder_delay: Duration,
    /// Bytes of the largest datagram that passes; 0 for any.
    pub mtu: usize,
    /// Whether a router tells senders by ICMP that a datagram was too large.
    pub has_icmp: bool,
    /// A bottleneck on the way.
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

/// A bottleneck: a rate and a queue that drops what does not fit at its tail.
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

    /// When a datagram that arrives now has left the link, if it is not dropped.
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

/// What becomes of one datagram: when its copies arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fate {
    /// Arrival of the first copy.
    pub first: Option<Instant>,
    /// Arrival of the second.
    pub second: Option<Instant>,
    /// When the sender hears that it was too large.
    pub refused: Option<Instant>,
}

/// A path with its memory.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// What it does.
    pub path: Path,
    is_in_burst: bool,
    /// When the last datagram came to the bottleneck.
    entered: Instant,
}

impl Channel {
    /// A path that has carried nothing.
    pub fn new(path: Path) -> Self {
        Self { path, ..Self::default() }
    }

    /// Sends one datagram of `size` bytes.
    pub fn send(&mut self, now: Instant, size: usize, links: &mut Links, rng: &mut Rng) -> Fate {
        let path = self.path;
        if path.mtu > 0 && size > path.mtu {
            // The router is half-way.
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
    fn loss_has_the_rate_and_the_bursts_it_should() {
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
    fn noise_delays_each_and_lets_none_overtake() {
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
    fn what_is_too_large_does_not_pass() {
        let latency = Duration::from_millis(5);
        let path = Path { mtu: 999, latency, ..Path::default() };
        assert_eq!(arrivals(path, &mut Links::default(), 1, Duration::ZERO), [Fate::default()]);
        let told = arrivals(Path { has_icmp: true, ..path }, &mut Links::default(), 1, Duration::ZERO);
        assert_eq!(told, [Fate { refused: Some(Instant::from_millis(5)), ..Fate::default() }]);
    }
}
