//! The largest segment that the path to a peer carries (RFC 8899, packetization layer path MTU
//! discovery for datagrams). Sizes are those of segments.
//!
//! Probes are sealed pings padded to the size in question; the peer answers without padding. An answer
//! confirms a size, three that stay away refute it. No ICMP is needed: a path that stops to carry a size
//! shows by timeouts ([`PathMtu::fail`]). Where a router tells what it carries ([`PathMtu::on_too_big`]),
//! that is probed next; no size is used on its word alone.

use core::time::Duration;

use crate::{
    config::{MAX_SEGMENT, SAFE_SEGMENT},
    time::Instant,
    wire::{packet::HEADER_LEN, tunnel::SEALED_OVERHEAD},
};

/// Bytes around a segment in a datagram.
const AROUND: usize = SEALED_OVERHEAD + HEADER_LEN;
/// The same from UDP's header on.
const OVERHEAD: usize = 8 + AROUND;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Segments that fill the links there are: IPv6 in a VPN, IPv4 in a cloud, IPv6 over Ethernet, PPPoE,
/// IPv4 over Ethernet, and what jumbo frames and loopback carry.
const SIZES: [usize; 6] = [
    1420 - IPV6 - OVERHEAD,
    1460 - IPV4 - OVERHEAD,
    1500 - IPV6 - OVERHEAD,
    1492 - IPV4 - OVERHEAD,
    1500 - IPV4 - OVERHEAD,
    MAX_SEGMENT,
];
/// The size tried first; most paths carry it and nothing larger.
const FIRST: usize = 4;
/// MAX_PROBES, RFC 8899 section 5.1.2.
const MAX_PROBES: u32 = 3;
/// PROBE_TIMER, section 5.1.1; deviates from its 15 s, because a late answer does no harm.
const PROBE_TIMER: Duration = Duration::from_secs(1);
/// PMTU_RAISE_TIMER, section 5.1.1.
const RAISE_TIMER: Duration = Duration::from_secs(600);
/// The same after a search in which nothing passed: the path may have been down.
const RETRY_TIMER: Duration = Duration::from_secs(30);

/// A probe to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PathProbe {
    /// Bytes of the segment that it is as large as.
    pub(super) size: usize,
    /// What its answer repeats.
    pub(super) serial: u32,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    /// Index of the size that is probed.
    at: usize,
    tries: u32,
    /// The first probe of this size.
    first_serial: u32,
    due: Instant,
    /// Sizes from the smallest on that pass.
    passed: usize,
    /// Index of the smallest size that does not.
    refuted: usize,
    /// What a router says it carries, which is probed instead of the size at `at`.
    told: Option<usize>,
    /// The largest size that passed.
    best: Option<usize>,
}

impl Search {
    /// Bytes of the segment that is probed.
    fn size(&self) -> usize {
        self.told.unwrap_or(SIZES[self.at])
    }

    fn is_refuted(&self) -> bool {
        self.tries == MAX_PROBES
    }

    /// Probes another size from now on; `serial` was the last.
    fn aim(&mut self, now: Instant, serial: u32) {
        self.tries = 0;
        self.first_serial = serial.wrapping_add(1);
        self.due = now;
    }
}

/// What is known about one path.
#[derive(Debug)]
pub(super) struct PathMtu {
    confirmed: usize,
    search: Option<Search>,
    /// When to search anew.
    raise_at: Option<Instant>,
    serial: u32,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self { confirmed: SAFE_SEGMENT, search: None, raise_at: None, serial: 0 }
    }
}

impl PathMtu {
    /// The largest segment that is known to pass.
    pub(super) fn segment(&self) -> usize {
        self.confirmed
    }

    /// The path is used: searches, unless that was done.
    pub(super) fn wake(&mut self, now: Instant) {
        if self.search.is_none() && self.raise_at.is_none() {
            self.start(now);
        }
    }

    fn start(&mut self, now: Instant) {
        self.raise_at = None;
        let first_serial = self.serial.wrapping_add(1);
        self.search = Some(Search {
            at: FIRST,
            tries: 0,
            first_serial,
            due: now,
            passed: 0,
            refuted: SIZES.len(),
            told: None,
            best: None,
        });
    }

    /// It is another path, or it lost what was sent time and again: only what every path carries is
    /// sent until a new search finds better.
    pub(super) fn fail(&mut self, now: Instant) {
        self.confirmed = SAFE_SEGMENT;
        self.start(now);
    }

