//! What waits, and what leaves when.

use super::*;

/// A queue whose driver sends as fast as the test says.
#[derive(Default)]
struct Fixture {
    queue: Queue,
    buf: Vec<u8>,
}

fn to(n: u32) -> SocketAddr {
    SocketAddr::from((n.to_be_bytes(), 4000))
}

impl Fixture {
    fn push(&mut self, pair: u32, len: usize) -> Queued {
        let index = self.queue.pair((NodeId(pair), NodeId(0)));
        self.queue.push(index, to(pair), b"head", &vec![0; len - 4])
    }

    /// Takes a batch, and returns whose it was and its bytes.
    fn take(&mut self) -> Option<(u32, usize)> {
        let taken = self.queue.take(64, &mut self.buf)?;
        assert_eq!(taken.len, self.buf.len());
        let SocketAddr::V4(to) = taken.to else { panic!() };
        Some((to.ip().to_bits(), taken.len))
    }

    fn drain(&mut self) -> Vec<(u32, usize)> {
        core::iter::from_fn(|| self.take()).collect()
    }
}

#[test]
fn a_frame_leaves_as_it_came_and_in_order() {
    let mut fixture = Fixture::default();
    let lengths = [100, 100, 40, 100, 1400, 1400, 100, 1500];
    for len in lengths {
        assert_eq!(fixture.push(1, len), Queued::Waits);
    }
    // Segments of a batch are equal but for the last.
    let batches: Vec<_> = fixture.drain().into_iter().map(|(_, len)| len).collect();
    assert_eq!(batches, [240, 100, 2900, 1500]);
    assert_eq!((fixture.queue.bytes(), fixture.queue.active), (0, 0));
}

#[test]
fn greedy_pairs_share_alike_whatever_the_size_of_their_frames() {
    let mut fixture = Fixture::default();
    let mut sent = BTreeMap::<u32, usize>::new();
    for _ in 0..400 {
        for pair in 1..=8 {
            // Each fills its queue, with frames of its own size.
            while fixture.push(pair, 150 * usize::try_from(pair).unwrap()) == Queued::Waits {}
        }
        let (pair, len) = fixture.take().unwrap();
        *sent.entry(pair).or_default() += len;
    }
    let (least, most) = (sent.values().min().unwrap(), sent.values().max().unwrap());
    assert!(sent.len() == 8 && most - least <= 2 * MAX_BATCH, "{sent:?}");
}

/// Whatever 64 others have waiting, a thin flow waits for one batch of theirs at most.
#[test]
fn a_thin_flow_goes_first() {
    let mut fixture = Fixture::default();
    for turn in 0..1000 {
        for pair in 1..=64 {
            while fixture.push(pair, 1200) == Queued::Waits {}
        }
        if turn % 10 == 0 {
            assert_eq!(fixture.push(99, 100), Queued::Waits);
            assert_eq!(fixture.take(), Some((99, 100)), "turn {turn}");
        }
        assert_ne!(fixture.take().unwrap().0, 99);
    }
}

/// Many thin flows together do not keep greedy ones out.
#[test]
fn sparse_pairs_get_half_while_others_wait() {
    let mut fixture = Fixture::default();
    let mut sent = [0; 2];
    for turn in 0..20_000_u32 {
        while fixture.push(1, 1200) == Queued::Waits {}
        fixture.push(100 + turn % 5000, 1000);
        fixture.push(100 + (turn + 2500) % 5000, 1000);
        let (pair, len) = fixture.take().unwrap();
        sent[usize::from(pair > 1)] += len;
    }
    let share = sent[0] * 100 / (sent[0] + sent[1]);
    assert!((45..=75).contains(&share), "{share} %");
}

#[test]
fn a_pair_that_has_spent_its_round_waits_for_the_next() {
    let mut fixture = Fixture::default();
    for pair in 1..=2 {
        while fixture.push(pair, 1200) == Queued::Waits {}
    }
    let first = fixture.take().unwrap().0;
    // It empties its queue meanwhile, and returns with little: that is not sparse.
    let mut turns = vec![first];
    turns.extend((0..7).map(|_| fixture.take().unwrap().0));
    let of_first = turns.iter().filter(|pair| **pair == first).count();
    assert_eq!(of_first, 4, "{turns:?}");
}

#[test]
fn each_pair_is_bounded_and_in_all_the_greediest_loses() {
    let mut fixture = Fixture::default();
    let most = MAX_BYTES_OF_PAIR / 1200;
    let accepted = (0..1000).filter(|_| fixture.push(1, 1200) == Queued::Waits).count();
    assert!((most * 9 / 10..=most).contains(&accepted), "{accepted}");
    // Full queues of many pairs, and then one more frame of each of many others.
    for pair in 2..400 {
        while fixture.push(pair, 1200) == Queued::Waits {}
        assert!(fixture.queue.bytes() <= MAX_BYTES + 2000);
    }
    for pair in 1000..2000 {
        assert_eq!(fixture.push(pair, 1200), Queued::Waits, "{pair}");
    }
    assert!(fixture.queue.bytes() <= MAX_BYTES + 2000);
    assert!(fixture.queue.take_dropped() >= 900);
    let served: BTreeSet<_> = fixture.drain().into_iter().map(|(pair, _)| pair).collect();
    assert!((1000..2000).all(|pair| served.contains(&pair)));
    assert_eq!((fixture.queue.bytes(), fixture.queue.greedy.len()), (0, 0));
}

