//! Where our datagrams come from, as beacons see it
//! (`docs/reference/protocol/beacon.md#how-a-node-learns-its-endpoint`).
//!
//! A reply carries nothing of its question, so whoever can write a beacon's address as a source can answer
//! for it. A reply counts only while a question to that beacon is open. The first address is believed at
//! once. A known address is replaced only if several questions in a row, asked at unpredictable times,
//! were all answered with the same new address, and no other reply to them came.

use core::{net::SocketAddr, time::Duration};

use super::{Event, Node, Timed, trace::count_drop};
use crate::{crypto::entropy::Entropy, time::Instant, tunnel::Peer, wire::beacon::Message};

/// How long a question stays open for a reply, and for a second one that contradicts it.
const OPEN: Duration = Duration::from_secs(2);
/// A question without a reply is repeated after this, which doubles up to the usual interval.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Consecutive replies needed to replace a known address.
const AGREEMENT: u32 = 3;
/// The least time from one question to the next that confirms its reply, in which the true reply comes if
/// the first was not, and what is added at random.
const CONFIRM_AFTER: Duration = Duration::from_millis(400);
const CONFIRM_JITTER_MS: u32 = 200;
/// Peers heard within this are told of a new address of ours.
const RECENT: Duration = Duration::from_secs(120);
/// Least interval between changes of the known address.
const MOVE_INTERVAL: Duration = Duration::from_secs(5);

/// A question to one beacon.
#[derive(Clone, Copy, Debug)]
struct Question {
    until: Instant,
    reply: Option<SocketAddr>,
}

/// One beacon.
#[derive(Debug)]
struct Beacon {
    address: SocketAddr,
    question: Option<Question>,
    ask_at: Instant,
    retry: Duration,
    /// Another address than the known one, and how many replies in a row named it.
    proposal: Option<(SocketAddr, u32)>,
}

/// Effect of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worth {
    /// Nobody asked.
    Unasked,
    /// Nothing is known by it.
    Nothing,
    /// That is where our datagrams come from.
    News,
    /// And before they came from elsewhere.
    Moved,
}

/// What is known of our endpoint.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    beacons: Vec<Beacon>,
    known: Option<SocketAddr>,
    /// Whether the application was told since the beacons were named.
    is_told: bool,
    moved_at: Option<Instant>,
}

impl Discovery {
    /// Names the beacons; all are asked anew, but one whose reply is being confirmed.
    fn set_beacons(&mut self, now: Instant, beacons: Vec<SocketAddr>) {
        let mut known = core::mem::take(&mut self.beacons);
        for address in beacons {
            let same = known.iter().position(|beacon| beacon.address == address && beacon.proposal.is_some());
            self.beacons.push(same.map_or_else(
                || Beacon { address, question: None, ask_at: now, retry: FIRST_RETRY, proposal: None },
                |at| known.swap_remove(at),
            ));
        }
        self.is_told = false;
    }

    /// Our datagrams come from an address that is not known yet.
    fn forget_endpoint(&mut self) {
        self.known = None;
        self.is_told = false;
        for beacon in &mut self.beacons {
            beacon.question = None;
            beacon.proposal = None;
        }
    }

    /// Whether an address is one of a beacon.
    fn is_beacon(&self, address: SocketAddr) -> bool {
        self.beacons.iter().any(|beacon| beacon.address == address)
    }

    /// When the next question is due.
    fn poll_timeout(&self) -> Option<Instant> {
        self.beacons.iter().map(|beacon| beacon.ask_at).min()
    }

    /// The beacons to be asked now.
    fn handle_timeout(&mut self, now: Instant, interval: Duration) -> Vec<SocketAddr> {
        let mut asked = Vec::new();
        for beacon in self.beacons.iter_mut().filter(|beacon| beacon.ask_at <= now) {
            beacon.question = Some(Question { until: now + OPEN, reply: None });
            beacon.ask_at = now + beacon.retry.min(interval);
            beacon.retry = (beacon.retry * 2).min(interval);
            asked.push(beacon.address);
        }
        asked
    }

