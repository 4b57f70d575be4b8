//! Carries out plans: up to three attempts, each with a bounded number of pings at a bounded rate.
//!
//! Ports of a sequential NAT are used up by the pings themselves, so both ends must begin an attempt at the
//! same time and from what they know of each other just before. The first end leads: it asks, the second
//! begins when it is asked and says so, and the first begins when it is told. Pings of one end alone would use
//! up the mappings to the ports that it expects, for later attempts as well.

use core::time::Duration;

use super::{NatBehaviour, Plan, Role, plan::SCATTERED};
use crate::{crypto::entropy::Entropy, time::Instant};

/// Attempts, and the time between the begins of two.
const ATTEMPTS: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(1500);
/// Pings at once, and the time between two such bursts: the routers of both ends make a mapping for each.
const BURST: usize = 8;
const BETWEEN_BURSTS: Duration = Duration::from_millis(10);
/// Pings of all attempts.
const BUDGET: u32 = ATTEMPTS * SCATTERED;

/// The tries to reach one peer, from the moment that both behaviours are known.
#[derive(Clone, Debug)]
pub struct Probing {
    role: Role,
    plan: Plan,
    /// Attempts that were asked for.
    attempts: u32,
    /// The answer to the last one is outstanding.
    is_asked: bool,
    /// The next ping of this attempt.
    index: u32,
    sent: u32,
    /// When the next attempt is asked for.
    next_attempt: Instant,
    /// When there is something to do.
    due: Option<Instant>,
}

impl Probing {
    /// The first end asks at once.
    pub fn new(now: Instant, role: Role) -> Self {
        Self {
            role,
            plan: Plan::Ordinary,
            attempts: 0,
            is_asked: false,
            index: 0,
            sent: 0,
            next_attempt: now,
            due: (role == Role::First).then_some(now),
        }
    }

    /// When [`Self::ask`] and [`Self::handle_timeout`] have something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the peer is to be asked for an attempt now.
    pub fn ask(&mut self, now: Instant) -> bool {
        let asks = self.role == Role::First && self.attempts < ATTEMPTS && now >= self.next_attempt;
        if asks {
            self.attempts += 1;
            self.is_asked = true;
            self.next_attempt = now + INTERVAL;
            self.due = self.next_due(now);
        }
        asks
    }

    /// The peer said what its NAT does. Begins an attempt if it asks for one, or answers that it begins.
    /// Returns then how many sockets are to be opened for a moment, each of which pings the peer's known
    /// endpoint. The second end must tell the first one that it begins.
    pub fn on_told(
        &mut self,
        now: Instant,
        ours: &NatBehaviour,
        theirs: &NatBehaviour,
        entropy: &mut Entropy,
    ) -> Option<u32> {
        let may_begin = match self.role {
            Role::First => self.is_asked,
            Role::Second => self.attempts < ATTEMPTS,
        };
        if !(may_begin && theirs.begins) {
            return None;
        }
        self.is_asked = false;
        self.attempts += u32::from(self.role == Role::Second);
        self.plan = Plan::choose(ours, theirs, self.role, entropy);
        self.index = 0;
        self.due = Some(now);
        Some(if let Plan::OpenSockets { count } = self.plan { count } else { 0 })
    }