#[test]
fn pairs_are_bounded_and_forgotten() {
    let mut fixture = Fixture::default();
    let most = u32::try_from(MAX_ACTIVE).unwrap();
    for pair in 0..most {
        assert_eq!(fixture.push(pair, 100), Queued::Waits);
    }
    assert_eq!(fixture.push(most, 100), Queued::Full);
    assert_eq!(fixture.push(0, 100), Queued::Waits);
    fixture.drain();
    for pair in 0..3 * most {
        fixture.push(pair, 100);
        fixture.take();
    }
    let known = fixture.queue.by_key.len();
    assert!(known <= MAX_IDLE + 1, "{known}");
    assert_eq!(fixture.queue.pairs.len(), fixture.queue.free.len() + known);
}

/// Random traffic of a seed: nothing is lost but what was refused or dropped, and nothing is left.
#[test]
fn bytes_are_accounted_for() {
    for seed in 1..20_u64 {
        let mut fixture = Fixture::default();
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % below).unwrap()
        };
        let (mut pushed, mut taken) = (0, 0);
        for _ in 0..20_000 {
            if random(3) > 0 {
                let pair = u32::try_from(random(50).min(random(50))).unwrap();
                let len = 5 + random(1500);
                pushed += if fixture.push(pair, len) == Queued::Waits { len } else { 0 };
            } else {
                let segments = 1 + random(64);
                taken += fixture.queue.take(segments, &mut fixture.buf).map_or(0, |taken| taken.len);
            }
        }
        taken += fixture.drain().into_iter().map(|(_, len)| len).sum::<usize>();
        assert_eq!((pushed, fixture.queue.bytes(), fixture.queue.active), (taken, 0, 0), "seed {seed}");
    }
}

/// Fills a buffer with segments, and hands it over.
fn push_owned(queue: &mut Queue, pair: u32, (len, stride): (usize, usize)) -> Option<(*const u8, Vec<u8>)> {
    let index = queue.pair((NodeId(pair), NodeId(0)));
    let mut buffer = vec![3; BUFFER_LEN];
    let place = buffer.as_ptr();
    queue.push_owned(index, to(pair), 9, &mut buffer, (len, stride)).then_some((place, buffer))
}

#[test]
fn a_buffer_leaves_without_being_copied_and_is_used_again() {
    let mut queue = Queue::default();
    let (place, other) = push_owned(&mut queue, 1, (19_700, 1231)).unwrap();
    assert_eq!(other.len(), BUFFER_LEN);
    assert_eq!(queue.bytes(), 19_700 + OVERHEAD);
    let mut buf = Vec::new();
    let taken = queue.take(64, &mut buf).unwrap();
    assert_eq!(taken, Taken { to: to(1), len: 19_700, segment: 1231 });
    assert_eq!(buf.as_ptr(), place);
    for datagram in buf[..taken.len].chunks(1231) {
        assert_eq!(datagram[0], 9);
        assert!(datagram[1..].iter().all(|byte| *byte == 3));
    }
    assert_eq!(queue.bytes(), 0);
    // The next take gives it back, the next push hands it out.
    push_owned(&mut queue, 1, (20_000, 1000)).unwrap();
    queue.take(64, &mut buf).unwrap();
    let (_, again) = push_owned(&mut queue, 1, (20_000, 1000)).unwrap();
    assert_eq!(again.as_ptr(), place);
}

#[test]
fn a_buffer_is_sent_in_parts_where_the_system_sends_less_at_once() {
    let mut queue = Queue::default();
    push_owned(&mut queue, 1, (20_500, 1000)).unwrap();
    let mut buf = Vec::new();
    let parts: Vec<_> = core::iter::from_fn(|| queue.take(8, &mut buf).map(|taken| taken.len)).collect();
    assert_eq!(parts, [8000, 8000, 4500]);
    assert_eq!((queue.bytes(), queue.active), (0, 0));
}

#[test]
fn buffers_are_copied_if_they_hold_little_or_much_waits() {
    let mut queue = Queue::default();
    for refused in [(MIN_OWNED - 1, 1000), (MAX_BATCH + 1, 1100), (20_000, 300)] {
        assert!(push_owned(&mut queue, 1, refused).is_none(), "{refused:?}");
    }
    let mut of_pair = 0;
    while push_owned(&mut queue, 1, (MAX_BATCH, 1200)).is_some() {
        of_pair += 1;
    }
    assert_eq!(of_pair, MAX_BYTES_OF_PAIR / (MAX_BATCH + OVERHEAD));
    let mut pair = 1;
    while push_owned(&mut queue, pair + 1, (MIN_OWNED, 1000)).is_some() {
        pair += 1;
    }
    assert!(queue.bytes() <= MAX_OWNED && queue.bytes() + MIN_OWNED + OVERHEAD > MAX_OWNED);
}

#[test]
fn buffers_that_nothing_needs_are_freed() {
    let mut queue = Queue::default();
    let mut buf = Vec::new();
    let burst = |queue: &mut Queue, pairs: u32, buf: &mut Vec<u8>| {
        for pair in 0..pairs {
            push_owned(queue, pair, (20_000, 1000)).unwrap();
        }
        while queue.take(64, buf).is_some() {}
    };
    burst(&mut queue, 401, &mut buf);
    // One is on its way.
    assert_eq!(queue.whole.len(), 400);
    queue.sweep();
    let mut left = Vec::new();
    for _ in 0..3 {
        burst(&mut queue, 200, &mut buf);
        queue.sweep();
        left.push(queue.whole.len());
    }
    assert_eq!(left, [300, 250, 225]);
    for _ in 0..8 {
        queue.sweep();
    }
    assert_eq!(queue.whole.len(), 0);
}