    fn on_reply(
        &mut self,
        now: Instant,
        interval: Duration,
        from: SocketAddr,
        endpoint: SocketAddr,
        entropy: &mut Entropy,
    ) -> Worth {
        let known = self.known;
        let jitter = Duration::from_millis(u64::from(entropy.next_u32() % CONFIRM_JITTER_MS));
        let Some(beacon) = self.beacons.iter_mut().find(|beacon| beacon.address == from) else {
            return Worth::Unasked;
        };
        let Some(question) = beacon.question.as_mut().filter(|question| now < question.until) else {
            return Worth::Unasked;
        };
        if let Some(reply) = question.reply {
            if reply != endpoint {
                // One of the two is not the beacon's.
                beacon.question = None;
                beacon.proposal = None;
                beacon.ask_at = beacon.ask_at.min(now + CONFIRM_AFTER + jitter);
            }
            return Worth::Unasked;
        }
        question.reply = Some(endpoint);
        beacon.ask_at = now + interval;
        beacon.retry = FIRST_RETRY;
        if known.is_none_or(|known| known == endpoint) {
            self.known = Some(endpoint);
            for beacon in &mut self.beacons {
                beacon.proposal = None;
            }
            return if core::mem::replace(&mut self.is_told, true) { Worth::Nothing } else { Worth::News };
        }
        let agreed = match beacon.proposal {
            Some((proposed, agreed)) if proposed == endpoint => agreed + 1,
            _ => 1,
        };
        beacon.proposal = Some((endpoint, agreed));
        let is_early = self.moved_at.is_some_and(|at| now < at + MOVE_INTERVAL);
        if agreed < AGREEMENT || is_early {
            let wait = if agreed < AGREEMENT { CONFIRM_AFTER } else { MOVE_INTERVAL };
            beacon.ask_at = now + (wait + jitter).min(interval);
            return Worth::Nothing;
        }
        beacon.proposal = None;
        self.known = Some(endpoint);
        self.moved_at = Some(now);
        self.is_told = true;
        Worth::Moved
    }
}

impl Node {
    /// Names our beacons and asks them where our datagrams come from, now and at intervals.
    pub fn set_beacons(&mut self, now: Instant, beacons: Vec<SocketAddr>) {
        self.recorder.now = now;
        self.discovery.set_beacons(now, beacons);
        self.discover(now);
    }

    /// Asks the beacons that are due.
    pub(super) fn discover(&mut self, now: Instant) {
        for beacon in self.discovery.handle_timeout(now, self.config.beacon_interval) {
            let message = Message::Discover {
                node: self.address.node,
                identity_key: Some(self.identity.public_key()),
                is_extended: false,
            };
            let mut bytes = Vec::new();
            message.emit(&mut bytes);
            self.outbox.push_back((beacon, bytes));
        }
        self.arm_discovery();
    }

    fn arm_discovery(&mut self) {
        let Some(at) = self.discovery.poll_timeout() else { return };
        if self.beacon_armed.is_none_or(|armed| at < armed) {
            self.beacon_armed = Some(at);
            self.arm(at, Timed::Beacon(at));
        }
    }

    pub(super) fn on_beacon_timeout(&mut self, now: Instant, at: Instant) {
        if self.beacon_armed == Some(at) {
            self.beacon_armed = None;
            self.discover(now);
        }
    }

    pub(super) fn on_beacon(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if !self.discovery.is_beacon(from) {
            count_drop!(self, dropped_beacon);
            return;
        }
        let endpoint = match Message::parse(bytes) {
            Ok(Message::DiscoverReply(endpoint)) if is_usable(endpoint) => endpoint,
            Ok(_) => {
                count_drop!(self, dropped_beacon);
                return;
            }
            Err(_) => {
                count_drop!(self, dropped_malformed);
                return;
            }
        };
        let interval = self.config.beacon_interval;
        match self.discovery.on_reply(now, interval, from, endpoint, &mut self.entropy) {
            Worth::Unasked => count_drop!(self, dropped_beacon),
            Worth::Nothing => {}
            Worth::News => self.events.push_back(Event::EndpointDiscovered(endpoint)),
            Worth::Moved => self.on_own_move(now, endpoint),
        }
        self.arm_discovery();
    }

