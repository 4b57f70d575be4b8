//! Datagram packetization layer path MTU discovery (DPLPMTUD, RFC 8899), one instance per route. All sizes are
//! segment sizes.
//!
//! Probes are sealed pings padded to the probed size, which the peer answers without padding. No ICMP is needed. The search goes in rounds:
//! several sizes are sent at once, from the smallest to the largest, and the largest that is answered is
//! confirmed. What was sent after it and is not answered soon does not pass. Three lost probes refute a size for
//! good. A size in use is given up after two rounds without an answer to it. A PTB message ([`PathMtu::on_too_big`]) selects the next probe size; no size is used on its word alone.

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
const NARROW: [usize; 6] = [600, 700, 800, 900, 1000, 1124];
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
/// The least time that a round without any answer takes. Up to [`PROBE_TIMER`], it is three round-trip times.
const MIN_ROUND: Duration = Duration::from_millis(100);
/// Rounds that refuse a size in use before it is given up: a single loss, and the data sent anew for it, are more
/// likely than a narrower path.
const REFUSALS: u32 = 2;
/// Bounds of the time that the answer to a larger probe may come later than that to a smaller one sent before it.
/// Between them, it is half the round-trip time.
const REORDERING: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
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
    /// The size in use is verified: it is reduced after so many more rounds in which only smaller ones are
    /// answered.
    check: Option<u32>,
    /// How long a round waits for its first answer.
    patience: Duration,
    /// When the round ends, known from its first answer.
    ends_at: Option<Instant>,
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
    /// How long a round waits for its first answer, from how long the last one took.
    patience: Duration,
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
            patience: PROBE_TIMER,
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

    /// Probes a narrow link, the base size and Ethernet at once, or only those that are larger than a known size.
    fn start(&mut self, now: Instant, limit: usize) {
        let [.., ethernet, _] = self.sizes();
        self.raise_at = None;
        if !self.is_proven {
            self.search(now, vec![self.floor(), SAFE_SEGMENT, ethernet.min(limit)], limit, Some(1));
            return;
        }
        let mut round = vec![SAFE_SEGMENT, ethernet, MAX_SEGMENT.min(limit)];
        round.retain(|size| *size > self.confirmed);
        round.truncate(2);
        self.search(now, round, limit, None);
        if let Some(search) = &mut self.search {
            search.best = Some(self.confirmed);
        }
    }

    /// A black hole is suspected (RFC 8899 section 4.3): verifies the size in use. It is reduced only when a
    /// smaller one is answered.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.search.as_ref().is_some_and(|search| search.check.is_some()) || self.confirmed == self.floor()
        {
            return;
        }
        if self.search.is_some() {
            // The search for more goes on later.
            self.raise_at.get_or_insert(now + RETRY_TIMER);
        }
        // What was sent before the path changed proves nothing.
        self.probes.clear();
        let round = vec![self.floor(), SAFE_SEGMENT, self.confirmed];
        self.search(now, round, self.confirmed, Some(REFUSALS));
    }

    /// Another network is used than before, or the peer came back: what the path carried may have changed.
    pub(super) fn recheck(&mut self, now: Instant) {
        if self.is_proven {
            self.suspect(now);
            self.raise_at = Some(now + PROBE_TIMER);
        }
    }

    fn search(&mut self, now: Instant, round: Vec<usize>, limit: usize, check: Option<u32>) {
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
            check,
            patience: self.patience,
            ends_at: None,
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
        let rtt = now.saturating_since(sent_at);
        self.patience = (rtt * 3).clamp(MIN_ROUND, PROBE_TIMER);
        let Some(search) = self.search.as_mut() else { return };
        search.best = search.best.max(Some(probe.size));
        search.patience = self.patience;
        if search.best >= search.round.last().copied() {
            self.end_round(now);
        } else if search.is_current(serial) {
            let (least, most) = REORDERING;
            search.end_after(now, (rtt / 2).clamp(least, most));
        }
    }

    /// Processes a PTB message that reports `max_datagram` bytes (RFC 8899 section 4.6). The caller has
    /// verified that the quoted datagram is ours. Returns whether it was used.
    pub(super) fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        let limit = max_datagram.saturating_sub(SEGMENT_OVERHEAD + self.relay_overhead);
        let is_hole = limit < self.confirmed;
        let is_searched = self.search.is_some() && self.probes.iter().any(|(probe, _)| probe.size > limit);
        if limit < self.floor() || !is_hole && !is_searched {
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
            let check = self.search.as_ref().and_then(|search| search.check);
            self.search(now, round, limit, check);
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
        if best >= self.confirmed {
            search.check = None;
        } else if let Some(left) = &mut search.check {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.confirmed = best;
            }
        }
        let limit = refused.unwrap_or(search.limit);
        let between = sizes.iter().copied().filter(|size| *size > best && *size < limit);
        let round: Vec<_> = between.chain((limit > best).then_some(limit)).collect();
        if round.is_empty() || rounds == MAX_PROBES {
            self.finish(now, Some(best));
        } else {
            // Sizes not probed yet are probed at once, and one in use as well. Else a repeated probe waits.
            let is_urgent = search.check.is_some_and(|left| left > 0);
            let is_repeated = rounds > 0 && round.len() == 1 && !is_urgent;
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
        (self.round, self.sent, self.ends_at) = (round, 0, None);
        self.first_serial = serial.wrapping_add(1);
        self.due = at;
    }

    /// The next size of this round. After the last one, the answers are due.
    fn next_size(&mut self, now: Instant) -> Option<usize> {
        let size = *self.round.get(self.sent)?;
        (self.sent, self.sent_at) = (self.sent + 1, now);
        if self.sent == self.round.len() {
            self.due = self.ends_at.unwrap_or(now + self.patience);
        }
        Some(size)
    }

    /// Whether the probe belongs to this round.
    fn is_current(&self, serial: u32) -> bool {
        serial.wrapping_sub(self.first_serial) < self.sent as u32
    }

    /// An answer arrived: those to the rest of the round come within `wait`, or do not.
    fn end_after(&mut self, now: Instant, wait: Duration) {
        let at = *self.ends_at.get_or_insert(now + wait);
        if self.sent == self.round.len() {
            self.due = self.due.min(at);
        }
    }
}

#[cfg(test)]
mod tests;
