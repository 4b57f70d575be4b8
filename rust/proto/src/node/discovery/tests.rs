//! The decisions of discovery, without a node.

use super::*;

const INTERVAL: Duration = Duration::from_secs(30);

struct Fixture {
    now: Instant,
    discovery: Discovery,
    entropy: Entropy,
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

const BEACONS: [u16; 2] = [1, 2];

impl Fixture {
    fn new(beacons: usize) -> Self {
        let mut fixture = Self {
            now: Instant::from_millis(1),
            discovery: Discovery::default(),
            entropy: Entropy::new(&[1; 32]),
        };
        let beacons = BEACONS[..beacons].iter().map(|port| at(*port)).collect();
        fixture.discovery.set_beacons(fixture.now, beacons);
        fixture
    }

    fn reply(&mut self, from: u16, endpoint: u16) -> Outcome {
        self.discovery.on_reply(self.now, INTERVAL, at(from), at(endpoint), &mut self.entropy)
    }

    /// Advances to the next request and returns how many beacons are asked.
    fn ask(&mut self) -> usize {
        self.now = self.now.max(self.discovery.poll_timeout().unwrap());
        self.discovery.handle_timeout(self.now, INTERVAL).len()
    }

    /// A known endpoint and no open request.
    fn settled(beacons: usize) -> Self {
        let mut fixture = Self::new(beacons);
        fixture.ask();
        for (n, beacon) in BEACONS[..beacons].iter().enumerate() {
            assert_eq!(
                fixture.reply(*beacon, 4000),
                if n == 0 { Outcome::Learned } else { Outcome::Unchanged }
            );
        }
        fixture.now += REQUEST_TIMEOUT;
        fixture
    }
}

#[test]
fn a_proof_has_one_more_reply() {
    let mut fixture = Fixture::new(1);
    fixture.ask();
    assert_eq!(fixture.reply(1, 4000), Outcome::Learned);
    let now = fixture.now;
    assert!(fixture.discovery.start_proof(now, at(1)) && !fixture.discovery.start_proof(now, at(1)));
    assert_eq!(fixture.discovery.poll_timeout(), Some(now + REQUEST_TIMEOUT), "one of the two may be lost");
    assert_eq!(fixture.reply(1, 4000), Outcome::Unchanged);
    assert_eq!(fixture.discovery.poll_timeout(), Some(now + INTERVAL));
    assert_eq!(fixture.reply(1, 4000), Outcome::Unsolicited);
}

#[test]
fn one_reply_per_open_request_is_accepted() {
    let mut fixture = Fixture::new(1);
    assert_eq!(fixture.reply(1, 4000), Outcome::Unsolicited, "no request yet");
    fixture.ask();
    assert_eq!(fixture.reply(3, 4000), Outcome::Unsolicited, "not asked");
    assert_eq!(fixture.reply(1, 4000), Outcome::Learned);
    assert_eq!(fixture.reply(1, 4000), Outcome::Unsolicited);
    let mut fixture = Fixture::settled(1);
    for port in 5000..8000 {
        assert_eq!(fixture.reply(1, port), Outcome::Unsolicited);
    }
    assert_eq!(fixture.discovery.poll_timeout(), Some(Instant::from_millis(1) + INTERVAL));
}

#[test]
fn a_new_address_is_confirmed_within_1200_ms() {
    let mut fixture = Fixture::settled(1);
    fixture.ask();
    let begin = fixture.now;
    for _ in 1..CONFIRMATIONS {
        assert_eq!(fixture.reply(1, 4001), Outcome::Unchanged);
        assert_eq!(fixture.ask(), 1);
    }
    assert_eq!(fixture.reply(1, 4001), Outcome::Moved);
    assert!(fixture.now.saturating_since(begin) < Duration::from_millis(1200));
    // The next change has to wait.
    fixture.now += REQUEST_TIMEOUT;
    fixture.ask();
    while fixture.reply(1, 4002) != Outcome::Moved {
        fixture.ask();
    }
    assert!(fixture.now.saturating_since(begin) >= MOVE_INTERVAL);
}

#[test]
fn setting_the_beacons_again_keeps_a_confirmation_going() {
    let mut fixture = Fixture::settled(1);
    let mut asked = 0;
    fixture.ask();
    while fixture.reply(1, 4001) != Outcome::Moved {
        for _ in 0..9 {
            fixture.discovery.set_beacons(fixture.now, vec![at(1)]);
        }
        asked += fixture.ask();
        assert!(asked < 9);
    }
}

/// Behind a NAT that maps each beacon to another port, the node has not moved whenever another one answers.
#[test]
fn beacons_that_always_see_different_addresses_do_not_contradict_each_other() {
    let mut fixture = Fixture::new(2);
    fixture.ask();
    assert_eq!(fixture.reply(1, 4000), Outcome::Learned);
    let mut asked = 0;
    let end = fixture.now + Duration::from_secs(300);
    let mut answer = |fixture: &mut Fixture, ports: [u16; 2]| {
        let mut moved = false;
        for (beacon, port) in BEACONS.into_iter().zip(ports) {
            moved |= fixture.reply(beacon, port) == Outcome::Moved;
        }
        asked += fixture.ask();
        moved
    };
    while fixture.now < end {
        assert!(!answer(&mut fixture, [4000, 4001]));
    }
    assert_eq!(fixture.discovery.known(), Some(at(4000)));
    // Both ports change, but the reporter's counts.
    let end = fixture.now + Duration::from_secs(60);
    let mut moves = 0;
    while fixture.now < end {
        moves += u32::from(answer(&mut fixture, [5000, 5001]));
    }
    assert_eq!((moves, fixture.discovery.known()), (1, Some(at(5000))));
    assert!(asked < 40, "{asked}");
    // When the reporter is gone, the other one is believed.
    while fixture.discovery.known() != Some(at(5001)) {
        fixture.reply(2, 5001);
        fixture.ask();
    }
    assert!(!fixture.discovery.beacons[0].is_alive);
}

/// Behind a NAT that maps each beacon to another port, the replies of one are always being confirmed.
#[test]
fn every_beacon_hears_of_another_id_at_once() {
    let mut fixture = Fixture::new(2);
    fixture.ask();
    assert_eq!(fixture.reply(1, 4000), Outcome::Learned);
    assert_eq!(fixture.reply(2, 4001), Outcome::Unchanged);
    fixture.discovery.set_beacons(fixture.now, BEACONS.map(at).to_vec());
    assert_eq!(fixture.discovery.handle_timeout(fixture.now, INTERVAL), BEACONS.map(at));
}

#[test]
fn forged_replies_that_race_the_true_one_change_nothing() {
    let mut fixture = Fixture::settled(1);
    for n in 0..100 {
        fixture.ask();
        // Before or after the true reply.
        let ports = if n % 3 > 0 { [6666, 4000] } else { [4000, 6666] };
        for port in ports {
            assert_ne!(fixture.reply(1, port), Outcome::Moved, "{n}");
        }
    }
    assert_eq!(fixture.discovery.known, Some(at(4000)));
}

/// The true replies take 900 ms; forged ones arrive at once.
#[test]
fn forged_replies_faster_than_a_slow_beacon_change_nothing() {
    let mut fixture = Fixture::settled(1);
    let mut on_their_way = std::collections::VecDeque::new();
    for n in 0..200 {
        let next = fixture.discovery.poll_timeout().unwrap();
        while on_their_way.front().is_some_and(|arrival| *arrival <= next) {
            fixture.now = on_their_way.pop_front().unwrap();
            assert_ne!(fixture.reply(1, 4000), Outcome::Moved, "{n}");
        }
        fixture.ask();
        on_their_way.push_back(fixture.now + Duration::from_millis(900));
        assert_ne!(fixture.reply(1, 6666), Outcome::Moved, "{n}");
    }
    assert_eq!(fixture.discovery.known, Some(at(4000)));
}

/// A forged first reply is corrected as soon as the forger stops.
#[test]
fn a_forged_first_reply_is_corrected() {
    let mut fixture = Fixture::new(1);
    fixture.ask();
    assert_eq!(fixture.reply(1, 6666), Outcome::Learned);
    let begin = fixture.now;
    fixture.reply(1, 4000);
    while fixture.discovery.known != Some(at(4000)) {
        fixture.ask();
        fixture.reply(1, 4000);
    }
    assert!(fixture.now.saturating_since(begin) < Duration::from_secs(2));
}

#[test]
fn a_beacon_that_confirms_the_known_address_outvotes_another() {
    let mut fixture = Fixture::settled(2);
    for _ in 0..20 {
        fixture.ask();
        assert_ne!(fixture.reply(1, 6666), Outcome::Moved);
        assert_ne!(fixture.reply(2, 4000), Outcome::Moved);
        fixture.now += INTERVAL;
    }
    assert_eq!(fixture.discovery.known, Some(at(4000)));
}

#[test]
fn an_unreachable_beacon_is_retried_with_backoff() {
    let mut fixture = Fixture::new(1);
    fixture.ask();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let before = fixture.now;
        fixture.ask();
        waits.push(fixture.now.saturating_since(before).as_millis());
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    assert_eq!(fixture.reply(1, 4000), Outcome::Learned);
}

#[test]
fn a_silent_peer_makes_us_ask_soon_but_seldom() {
    let mut fixture = Fixture::settled(1);
    let begin = fixture.now;
    fixture.discovery.ask_again_seldom(begin);
    fixture.ask();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let before = fixture.now;
        fixture.ask();
        waits.push(fixture.now.saturating_since(before).as_millis());
    }
    assert_eq!(waits, [100, 150, 225, 337, 675]);
    fixture.reply(1, 4000);
    let next = fixture.discovery.poll_timeout();
    fixture.discovery.ask_again_seldom(begin + SELDOM - Duration::from_millis(1));
    assert_eq!(fixture.discovery.poll_timeout(), next);
    fixture.discovery.ask_again_seldom(begin + SELDOM);
    assert_eq!(fixture.discovery.poll_timeout(), Some(begin + SELDOM));
}

#[test]
fn unusable_endpoints_are_rejected() {
    for (text, expected) in
        [("192.0.2.1:1", true), ("192.0.2.1:0", false), ("0.0.0.0:1", false), ("[::]:1", false)]
    {
        assert_eq!(is_usable(text.parse().unwrap()), expected, "{text}");
    }
}
