//! Datagram packetization layer path MTU discovery (DPLPMTUD, RFC 8899), one instance per route. All sizes are
//! segment sizes.
//!
//! Probes are sealed pings padded to the probed size. A native peer answers them without padding; a legacy peer
//! echoes the padding, so that its answer tests both directions. No ICMP is needed. The search goes in rounds:
//! several sizes are sent at once, from the smallest to the largest, and the largest that is answered is
//! confirmed. What was sent after it and is not answered soon does not pass. Three lost probes refute a size for
//! good. A PTB message ([`PathMtu::on_too_big`]) selects the next probe size; no size is used on its word alone.

use core::{net::SocketAddr, time::Duration};
use std::collections::VecDeque;

use crate::{
    config::{MAX_SEGMENT, SAFE_SEGMENT},
    time::Instant,
    wire::{beacon::RELAY_HEADER_LEN, packet::HEADER_LEN, tunnel::SEALED_OVERHEAD},
};

/// Tunnel and packet headers of a segment in a datagram, bytes.
const SEGMENT_OVERHEAD: usize = SEALED_OVERHEAD + HEADER_LEN;
const UDP: usize = 8;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// MTUs of narrow links, in which [`SAFE_SEGMENT`] (BASE_PLPMTU) does not fit: tunnels in tunnels, radio, serial
/// lines. The first is the smallest supported.
const NARROW: [usize; 6] = [600, 700, 800, 900, 1006, 1124];
/// Sizes that fill common links without a relay: IPv6 in a VPN, IPv4 in a cloud, IPv6 over Ethernet, PPPoE, IPv4
/// over Ethernet. Both versions, because a path may translate between them.
const WIDE: [usize; 5] = [
    1420 - IPV6 - UDP - SEGMENT_OVERHEAD,
    1460 - IPV4 - UDP - SEGMENT_OVERHEAD,
    1500 - IPV6 - UDP - SEGMENT_OVERHEAD,
    1492 - IPV4 - UDP - SEGMENT_OVERHEAD,
    1500 - IPV4 - UDP - SEGMENT_OVERHEAD,
];
/// Number of probed sizes: the narrow ones, the base size, the wide ones, and the largest segment.
const SIZES: usize = NARROW.len() + 1 + WIDE.len() + 1;

/// MAX_PROBES, RFC 8899 section 5.1.2.
const MAX_PROBES: u32 = 3;
/// PROBE_TIMER, section 5.1.1. Deviates from its 15 s, because late answers still count.
const PROBE_TIMER: Duration = Duration::from_secs(1);
/// Bounds of the time that the answer to a larger probe may come later than that to a smaller one sent before it.
/// Between them, it is half the round-trip time.
const REORDERING: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(500));
/// PMTU_RAISE_TIMER, section 5.1.1.
const RAISE_TIMER: Duration = Duration::from_secs(600);
/// The same after a search in which no size was confirmed: the path may have been down.
const RETRY_TIMER: Duration = Duration::from_secs(30);
/// Unanswered probes that are remembered.
const MAX_SENT: usize = 24;

/// A probe to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PathProbe {
    /// Segment size that it probes, bytes.
    pub(super) size: usize,
    /// Serial number that the answer echoes.
    pub(super) serial: u32,
}

#[derive(Debug)]
struct Search {
    /// Sizes of this round, ascending.
    round: Vec<usize>,
    /// How many of them were sent.
    sent: usize,
    /// The first probe of this round.
    first_serial: u32,
    /// When the next probe is sent, or the round ends.
    due: Instant,
    /// When the last probe was sent.
    sent_at: Instant,
    /// The largest size that was answered.
    best: Option<usize>,
    /// The smallest size above `best` that was not answered, and in how many rounds in a row.
    refused: Option<(usize, u32)>,
    /// Rounds in a row without any answer.
    unanswered: u32,
    /// The largest size of interest.
    limit: usize,
    /// It verifies the size in use, which is reduced as soon as only smaller ones are answered.
    is_check: bool,
}

/// Path MTU state of one route.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// Bytes of the narrow links that headers before the segment take.
    narrow_overhead: usize,
    /// Bytes that the route adds to the datagram.
    relay_overhead: usize,
    confirmed: usize,
    /// Whether the peer ever answered a probe; before, `confirmed` is an assumption.
    is_proven: bool,
    search: Option<Search>,
    /// When to search again.
    raise_at: Option<Instant>,
    /// Probes that were not answered, oldest first.
    probes: VecDeque<(PathProbe, Instant)>,
    serial: u32,
}

