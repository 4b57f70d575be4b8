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
