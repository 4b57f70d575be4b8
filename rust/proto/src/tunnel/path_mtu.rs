//! Datagram packetization layer path MTU discovery (DPLPMTUD, RFC 8899). All sizes are segment sizes.
//!
//! Probes are sealed pings padded to the probed size; the peer answers without padding. An answer confirms a
//! size, three lost probes refute it. No ICMP is needed: black holes are detected by timeouts
//! ([`PathMtu::fail`]). A PTB message ([`PathMtu::on_too_big`]) selects the next probe size; no size is used
//! on its word alone.

use core::time::Duration;

use crate::{
    config::{MAX_SEGMENT, SAFE_SEGMENT},
    time::Instant,
    wire::{packet::HEADER_LEN, tunnel::SEALED_OVERHEAD},
};

/// Tunnel and packet headers of a segment in a datagram, bytes.
const SEGMENT_OVERHEAD: usize = SEALED_OVERHEAD + HEADER_LEN;
/// The same with the UDP header.
const OVERHEAD: usize = 8 + SEGMENT_OVERHEAD;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Probed sizes, which fill common links: IPv6 in a VPN, IPv4 in a cloud, IPv6 over Ethernet, PPPoE, IPv4
/// over Ethernet, and jumbo frames or loopback.
const SIZES: [usize; 6] = [
    1420 - IPV6 - OVERHEAD,
    1460 - IPV4 - OVERHEAD,
    1500 - IPV6 - OVERHEAD,
    1492 - IPV4 - OVERHEAD,
    1500 - IPV4 - OVERHEAD,
    MAX_SEGMENT,
];
/// Index of the size probed first: the largest that most paths carry.
const FIRST: usize = 4;
/// MAX_PROBES, RFC 8899 section 5.1.2.
const MAX_PROBES: u32 = 3;
/// PROBE_TIMER, section 5.1.1. Deviates from its 15 s, because late answers still count.
const PROBE_TIMER: Duration = Duration::from_secs(1);
/// PMTU_RAISE_TIMER, section 5.1.1.
const RAISE_TIMER: Duration = Duration::from_secs(600);
/// The same after a search in which no size was confirmed: the path may have been down.
const RETRY_TIMER: Duration = Duration::from_secs(30);

/// A probe to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PathProbe {
    /// Segment size that it probes, bytes.
    pub(super) size: usize,
    /// Serial number that the answer echoes.
    pub(super) serial: u32,
}

#[derive(Clone, Copy, Debug)]
struct Search {
    /// Index of the probed size.
    at: usize,
    tries: u32,
    /// The first probe of this size.
    first_serial: u32,
    due: Instant,
    /// Number of sizes, from the smallest, that are confirmed.
    passed: usize,
    /// Index of the smallest refuted size.
    refuted: usize,
    /// Size reported by a PTB message, probed instead of the size at `at`.
    reported: Option<usize>,
    /// The largest confirmed size.
    best: Option<usize>,
}

impl Search {
    /// The probed size, bytes.
    fn size(&self) -> usize {
        self.reported.unwrap_or(SIZES[self.at])
    }

    fn is_refuted(&self) -> bool {
        self.tries == MAX_PROBES
    }

    /// Starts probing another size; `serial` is the last one used.
    fn restart(&mut self, now: Instant, serial: u32) {
        self.tries = 0;
        self.first_serial = serial.wrapping_add(1);
        self.due = now;
    }
}

/// Path MTU state of one path.
#[derive(Debug)]
pub(super) struct PathMtu {
    confirmed: usize,
    search: Option<Search>,
    /// When to search again.
    raise_at: Option<Instant>,
    serial: u32,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self { confirmed: SAFE_SEGMENT, search: None, raise_at: None, serial: 0 }
    }
}

impl PathMtu {
    /// The largest confirmed segment size, bytes.
    pub(super) fn segment(&self) -> usize {
        self.confirmed
    }