impl PathMtu {
    /// The state of an unused route to `next_hop`, which is a beacon if the route `is_relayed`. Beyond a beacon
    /// the version of IP is not known, so the longer header is assumed on narrow links.
    pub(super) fn new(next_hop: SocketAddr, is_relayed: bool) -> Self {
        let is_short = next_hop.ip().to_canonical().is_ipv4() && !is_relayed;
        let relay_overhead = if is_relayed { RELAY_HEADER_LEN } else { 0 };
        let ip = if is_short { IPV4 } else { IPV6 };
        Self {
            narrow_overhead: ip + UDP + SEGMENT_OVERHEAD + relay_overhead,
            relay_overhead,
            confirmed: SAFE_SEGMENT,
            is_proven: false,
            search: None,
            raise_at: None,
            probes: VecDeque::new(),
            serial: 0,
        }
    }

    /// The sizes that are probed, ascending.
    fn sizes(&self) -> [usize; SIZES] {
        let mut sizes = [SAFE_SEGMENT; SIZES];
        for (size, link) in sizes.iter_mut().zip(NARROW) {
            *size = link - self.narrow_overhead;
        }
        for (size, wide) in sizes[NARROW.len() + 1..].iter_mut().zip(WIDE) {
            *size = wide - self.relay_overhead;
        }
        sizes[SIZES - 1] = MAX_SEGMENT;
        sizes
    }

    /// The smallest size, which is not probed further down.
    fn floor(&self) -> usize {
        NARROW[0] - self.narrow_overhead
    }

    /// The largest segment size to be used, bytes: the largest confirmed, or the base size before any answer.
    pub(super) fn segment(&self) -> usize {
        self.confirmed
    }

    /// Starts the first search when the route is used to a peer that takes segments of `limit` bytes.
    pub(super) fn start_if_new(&mut self, now: Instant, limit: usize) {
        if self.search.is_none() && self.raise_at.is_none() {
            self.start(now, limit);
        }
    }

    /// Probes a narrow link, the base size, the size in use and Ethernet at once.
    fn start(&mut self, now: Instant, limit: usize) {
        let [.., ethernet, _] = self.sizes();
        let round = vec![self.floor(), SAFE_SEGMENT, self.confirmed, ethernet.min(limit)];
        self.raise_at = None;
        self.search(now, round, limit, !self.is_proven);
    }