    /// The next deadline.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.search.map(|search| search.due).or(self.raise_at)
    }

    /// The probe that is due, if one is.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<PathProbe> {
        if self.raise_at.is_some_and(|at| at <= now) {
            self.start(now);
        }
        let search = self.search.as_mut().filter(|search| search.due <= now)?;
        if search.is_refuted() {
            search.refuted = match search.told.take() {
                Some(size) => search.refuted.min(SIZES.partition_point(|known| *known < size)),
                None => search.at,
            };
            self.go_on(now);
        }
        let search = self.search.as_mut()?;
        search.tries += 1;
        search.due = now + PROBE_TIMER;
        self.serial = self.serial.wrapping_add(1);
        Some(PathProbe { size: search.size(), serial: self.serial })
    }

    /// The peer answered a probe.
    pub(super) fn on_answer(&mut self, now: Instant, serial: u32) {
        let Some(search) = self.search.as_mut().filter(|search| search.tries > 0) else { return };
        let sent = self.serial.wrapping_sub(search.first_serial);
        if serial.wrapping_sub(search.first_serial) > sent {
            return;
        }
        let size = search.size();
        // What a router told is the most that passes.
        search.passed = if search.told.take().is_some() { search.refuted } else { search.at + 1 };
        search.best = search.best.max(Some(size));
        self.confirmed = self.confirmed.max(size);
        self.go_on(now);
    }

    /// A router, or the host itself, dropped a datagram and says that it carries `max_datagram` bytes
    /// (RFC 8899 section 4.6). The caller has made sure that the datagram was ours. Returns whether that
    /// told anything.
    pub(super) fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        let limit = max_datagram.saturating_sub(AROUND);
        if limit < SAFE_SEGMENT {
            // Less than every path carries; nothing smaller could be sent.
            return false;
        }
        let is_hole = limit < self.confirmed;
        if is_hole {
            self.fail(now);
        }
        let serial = self.serial;
        let Some(search) = self.search.as_mut() else { return false };
        if !is_hole && (search.tries == 0 || limit >= search.size()) {
            return false;
        }
        search.refuted = SIZES.partition_point(|size| *size <= limit).min(search.refuted);
        if limit > search.best.unwrap_or(SAFE_SEGMENT) {
            search.told = Some(limit);
            search.aim(now, serial);
        } else {
            search.told = None;
            self.go_on(now);
        }
        true
    }

    /// Halves what is unknown, until nothing is.
    fn go_on(&mut self, now: Instant) {
        let serial = self.serial;
        let Some(search) = self.search.as_mut() else { return };
        if search.passed < search.refuted {
            search.at = usize::midpoint(search.passed, search.refuted);
            search.aim(now, serial);
            return;
        }
        self.confirmed = search.best.unwrap_or(SAFE_SEGMENT);
        self.raise_at = Some(now + if search.best.is_some() { RAISE_TIMER } else { RETRY_TIMER });
        self.search = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a path that carries segments up to `limit`; probes that were sent.
    fn search(path: &mut PathMtu, now: &mut Instant, limit: usize) -> Vec<usize> {
        search_where(path, now, limit, false)
    }

    /// The same where a router tells what is too large, or does not.
    fn search_where(path: &mut PathMtu, now: &mut Instant, limit: usize, tells: bool) -> Vec<usize> {
        let mut sent = Vec::new();
        while path.search.is_some() {
            *now = (*now).max(path.poll_timeout().unwrap());
            let Some(probe) = path.handle_timeout(*now) else { continue };
            sent.push(probe.size);
            if probe.size <= limit {
                *now += Duration::from_millis(50);
                path.on_answer(*now, probe.serial);
            } else if tells {
                *now += Duration::from_millis(50);
                path.on_too_big(*now, limit + AROUND);
            }
        }
        sent
    }

    #[test]
    fn sizes_ascend_from_what_every_path_carries() {
        assert!(SIZES.is_sorted_by(|a, b| a < b) && SIZES[0] > SAFE_SEGMENT);
        assert_eq!(SIZES[FIRST], 1402);
    }

    #[test]
    fn the_largest_size_that_passes_is_found() {
        for (limit, expected, probes) in [
            (9000, 4096, 2),
            (1402, 1402, 1 + 3),
            (1401, 1394, 3 + 1 + 1),
            (1393, 1382, 3 + 1 + 3),
            (1370, 1362, 2 * 3 + 1),
            (1302, 1302, 3 * 3 + 1),
            (1200, SAFE_SEGMENT, 4 * 3),
        ] {
            let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
            path.wake(now);
            let sent = search(&mut path, &mut now, limit);
            assert_eq!((path.segment(), sent.len()), (expected, probes), "{limit}");
        }
    }

    #[test]
    fn a_lost_probe_is_sent_again_and_a_late_answer_counts() {
        let (mut path, now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        let first = path.handle_timeout(now).unwrap();
        assert_eq!(path.handle_timeout(now), None);
        let later = now + PROBE_TIMER;
        let second = path.handle_timeout(later).unwrap();
        assert_eq!((second.size, second.serial), (first.size, first.serial + 1));
        path.on_answer(later, first.serial);
        assert_eq!(path.segment(), first.size);
        // Neither does an answer to that size say anything about the next one, nor one to nothing.
        path.on_answer(later, second.serial);
        assert_eq!(path.segment(), first.size, "the next one did not leave yet");
        let third = path.handle_timeout(later).unwrap();
        assert_eq!(third.size, MAX_SEGMENT);
        for serial in [second.serial, third.serial + 1, first.serial.wrapping_sub(1)] {
            path.on_answer(later, serial);
            assert_eq!(path.segment(), first.size);
        }
    }

    #[test]
    fn a_path_that_fails_is_safe_at_once_and_searched_again() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        search(&mut path, &mut now, 1402);
        path.fail(now);
        assert_eq!(path.segment(), SAFE_SEGMENT);
        search(&mut path, &mut now, 1310);
        assert_eq!(path.segment(), 1302);
        path.wake(now);
        assert!(path.search.is_none(), "once is enough");
        // It may have become better, and worse.
        now += RAISE_TIMER;
        assert_eq!(path.handle_timeout(now).map(|probe| probe.size), Some(1402));
        path.on_answer(now, path.serial);
        assert_eq!(path.segment(), 1402);
        search(&mut path, &mut now, 1402);
        now += RAISE_TIMER;
        path.start(now);
        search(&mut path, &mut now, 1362);
        assert_eq!(path.segment(), 1362);
    }

    #[test]
    fn what_a_router_tells_is_probed_and_used_to_the_byte() {
        for (limit, expected) in [
            (9000, vec![1402, 4096]),
            (2000, vec![1402, 4096, 2000]),
            (1402, vec![1402, 4096]),
            (1333, vec![1402, 1333]),
            (SAFE_SEGMENT + 1, vec![1402, SAFE_SEGMENT + 1]),
            (SAFE_SEGMENT, vec![1402]),
        ] {
            let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
            path.wake(now);
            assert_eq!(search_where(&mut path, &mut now, limit, true), expected, "{limit}");
            assert_eq!(path.segment(), limit.min(MAX_SEGMENT), "{limit}");
            assert!(now < Instant::from_millis(200), "without waiting");
        }
    }

    #[test]
    fn a_router_that_lies_costs_probes_and_no_more() {
        // It drops 1,400 bytes too, although it said that they pass.
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        path.handle_timeout(now);
        assert!(path.on_too_big(now, 1400 + AROUND));
        assert_eq!(search(&mut path, &mut now, 1365), [1400, 1400, 1400, 1382, 1382, 1382, 1362]);
        assert_eq!(path.segment(), 1362);
        // Neither is believed: what is impossible, what allows more than was sent, what nobody asked.
        for limit in [0, SAFE_SEGMENT - 1, 1362, 1400, 65_000] {
            assert!(!path.on_too_big(now, limit + AROUND), "{limit}");
        }
        assert!(!path.on_too_big(now, 0));
        assert_eq!((path.segment(), path.search.is_none()), (1362, true));
    }

    #[test]
    fn what_a_router_told_in_vain_is_not_tried_again() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        path.handle_timeout(now);
        assert!(path.on_too_big(now, 1382 + AROUND));
        assert_eq!(search(&mut path, &mut now, 1365), [1382, 1382, 1382, 1362]);
    }

    #[test]
    fn a_router_that_speaks_of_nothing_sent_is_not_heard() {
        let (mut path, now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        assert!(!path.on_too_big(now, 1300 + AROUND), "no probe left");
        assert_eq!(path.handle_timeout(now).map(|probe| probe.size), Some(1402));
        assert!(!path.on_too_big(now, 1402 + AROUND), "the probe is no larger");
        assert!(path.on_too_big(now, 1401 + AROUND));
    }

    #[test]
    fn what_a_router_told_must_pass_before_it_is_used() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        search(&mut path, &mut now, MAX_SEGMENT);
        assert!(path.on_too_big(now, 1300 + AROUND));
        assert_eq!(path.segment(), SAFE_SEGMENT, "at once");
        let probe = path.handle_timeout(now).unwrap();
        assert_eq!(probe.size, 1300);
        // A still narrower one further on.
        assert!(path.on_too_big(now, 1250 + AROUND));
        let narrower = path.handle_timeout(now).unwrap();
        assert_eq!(narrower.size, 1250);
        path.on_answer(now, probe.serial);
        assert_eq!(path.segment(), SAFE_SEGMENT, "an answer to another size");
        path.on_answer(now, narrower.serial);
        assert_eq!((path.segment(), path.search.is_none()), (1250, true));
        now += RAISE_TIMER;
        assert_eq!(path.handle_timeout(now).map(|probe| probe.size), Some(1402));
    }

    #[test]
    fn a_path_that_was_down_is_looked_at_again_soon() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.wake(now);
        search(&mut path, &mut now, 0);
        assert_eq!(path.poll_timeout(), Some(now + RETRY_TIMER));
    }
}