    /// Starts the first search when the path is used.
    pub(super) fn start_if_new(&mut self, now: Instant) {
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
            reported: None,
            best: None,
        });
    }

    /// Resets to the base size after migration or black hole detection, and searches again.
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
            search.refuted = match search.reported.take() {
                Some(size) => search.refuted.min(SIZES.partition_point(|known| *known < size)),
                None => search.at,
            };
            self.next_size(now);
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
        // A size reported by a router is the largest that passes.
        search.passed = if search.reported.take().is_some() { search.refuted } else { search.at + 1 };
        search.best = search.best.max(Some(size));
        self.confirmed = self.confirmed.max(size);
        self.next_size(now);
    }

    /// Processes a PTB message that reports `max_datagram` bytes (RFC 8899 section 4.6). The caller has
    /// verified that the quoted datagram is ours. Returns whether it was used.
    pub(super) fn on_too_big(&mut self, now: Instant, max_datagram: usize) -> bool {
        let limit = max_datagram.saturating_sub(SEGMENT_OVERHEAD);
        if limit < SAFE_SEGMENT {
            // Below the base size; nothing smaller can be sent.
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
            search.reported = Some(limit);
            search.restart(now, serial);
        } else {
            search.reported = None;
            self.next_size(now);
        }
        true
    }

    /// Continues the binary search, or ends it.
    fn next_size(&mut self, now: Instant) {
        let serial = self.serial;
        let Some(search) = self.search.as_mut() else { return };
        if search.passed < search.refuted {
            search.at = usize::midpoint(search.passed, search.refuted);
            search.restart(now, serial);
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

    /// Searches on a path that carries segments up to `limit`; returns the probed sizes.
    fn search(path: &mut PathMtu, now: &mut Instant, limit: usize) -> Vec<usize> {
        search_where(path, now, limit, false)
    }

    /// The same, with PTB messages if `tells`.
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
                path.on_too_big(*now, limit + SEGMENT_OVERHEAD);
            }
        }
        sent
    }

    #[test]
    fn sizes_ascend_from_the_base_size() {
        assert!(SIZES.is_sorted_by(|a, b| a < b) && SIZES[0] > SAFE_SEGMENT);
        assert_eq!(SIZES[FIRST], 1402);
    }

    #[test]
    fn the_largest_passing_size_is_found() {
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
            path.start_if_new(now);
            let sent = search(&mut path, &mut now, limit);
            assert_eq!((path.segment(), sent.len()), (expected, probes), "{limit}");
        }
    }

    #[test]
    fn lost_probes_are_repeated_and_late_answers_count() {
        let (mut path, now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        let first = path.handle_timeout(now).unwrap();
        assert_eq!(path.handle_timeout(now), None);
        let later = now + PROBE_TIMER;
        let second = path.handle_timeout(later).unwrap();
        assert_eq!((second.size, second.serial), (first.size, first.serial + 1));
        path.on_answer(later, first.serial);
        assert_eq!(path.segment(), first.size);
        // An answer to another size, or to no probe, confirms nothing.
        path.on_answer(later, second.serial);
        assert_eq!(path.segment(), first.size, "the next probe was not sent yet");
        let third = path.handle_timeout(later).unwrap();
        assert_eq!(third.size, MAX_SEGMENT);
        for serial in [second.serial, third.serial + 1, first.serial.wrapping_sub(1)] {
            path.on_answer(later, serial);
            assert_eq!(path.segment(), first.size);
        }
    }

    #[test]
    fn failure_resets_to_the_base_size_and_searches_again() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        search(&mut path, &mut now, 1402);
        path.fail(now);
        assert_eq!(path.segment(), SAFE_SEGMENT);
        search(&mut path, &mut now, 1310);
        assert_eq!(path.segment(), 1302);
        path.start_if_new(now);
        assert!(path.search.is_none(), "once is enough");
        // The path MTU may have grown or shrunk.
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
    fn reported_sizes_are_probed_exactly() {
        for (limit, expected) in [
            (9000, vec![1402, 4096]),
            (2000, vec![1402, 4096, 2000]),
            (1402, vec![1402, 4096]),
            (1333, vec![1402, 1333]),
            (SAFE_SEGMENT + 1, vec![1402, SAFE_SEGMENT + 1]),
            (SAFE_SEGMENT, vec![1402]),
        ] {
            let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
            path.start_if_new(now);
            assert_eq!(search_where(&mut path, &mut now, limit, true), expected, "{limit}");
            assert_eq!(path.segment(), limit.min(MAX_SEGMENT), "{limit}");
            assert!(now < Instant::from_millis(200), "without a probe timeout");
        }
    }

    #[test]
    fn wrong_reports_cost_only_probes() {
        // It reports 1,400 bytes, but drops those too.
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        path.handle_timeout(now);
        assert!(path.on_too_big(now, 1400 + SEGMENT_OVERHEAD));
        assert_eq!(search(&mut path, &mut now, 1365), [1400, 1400, 1400, 1382, 1382, 1382, 1362]);
        assert_eq!(path.segment(), 1362);
        // Ignored: impossible sizes, sizes not below what was sent, and unsolicited reports.
        for limit in [0, SAFE_SEGMENT - 1, 1362, 1400, 65_000] {
            assert!(!path.on_too_big(now, limit + SEGMENT_OVERHEAD), "{limit}");
        }
        assert!(!path.on_too_big(now, 0));
        assert_eq!((path.segment(), path.search.is_none()), (1362, true));
    }

    #[test]
    fn a_refuted_reported_size_is_not_probed_again() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        path.handle_timeout(now);
        assert!(path.on_too_big(now, 1382 + SEGMENT_OVERHEAD));
        assert_eq!(search(&mut path, &mut now, 1365), [1382, 1382, 1382, 1362]);
    }

    #[test]
    fn reports_about_unsent_sizes_are_ignored() {
        let (mut path, now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        assert!(!path.on_too_big(now, 1300 + SEGMENT_OVERHEAD), "no probe left");
        assert_eq!(path.handle_timeout(now).map(|probe| probe.size), Some(1402));
        assert!(!path.on_too_big(now, 1402 + SEGMENT_OVERHEAD), "the probe is no larger");
        assert!(path.on_too_big(now, 1401 + SEGMENT_OVERHEAD));
    }

    #[test]
    fn a_reported_size_must_be_confirmed_before_use() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        search(&mut path, &mut now, MAX_SEGMENT);
        assert!(path.on_too_big(now, 1300 + SEGMENT_OVERHEAD));
        assert_eq!(path.segment(), SAFE_SEGMENT, "at once");
        let probe = path.handle_timeout(now).unwrap();
        assert_eq!(probe.size, 1300);
        // A later hop reports a smaller MTU.
        assert!(path.on_too_big(now, 1250 + SEGMENT_OVERHEAD));
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
    fn a_failed_search_is_retried_soon() {
        let (mut path, mut now) = (PathMtu::default(), Instant::from_millis(1));
        path.start_if_new(now);
        search(&mut path, &mut now, 0);
        assert_eq!(path.poll_timeout(), Some(now + RETRY_TIMER));
    }
}