    /// A black hole is suspected (RFC 8899 section 4.3): verifies the size in use. It is reduced only when a
    /// smaller one is answered.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.search.as_ref().is_some_and(|search| search.is_check) || self.confirmed == self.floor() {
            return;
        }
        if self.search.is_some() {
            // The search for more goes on later.
            self.raise_at.get_or_insert(now + RETRY_TIMER);
        }
        // What was sent before the path changed proves nothing.
        self.probes.clear();
        let round = vec![self.floor(), SAFE_SEGMENT, self.confirmed];
        self.search(now, round, self.confirmed, true);
    }

    fn search(&mut self, now: Instant, round: Vec<usize>, limit: usize, is_check: bool) {
        let limit = limit.min(MAX_SEGMENT);
        let mut search = Search {
            round: Vec::new(),
            sent: 0,
            first_serial: 0,
            due: now,
            sent_at: now,
            best: None,
            refused: None,
            unanswered: 0,
            limit,
            is_check,
        };
        search.begin(round, self.serial, now);
        self.search = Some(search);
    }

    /// The next deadline.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.search.as_ref().map(|search| search.due).or(self.raise_at)
    }

    /// The next probe that is due; to be called until there is none. The peer takes segments of `limit` bytes.
    /// [`Self::segment`] may have changed afterwards.
    pub(super) fn handle_timeout(&mut self, now: Instant, limit: usize) -> Option<PathProbe> {
        if self.search.is_none() && self.raise_at.is_some_and(|at| at <= now) {
            self.start(now, limit);
        }
        loop {
            let search = self.search.as_mut().filter(|search| search.due <= now)?;
            if let Some(size) = search.next_size(now) {
                self.serial = self.serial.wrapping_add(1);
                let probe = PathProbe { size, serial: self.serial };
                self.probes.push_back((probe, now));
                if self.probes.len() > MAX_SENT {
                    self.probes.pop_front();
                }
                return Some(probe);
            }
            self.end_round(now);
        }
    }

    /// The peer answered a probe. [`Self::segment`] may have changed afterwards.
    pub(super) fn on_answer(&mut self, now: Instant, serial: u32) {
        let Some(at) = self.probes.iter().position(|(probe, _)| probe.serial == serial) else { return };
        let Some((probe, sent_at)) = self.probes.remove(at) else { return };
        self.is_proven = true;
        self.confirmed = self.confirmed.max(probe.size);
        let Some(search) = self.search.as_mut() else { return };
        search.best = search.best.max(Some(probe.size));
        if search.best >= search.round.last().copied() {
            self.end_round(now);
        } else if search.is_current(serial) {
            let (least, most) = REORDERING;
            let wait = (now.saturating_since(sent_at) / 2).clamp(least, most);
            search.due = search.due.min(now + wait);
        }
    }

    /// Processes a PTB message that reports `max_datagram` bytes (RFC 8899 section 4.6). The caller has
    /// verified that the quoted datagram is ours. Returns whether it was used.
    pub(super) fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        let limit = max_datagram.saturating_sub(SEGMENT_OVERHEAD + self.relay_overhead);
        let is_hole = limit < self.confirmed;
        if limit < self.floor() || !is_hole && !self.probes.iter().any(|(probe, _)| probe.size > limit) {
            // Nothing smaller can be sent, or nothing larger was.
            return false;
        }
        if is_hole {
            self.confirmed = if limit < SAFE_SEGMENT { self.floor() } else { SAFE_SEGMENT };
            self.probes.clear();
            self.search = None;
        }
        self.probes.retain(|(probe, _)| probe.size <= limit);
        let best = self.search.as_ref().and_then(|search| search.best);
        if limit > best.unwrap_or(self.confirmed) {
            let round = vec![limit];
            let is_check = self.search.as_ref().is_some_and(|search| search.is_check);
            self.search(now, round, limit, is_check);
            if let Some(search) = &mut self.search {
                search.best = best;
            }
        } else {
            self.finish(now, best.or(Some(self.confirmed)));
        }
        true
    }

    /// All answers of a round are here, or their time is over.
    fn end_round(&mut self, now: Instant) {
        let sizes = self.sizes();
        let serial = self.serial;
        let Some(search) = self.search.as_mut() else { return };
        let Some(best) = search.best else {
            search.unanswered += 1;
            if search.unanswered == MAX_PROBES {
                self.finish(now, None);
            } else {
                let round = core::mem::take(&mut search.round);
                search.begin(round, serial, now);
            }
            return;
        };
        let refused = search.round.iter().copied().find(|size| *size > best);
        let rounds = match (refused, search.refused) {
            (Some(size), Some((before, rounds))) if size == before => rounds + 1,
            (Some(_), _) => 1,
            (None, _) => 0,
        };
        search.refused = refused.map(|size| (size, rounds));
        if search.is_check && search.round.contains(&self.confirmed) && best < self.confirmed {
            self.confirmed = best;
        }
        let limit = refused.unwrap_or(search.limit);
        let between = sizes.iter().copied().filter(|size| *size > best && *size < limit);
        let round: Vec<_> = between.chain((limit > best).then_some(limit)).collect();
        if round.is_empty() || rounds == MAX_PROBES {
            self.finish(now, Some(best));
        } else {
            // Sizes not probed yet are probed at once; a repeated probe waits.
            let is_repeated = rounds > 0 && round.len() == 1;
            let at = if is_repeated { now.max(search.sent_at + PROBE_TIMER) } else { now };
            search.begin(round, serial, at);
        }
    }

    /// Ends the search.
    fn finish(&mut self, now: Instant, best: Option<usize>) {
        self.search = None;
        self.confirmed = best.unwrap_or(self.confirmed);
        let wait = if best.is_none() { RETRY_TIMER } else { RAISE_TIMER };
        self.raise_at = self.raise_at.filter(|at| *at > now).or(Some(now + wait));
    }
}

impl Search {
    /// Begins a round of these sizes at `at`; `serial` is the last one used.
    fn begin(&mut self, mut round: Vec<usize>, serial: u32, at: Instant) {
        round.retain(|size| *size <= self.limit);
        round.sort_unstable();
        round.dedup();
        (self.round, self.sent) = (round, 0);
        self.first_serial = serial.wrapping_add(1);
        self.due = at;
    }