    /// Our datagrams come from elsewhere: tells the application, and peers by a frame, which shows them.
    fn on_own_move(&mut self, now: Instant, endpoint: SocketAddr) {
        self.events.push_back(Event::EndpointDiscovered(endpoint));
        self.show_peers(now);
    }

    /// This host's own address changed. What beacons said before says nothing any more, so the next reply
    /// is believed at once; peers are shown where we are without waiting for it.
    pub fn on_own_address(&mut self, now: Instant) {
        self.recorder.now = now;
        self.discovery.forget_endpoint();
        self.show_peers(now);
    }

    fn show_peers(&mut self, now: Instant) {
        let is_in_use = |peer: &Peer| peer.is_active() || !peer.is_silent(now, RECENT);
        let ids: Vec<_> = self.peers.iter().filter(|(_, peer)| is_in_use(peer)).map(|(id, _)| *id).collect();
        for id in ids {
            self.with_peer(id, |peer, local, out| peer.show(now, local, out));
        }
    }
}

/// Whether peers could send to an endpoint at all.
fn is_usable(endpoint: SocketAddr) -> bool {
    endpoint.port() != 0 && !endpoint.ip().is_unspecified() && !endpoint.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    struct Scene {
        now: Instant,
        discovery: Discovery,
        entropy: Entropy,
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    const BEACONS: [u16; 2] = [1, 2];

    impl Scene {
        fn new(beacons: usize) -> Self {
            let mut scene = Self {
                now: Instant::from_millis(1),
                discovery: Discovery::default(),
                entropy: Entropy::new(&[1; 32]),
            };
            let beacons = BEACONS[..beacons].iter().map(|port| at(*port)).collect();
            scene.discovery.set_beacons(scene.now, beacons);
            scene
        }

        fn reply(&mut self, from: u16, endpoint: u16) -> Worth {
            self.discovery.on_reply(self.now, INTERVAL, at(from), at(endpoint), &mut self.entropy)
        }

        /// Goes to the next question and says how many beacons are asked.
        fn ask(&mut self) -> usize {
            self.now = self.now.max(self.discovery.poll_timeout().unwrap());
            self.discovery.handle_timeout(self.now, INTERVAL).len()
        }

        /// A known endpoint, with no question open.
        fn settled(beacons: usize) -> Self {
            let mut scene = Self::new(beacons);
            scene.ask();
            for (n, beacon) in BEACONS[..beacons].iter().enumerate() {
                assert_eq!(scene.reply(*beacon, 4000), if n == 0 { Worth::News } else { Worth::Nothing });
            }
            scene.now += OPEN;
            scene
        }
    }

    #[test]
    fn only_an_open_question_is_answered_and_once() {
        let mut scene = Scene::new(1);
        assert_eq!(scene.reply(1, 4000), Worth::Unasked, "nobody asked yet");
        scene.ask();
        assert_eq!(scene.reply(3, 4000), Worth::Unasked, "nobody asked that one");
        assert_eq!(scene.reply(1, 4000), Worth::News);
        assert_eq!(scene.reply(1, 4000), Worth::Unasked);
        let mut scene = Scene::settled(1);
        for port in 5000..8000 {
            assert_eq!(scene.reply(1, port), Worth::Unasked);
        }
        assert_eq!(scene.discovery.poll_timeout(), Some(Instant::from_millis(1) + INTERVAL));
    }

    #[test]
    fn a_new_address_needs_agreement_and_takes_little_more_than_a_second() {
        let mut scene = Scene::settled(1);
        scene.ask();
        let begin = scene.now;
        for _ in 1..AGREEMENT {
            assert_eq!(scene.reply(1, 4001), Worth::Nothing);
            assert_eq!(scene.ask(), 1);
        }
        assert_eq!(scene.reply(1, 4001), Worth::Moved);
        assert!(scene.now.saturating_since(begin) < Duration::from_millis(1200));
        // Not again at once.
        scene.now += OPEN;
        scene.ask();
        while scene.reply(1, 4002) != Worth::Moved {
            scene.ask();
        }
        assert!(scene.now.saturating_since(begin) >= MOVE_INTERVAL);
    }

    #[test]
    fn naming_the_beacons_again_interrupts_no_agreement() {
        let mut scene = Scene::settled(1);
        let mut asked = 0;
        scene.ask();
        while scene.reply(1, 4001) != Worth::Moved {
            for _ in 0..9 {
                scene.discovery.set_beacons(scene.now, vec![at(1)]);
            }
            asked += scene.ask();
            assert!(asked < 9);
        }
    }

    #[test]
    fn a_reply_that_races_the_true_one_moves_nothing() {
        let mut scene = Scene::settled(1);
        for n in 0..100 {
            scene.ask();
            // Before the true one or after it.
            let ports = if n % 3 > 0 { [6666, 4000] } else { [4000, 6666] };
            for port in ports {
                assert_ne!(scene.reply(1, port), Worth::Moved, "{n}");
            }
        }
        assert_eq!(scene.discovery.known, Some(at(4000)));
    }

    /// The true replies take 900 ms, those of somebody nearer no time.
    #[test]
    fn a_slow_beacon_is_waited_for() {
        let mut scene = Scene::settled(1);
        let mut on_their_way = std::collections::VecDeque::new();
        for n in 0..200 {
            let next = scene.discovery.poll_timeout().unwrap();
            while on_their_way.front().is_some_and(|arrival| *arrival <= next) {
                scene.now = on_their_way.pop_front().unwrap();
                assert_ne!(scene.reply(1, 4000), Worth::Moved, "{n}");
            }
            scene.ask();
            on_their_way.push_back(scene.now + Duration::from_millis(900));
            assert_ne!(scene.reply(1, 6666), Worth::Moved, "{n}");
        }
        assert_eq!(scene.discovery.known, Some(at(4000)));
    }

    /// If the first reply was not the beacon's, that is mended as soon as nobody answers in its place.
    #[test]
    fn a_false_start_does_not_last() {
        let mut scene = Scene::new(1);
        scene.ask();
        assert_eq!(scene.reply(1, 6666), Worth::News);
        let begin = scene.now;
        scene.reply(1, 4000);
        while scene.discovery.known != Some(at(4000)) {
            scene.ask();
            scene.reply(1, 4000);
        }
        assert!(scene.now.saturating_since(begin) < Duration::from_secs(2));
    }

    #[test]
    fn one_beacon_that_sees_no_change_outweighs_another() {
        let mut scene = Scene::settled(2);
        for _ in 0..20 {
            scene.ask();
            assert_ne!(scene.reply(1, 6666), Worth::Moved);
            assert_ne!(scene.reply(2, 4000), Worth::Moved);
            scene.now += INTERVAL;
        }
        assert_eq!(scene.discovery.known, Some(at(4000)));
    }

    #[test]
    fn a_beacon_that_comes_late_is_asked_soon_and_then_less_and_less() {
        let mut scene = Scene::new(1);
        scene.ask();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let before = scene.now;
            scene.ask();
            waits.push(scene.now.saturating_since(before).as_millis());
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(scene.reply(1, 4000), Worth::News);
    }

    #[test]
    fn an_address_that_nobody_can_send_to_is_none() {
        for (text, expected) in
            [("192.0.2.1:1", true), ("192.0.2.1:0", false), ("0.0.0.0:1", false), ("[::]:1", false)]
        {
            assert_eq!(is_usable(text.parse().unwrap()), expected, "{text}");
        }
    }
}