    /// Ports on the peer's external address that a ping goes to now.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<u16> {
        let mut ports = Vec::new();
        if self.due.is_none_or(|due| now < due) {
            return ports;
        }
        while ports.len() < BURST
            && self.sent < BUDGET
            && let Some(port) = self.plan.port(self.index)
        {
            ports.push(port);
            self.index += 1;
            self.sent += 1;
        }
        self.due = self.next_due(now);
        ports
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.index < self.plan.len() && self.sent < BUDGET {
            return Some(now + BETWEEN_BURSTS);
        }
        (self.role == Role::First && self.attempts < ATTEMPTS).then_some(self.next_attempt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Allocation, Mapping},
        *,
    };

    const ONE: NatBehaviour = NatBehaviour {
        mapping: Mapping::EndpointIndependent,
        allocation: Allocation::Unknown,
        next_port: 0,
        opens_sockets: true,
        begins: false,
    };
    const RANDOM: NatBehaviour = NatBehaviour {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Random,
        next_port: 0,
        opens_sockets: true,
        begins: false,
    };

    /// Every ping of the first end with its time in milliseconds, and the sockets, until all is over; the
    /// peer answers at once.
    fn run(ours: &NatBehaviour, theirs: &NatBehaviour) -> (Vec<(u64, u16)>, Vec<u32>) {
        let mut probing = Probing::new(Instant::ZERO, Role::First);
        let mut entropy = Entropy::new(&[3; 32]);
        let (mut pings, mut sockets) = (Vec::new(), Vec::new());
        while let Some(now) = probing.poll_timeout() {
            if probing.ask(now) {
                let theirs = NatBehaviour { begins: true, ..*theirs };
                sockets.extend(probing.on_told(now, ours, &theirs, &mut entropy));
            }
            let ports = probing.handle_timeout(now);
            pings.extend(ports.iter().map(|port| (now.as_nanos() / 1_000_000, *port)));
        }
        (pings, sockets)
    }

    #[test]
    fn three_attempts_at_a_bounded_rate_and_no_more() {
        let (pings, _) = run(&ONE, &RANDOM);
        assert_eq!(pings.len(), BUDGET as usize);
        for begin in [0, 1500, 3000] {
            let of_attempt = pings.iter().filter(|(at, _)| (begin..begin + 1500).contains(at)).count();
            assert_eq!(of_attempt, SCATTERED as usize);
        }
        for window in pings.windows(BURST + 1) {
            assert!(window[BURST].0 > window[0].0, "{window:?}");
        }
        assert!(pings.iter().all(|(at, _)| *at < 3500), "all is over soon");
    }

    #[test]
    fn sockets_are_opened_once_an_attempt() {
        let (pings, sockets) = run(&RANDOM, &ONE);
        assert!(pings.is_empty());
        assert_eq!(sockets, [64, 64, 64]);
    }

    #[test]
    fn the_second_end_begins_when_it_is_asked_and_three_times_at_most() {
        let mut probing = Probing::new(Instant::ZERO, Role::Second);
        let mut entropy = Entropy::new(&[3; 32]);
        assert_eq!(probing.poll_timeout(), None);
        assert!(!probing.ask(Instant::ZERO));
        probing.on_told(Instant::ZERO, &ONE, &RANDOM, &mut entropy);
        assert_eq!(probing.poll_timeout(), None, "it was not asked");
        let asking = NatBehaviour { begins: true, ..RANDOM };
        let mut sent = 0;
        for _ in 0..9 {
            probing.on_told(Instant::ZERO, &ONE, &asking, &mut entropy);
            while let Some(now) = probing.poll_timeout() {
                sent += probing.handle_timeout(now).len();
            }
        }
        assert_eq!(sent, BUDGET as usize);
    }

    #[test]
    fn the_first_end_waits_for_the_answer() {
        let mut probing = Probing::new(Instant::ZERO, Role::First);
        let mut entropy = Entropy::new(&[3; 32]);
        assert!(probing.ask(Instant::ZERO) && !probing.ask(Instant::ZERO));
        assert!(probing.handle_timeout(Instant::ZERO + INTERVAL).is_empty());
        let begins = NatBehaviour { begins: true, ..RANDOM };
        assert_eq!(probing.on_told(Instant::ZERO + INTERVAL, &ONE, &RANDOM, &mut entropy), None, "no answer");
        assert!(probing.on_told(Instant::ZERO + INTERVAL, &ONE, &begins, &mut entropy).is_some());
        assert_eq!(probing.handle_timeout(Instant::ZERO + INTERVAL).len(), BURST);
        let again = probing.on_told(Instant::ZERO + INTERVAL, &ONE, &begins, &mut entropy);
        assert_eq!(again, None, "one answer for a question");
    }

    proptest! {
        /// Whatever a peer says, and however often it changes its mind.
        #[test]
        fn the_budget_holds(said in proptest::collection::vec(any::<[u8; 5]>(), 1..40), own in any::<[u8; 5]>(), is_first in any::<bool>()) {
            let ours = NatBehaviour::parse(&own).unwrap();
            let mut probing = Probing::new(Instant::ZERO, if is_first { Role::First } else { Role::Second });
            let mut entropy = Entropy::new(&[3; 32]);
            let (mut sent, mut sockets, mut now) = (0, 0, Instant::ZERO);
            for told in said {
                for _ in 0..20 {
                    now = probing.poll_timeout().map_or(now, |due| due.max(now));
                    probing.ask(now);
                    let ports = probing.handle_timeout(now);
                    prop_assert!(ports.len() <= BURST);
                    prop_assert!(ports.iter().all(|port| *port >= super::super::FIRST_PORT));
                    sent += ports.len();
                }
                let theirs = NatBehaviour::parse(&told).unwrap();
                sockets += probing.on_told(now, &ours, &theirs, &mut entropy).unwrap_or(0);
            }
            prop_assert!(sent <= BUDGET as usize && sockets <= 3 * 64);
        }
    }
}