    /// The next size of this round. After the last one, the answers are due.
    fn next_size(&mut self, now: Instant) -> Option<usize> {
        let size = *self.round.get(self.sent)?;
        (self.sent, self.sent_at) = (self.sent + 1, now);
        self.due = if self.sent == self.round.len() { now + PROBE_TIMER } else { now };
        Some(size)
    }

    /// Whether the probe belongs to this round, all of which was sent.
    fn is_current(&self, serial: u32) -> bool {
        self.sent == self.round.len() && serial.wrapping_sub(self.first_serial) < self.round.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MIN_SEGMENT;

    const MS: Duration = Duration::from_millis(1);
    const RTT: Duration = Duration::from_millis(50);

    fn new(is_relayed: bool) -> PathMtu {
        PathMtu::new(SocketAddr::from(([10, 0, 0, 1], 4000)), is_relayed)
    }

    /// A path of one round trip; the time that a search took and the sizes that it probed.
    struct Run {
        path: PathMtu,
        now: Instant,
        probed: Vec<usize>,
    }

    impl Run {
        fn new() -> Self {
            let mut run = Self { path: new(false), now: Instant::from_millis(1), probed: Vec::new() };
            run.path.start_if_new(run.now, MAX_SEGMENT);
            run
        }

        /// Searches until it is over on a path that carries segments up to `limit`; the `n`th probe from 0 is
        /// lost if `is_lost`.
        fn search(&mut self, limit: usize, is_lost: impl Fn(usize) -> bool) -> usize {
            self.run(limit, MAX_SEGMENT, false, is_lost);
            self.path.segment()
        }

        fn run(&mut self, limit: usize, takes: usize, tells: bool, is_lost: impl Fn(usize) -> bool) {
            let mut wire: VecDeque<(Instant, PathProbe)> = VecDeque::new();
            self.probed.clear();
            while self.path.search.is_some() {
                while let Some(probe) = self.path.handle_timeout(self.now, takes) {
                    let is_passed = probe.size <= limit;
                    if (is_passed || tells) && !is_lost(self.probed.len()) {
                        wire.push_back((self.now + RTT, probe));
                    }
                    self.probed.push(probe.size);
                }
                let Some(due) = self.path.search.as_ref().map(|search| search.due) else { break };
                match wire.front().copied().filter(|(at, _)| *at <= due) {
                    Some((at, probe)) => {
                        wire.pop_front();
                        self.now = self.now.max(at);
                        if probe.size <= limit {
                            self.path.on_answer(self.now, probe.serial);
                        } else {
                            self.path.on_too_big(self.now, limit + SEGMENT_OVERHEAD);
                        }
                    }
                    None => self.now = self.now.max(due),
                }
            }
        }
    }

    #[test]
    fn sizes_ascend_and_fit_their_links() {
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 4000));
        let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1], 4000));
        for (path, floor, ethernet) in [
            (new(false), 502, 1402),
            (new(true), 473, 1393),
            (PathMtu::new(v6, false), 482, 1402),
            (PathMtu::new(v6, true), 473, 1393),
            (PathMtu::new(mapped, false), 502, 1402),
        ] {
            let sizes = path.sizes();
            assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
            assert_eq!((path.floor(), sizes[SIZES - 2], sizes[SIZES - 1]), (floor, ethernet, MAX_SEGMENT));
            assert_eq!(sizes[NARROW.len()], SAFE_SEGMENT);
        }
        assert!(new(true).floor() == MIN_SEGMENT);
    }

    #[test]
    fn the_largest_passing_size_is_found() {
        for (limit, expected, round_trips) in [
            (9000, 4096, 2),
            (1402, 1402, 2),
            (1401, 1394, 2),
            (1393, 1382, 2),
            (1370, 1362, 2),
            (1302, 1302, 2),
            (1200, SAFE_SEGMENT, 2),
            (1151, 1026, 2),
            (803, 802, 2),
            (502, 502, 2),
        ] {
            let mut run = Run::new();
            let begin = run.now;
            while run.path.segment() != expected
                || run.path.search.as_ref().is_some_and(|search| search.best != Some(expected))
            {
                let probe = run.path.handle_timeout(run.now, MAX_SEGMENT);
                match probe {
                    Some(probe) if probe.size <= limit => run.path.on_answer(run.now, probe.serial),
                    Some(_) => {}
                    None => run.now = run.path.poll_timeout().unwrap(),
                }
            }
            assert!(run.now <= begin + 25 * MS * round_trips, "{limit}: {:?}", run.now);
            let mut run = Run::new();
            assert_eq!(run.search(limit, |_| false), expected, "{limit}");
            assert!(run.probed.len() <= 13, "{limit}: {:?}", run.probed);
        }
    }

    /// Below the smallest size nothing is found, and what the path carried before stays.
    #[test]
    fn a_path_that_answers_nothing_keeps_its_size() {
        let mut run = Run::new();
        assert_eq!(run.search(501, |_| false), SAFE_SEGMENT);
        assert_eq!(run.probed, [502, 1152, 1402].repeat(3));
        assert_eq!(run.path.raise_at, Some(run.now + RETRY_TIMER));
    }

    #[test]
    fn single_lost_probes_do_not_change_the_result() {
        for lost in 0..8 {
            let mut run = Run::new();
            assert_eq!(run.search(MAX_SEGMENT, |n| n == lost), MAX_SEGMENT, "{lost}");
            let mut run = Run::new();
            assert_eq!(run.search(1402, |n| n == lost), 1402, "{lost}");
            let mut run = Run::new();
            assert_eq!(run.search(902, |n| n == lost), 902, "{lost}");
        }
    }

    /// The narrow size is answered, the base size sent after it is not.
    #[test]
    fn a_base_size_that_does_not_pass_is_left_within_half_a_round_trip() {
        let mut run = Run::new();
        let serials: Vec<_> = core::iter::from_fn(|| run.path.handle_timeout(run.now, MAX_SEGMENT)).collect();
        assert_eq!(serials.iter().map(|probe| probe.size).collect::<Vec<_>>(), [502, 1152, 1402]);
        run.now += 100 * MS;
        run.path.on_answer(run.now, serials[0].serial);
        assert_eq!(run.path.segment(), SAFE_SEGMENT, "the others may be on their way");
        assert_eq!(run.path.poll_timeout(), Some(run.now + 50 * MS));
        run.now += 50 * MS;
        let next: Vec<_> = core::iter::from_fn(|| run.path.handle_timeout(run.now, MAX_SEGMENT)).collect();
        assert_eq!(run.path.segment(), 502);
        assert_eq!(next.iter().map(|probe| probe.size).collect::<Vec<_>>(), [602, 702, 802, 908, 1026, 1152]);
        // A late answer still counts.
        run.path.on_answer(run.now, serials[1].serial);
        assert_eq!(run.path.segment(), SAFE_SEGMENT);
    }

    #[test]
    fn unknown_and_repeated_answers_confirm_nothing() {
        let (mut path, now) = (new(false), Instant::from_millis(1));
        path.start_if_new(now, MAX_SEGMENT);
        let probe = path.handle_timeout(now, MAX_SEGMENT).unwrap();
        for serial in [0, probe.serial + 1, probe.serial.wrapping_sub(1), u32::MAX] {
            path.on_answer(now, serial);
        }
        assert!(!path.is_proven && path.segment() == SAFE_SEGMENT);
        path.on_answer(now, probe.serial);
        path.on_answer(now, probe.serial);
        assert_eq!((path.is_proven, path.segment()), (true, SAFE_SEGMENT));
    }

    #[test]
    fn a_black_hole_is_left_only_on_proof() {
        for (limit, expected) in [(4096, 4096), (1500, 1402), (1151, 1026), (502, 502), (400, 4096)] {
            let mut run = Run::new();
            assert_eq!(run.search(MAX_SEGMENT, |_| false), MAX_SEGMENT);
            run.path.suspect(run.now);
            let again = run.path.poll_timeout();
            run.path.suspect(run.now);
            assert_eq!(run.path.poll_timeout(), again, "once is enough");
            let begin = run.now;
            assert_eq!(run.search(limit, |_| false), expected, "{limit}");
            assert_eq!(run.probed[..3], [502, 1152, 4096]);
            assert!(run.now <= begin + 4 * PROBE_TIMER);
        }
    }

    /// The peer is a legacy one: it takes no more than the base size.
    #[test]
    fn no_size_above_the_limit_is_probed() {
        let (mut path, now) = (new(false), Instant::from_millis(1));
        path.suspect(now);
        let mut run = Run { path, now, probed: Vec::new() };
        run.run(801, SAFE_SEGMENT, false, |_| false);
        assert_eq!((run.path.segment(), run.probed[..2].to_vec()), (702, vec![502, 1152]));
        assert!(run.probed.iter().all(|size| *size <= SAFE_SEGMENT));
        run.now += RAISE_TIMER;
        assert!(run.path.handle_timeout(run.now, SAFE_SEGMENT).is_some());
        run.run(9000, SAFE_SEGMENT, false, |_| false);
        assert_eq!(run.path.segment(), SAFE_SEGMENT);
        assert!(run.probed.iter().all(|size| *size <= SAFE_SEGMENT));
    }

    #[test]
    fn a_changed_path_is_searched_again_later() {
        let mut run = Run::new();
        assert_eq!(run.search(1382, |_| false), 1382);
        run.path.start_if_new(run.now, MAX_SEGMENT);
        assert!(run.path.search.is_none(), "once is enough");
        for (limit, expected) in [(MAX_SEGMENT, MAX_SEGMENT), (1302, 1302), (1402, 1402)] {
            run.now = run.path.poll_timeout().unwrap();
            run.path.raise_at = None;
            run.path.start(run.now, MAX_SEGMENT);
            assert_eq!(run.search(limit, |_| false), expected);
            assert_eq!(run.path.poll_timeout(), Some(run.now + RAISE_TIMER));
        }
    }

    #[test]
    fn reported_sizes_are_probed_exactly() {
        for limit in [4096, 2000, 1402, 1333, SAFE_SEGMENT + 1, SAFE_SEGMENT, 1000, 600, 502] {
            let mut run = Run::new();
            let begin = run.now;
            run.run(limit, MAX_SEGMENT, true, |_| false);
            assert_eq!(run.path.segment(), limit, "{limit}");
            assert!(run.now < begin + 10 * RTT, "{limit}: without a probe timeout");
        }
    }

    #[test]
    fn wrong_reports_cost_only_probes() {
        // It reports 1,400 bytes, but drops those too.
        let mut run = Run::new();
        while run.path.handle_timeout(run.now, MAX_SEGMENT).is_some() {}
        assert!(run.path.on_too_big(run.now, 1400 + SEGMENT_OVERHEAD));
        let sent = run.path.probes.clone();
        run.now += RTT;
        for (probe, _) in sent {
            run.path.on_answer(run.now, probe.serial);
        }
        assert_eq!(run.search(1365, |_| false), 1362);
        assert_eq!(run.probed.iter().filter(|size| **size == 1400).count(), 2, "{:?}", run.probed);
        // Ignored: impossible sizes, sizes not below what was sent, and unsolicited reports.
        for limit in [0, 501, 1362, 1400, 65_000] {
            assert!(!run.path.on_too_big(run.now, limit + SEGMENT_OVERHEAD), "{limit}");
        }
        assert!(!run.path.on_too_big(run.now, 0));
        assert_eq!((run.path.segment(), run.path.search.is_none()), (1362, true));
    }

    #[test]
    fn a_reported_size_must_be_confirmed_before_use() {
        for (limit, narrower, meanwhile) in [(1300, 1250, SAFE_SEGMENT), (1000, 700, 502)] {
            let mut run = Run::new();
            run.search(MAX_SEGMENT, |_| false);
            assert!(run.path.on_too_big(run.now, limit + SEGMENT_OVERHEAD));
            assert_eq!(run.path.segment(), meanwhile, "at once");
            let probe = run.path.handle_timeout(run.now, MAX_SEGMENT).unwrap();
            assert_eq!(probe.size, limit);
            // A later hop reports a smaller MTU.
            assert!(run.path.on_too_big(run.now, narrower + SEGMENT_OVERHEAD));
            let next = run.path.handle_timeout(run.now, MAX_SEGMENT).unwrap();
            assert_eq!(next.size, narrower);
            run.path.on_answer(run.now, probe.serial);
            assert_eq!(run.path.segment(), meanwhile, "an answer to a refused size");
            run.path.on_answer(run.now, next.serial);
            assert_eq!((run.path.segment(), run.path.search.is_none()), (narrower, true));
        }
    }

    /// A relay adds its header to each datagram, which the report includes.
    #[test]
    fn reports_through_a_relay_include_its_header() {
        let mut run = Run::new();
        run.path = new(true);
        run.path.start_if_new(run.now, MAX_SEGMENT);
        while run.path.handle_timeout(run.now, MAX_SEGMENT).is_some() {}
        assert!(run.path.on_too_big(run.now, 1300 + SEGMENT_OVERHEAD + RELAY_HEADER_LEN));
        assert_eq!(run.path.handle_timeout(run.now, MAX_SEGMENT).map(|probe| probe.size), Some(1300));
    }
}
