//! Searches on paths in virtual time.

use super::*;
use crate::config::MIN_SEGMENT;

const MS: Duration = Duration::from_millis(1);
const RTT: Duration = Duration::from_millis(50);

fn new(is_relayed: bool) -> PathMtu {
    PathMtu::new(SocketAddr::from(([10, 0, 0, 1], 4000)), is_relayed)
}

/// A path of one round trip, the sizes that were probed, and the smallest one used.
struct Run {
    path: PathMtu,
    now: Instant,
    probed: Vec<usize>,
    wire: VecDeque<(Instant, PathProbe)>,
    least: usize,
}

impl Run {
    fn new() -> Self {
        let path = new(false);
        let now = Instant::from_millis(1);
        let mut run = Self { path, now, probed: Vec::new(), wire: VecDeque::new(), least: SAFE_SEGMENT };
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
        self.probed.clear();
        self.wire.clear();
        while self.path.search.is_some() {
            self.step(limit, takes, tells, &is_lost);
        }
    }

    /// The timer for a search for more has expired.
    fn begin_raise(&mut self) {
        self.path.raise_at = None;
        self.path.start(self.now, MAX_SEGMENT);
    }

    /// Sends what is due, and processes the next answer if it comes before the next timer.
    fn step(&mut self, limit: usize, takes: usize, tells: bool, is_lost: &dyn Fn(usize) -> bool) {
        while let Some(probe) = self.path.handle_timeout(self.now, takes) {
            let is_passed = probe.size <= limit;
            if (is_passed || tells) && !is_lost(self.probed.len()) {
                self.wire.push_back((self.now + RTT, probe));
            }
            self.probed.push(probe.size);
        }
        self.least = self.least.min(self.path.segment());
        let Some(due) = self.path.search.as_ref().map(|search| search.due) else { return };
        match self.wire.front().copied().filter(|(at, _)| *at <= due) {
            Some((at, probe)) => {
                self.wire.pop_front();
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
    assert_eq!(next.iter().map(|probe| probe.size).collect::<Vec<_>>(), [602, 702, 802, 902, 1026, 1152]);
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

/// The peer takes no more than the base size.
#[test]
fn no_size_above_the_limit_is_probed() {
    let (mut path, now) = (new(false), Instant::from_millis(1));
    path.suspect(now);
    let mut run = Run { path, now, ..Run::new() };
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
    assert_eq!(run.search(802, |_| false), 802);
    run.path.start_if_new(run.now, MAX_SEGMENT);
    assert!(run.path.search.is_none(), "once is enough");
    for (limit, expected, probes) in
        [(902, 902, 7), (902, 902, 6), (1402, 1402, 5), (1402, 1402, 3), (9000, MAX_SEGMENT, 1)]
    {
        assert_eq!(run.path.poll_timeout(), Some(run.now + RAISE_TIMER));
        run.now += RAISE_TIMER;
        run.begin_raise();
        assert_eq!(run.search(limit, |_| false), expected);
        assert!(run.probed.iter().all(|size| *size > 802) && run.probed.len() <= probes, "{:?}", run.probed);
    }
}

/// After a move what the path carries is verified at once, and more is looked for soon.
#[test]
fn another_network_is_searched_at_once() {
    for (before, after) in [(1402, 802), (802, 1402), (502, 1402), (1402, 502)] {
        let mut run = Run::new();
        run.path.recheck(run.now);
        assert_eq!(run.search(before, |_| false), before);
        let begin = run.now;
        run.path.recheck(run.now);
        run.search(after, |_| false);
        if before < after {
            run.now = run.path.poll_timeout().unwrap();
            run.begin_raise();
            run.search(after, |_| false);
        }
        assert_eq!(run.path.segment(), after, "{before}");
        assert!(run.now < begin + 10 * PROBE_TIMER, "{before}");
    }
}

/// The queue was full, or it was bad luck.
#[test]
fn a_single_lost_probe_reduces_no_size_in_use() {
    for confirmed in [1402, 1302, SAFE_SEGMENT, 802] {
        for lost in 0..4 {
            let mut run = Run::new();
            assert_eq!(run.search(confirmed, |_| false), confirmed);
            run.path.suspect(run.now);
            run.least = confirmed;
            assert_eq!(run.search(confirmed, |n| n == lost), confirmed);
            assert_eq!(run.least, confirmed, "{lost}");
        }
    }
}

/// Even if it is the next size below, for which no others are probed between.
#[test]
fn a_size_in_use_is_given_up_within_two_rounds() {
    for (before, after) in [(1402, 1394), (1302, SAFE_SEGMENT), (602, 502), (1402, 1026)] {
        let mut run = Run::new();
        run.search(before, |_| false);
        let begin = run.now;
        run.path.suspect(run.now);
        while run.path.segment() != after {
            assert!(run.now < begin + 8 * RTT, "{before}");
            run.step(after, MAX_SEGMENT, false, &|_| false);
        }
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
