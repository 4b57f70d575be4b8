//! Carries out plans: up to three attempts, each with a bounded number of pings at a bounded rate.

use core::time::Duration;

use super::{NatBehaviour, Plan, Role, plan::SCATTERED};
use crate::{crypto::entropy::Entropy, time::Instant};

/// Attempts, and the time between the begins of two.
const ATTEMPTS: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(1500);
/// Pings at once, and the time between two such bursts: the routers of both ends make a mapping for each.
const BURST: u32 = 8;
const BETWEEN_BURSTS: Duration = Duration::from_millis(10);
/// Pings of all attempts.
const BUDGET: u32 = ATTEMPTS * SCATTERED;

/// What is to be done now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attempt {
    /// Ports on the peer's external address that a ping goes to.
    pub ports: Vec<u16>,
    /// Sockets to be opened for a moment, each of which pings the peer's known endpoint.
    pub sockets: u32,
}

/// The tries to reach one peer, from the moment that both behaviours are known.
#[derive(Clone, Debug)]
pub struct Probing {
    role: Role,
    plan: Plan,
    /// Attempts that began.
    attempts: u32,
    /// The next ping of this attempt.
    index: u32,
    /// Ports of a sweep that an earlier attempt used up, and the port that it began with.
    skipped: u32,
    swept_from: u16,
    sent: u32,
    /// When the next attempt begins.
    next_attempt: Instant,
    /// When there is something to do.
    due: Option<Instant>,
}

impl Probing {
    /// The first attempt begins at once.
    pub fn new(now: Instant, role: Role) -> Self {
        Self {
            role,
            plan: Plan::Ordinary,
            attempts: 0,
            index: 0,
            skipped: 0,
            swept_from: 0,
            sent: 0,
            next_attempt: now,
            due: Some(now),
        }
    }

    /// When [`Self::handle_timeout`] has something to do; `None` when all attempts are over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// What is due. Each attempt goes by the newest behaviours.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        ours: &NatBehaviour,
        theirs: &NatBehaviour,
        entropy: &mut Entropy,
    ) -> Attempt {
        let mut attempt = Attempt::default();
        if self.due.is_none_or(|due| now < due) {
            return attempt;
        }
        if now >= self.next_attempt && self.attempts < ATTEMPTS {
            self.begin(now, Plan::choose(ours, theirs, self.role, entropy));
            if let Plan::OpenSockets { count } = self.plan {
                attempt.sockets = count;
            }
        }
        while attempt.ports.len() < BURST as usize
            && self.sent < BUDGET
            && let Some(port) = self.plan.port(self.index, self.skipped)
        {
            attempt.ports.push(port);
            self.index += 1;
            self.sent += 1;
        }
        self.due = self.next_due(now);
        attempt
    }

    fn begin(&mut self, now: Instant, plan: Plan) {
        let is_same_begin = matches!(plan, Plan::Sweep { port, .. } if port == self.swept_from);
        // The peer told no newer port: its pings have used up as many as ours.
        self.skipped = if is_same_begin { self.skipped + self.plan.len() } else { 0 };
        if let Plan::Sweep { port, .. } = plan {
            self.swept_from = port;
        }
        self.plan = plan;
        self.index = 0;
        self.attempts += 1;
        self.next_attempt = now + INTERVAL;
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.index < self.plan.len() && self.sent < BUDGET {
            return Some(now + BETWEEN_BURSTS);
        }
        (self.attempts < ATTEMPTS).then_some(self.next_attempt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Allocation, Mapping},
        *,
    };

    fn dependent(allocation: Allocation) -> NatBehaviour {
        NatBehaviour {
            mapping: Mapping::AddressAndPortDependent,
            allocation,
            next_port: 5000,
            opens_sockets: true,
        }
    }

    /// Every ping with its time in milliseconds, until all is over.
    fn run(probing: &mut Probing, ours: &NatBehaviour, theirs: &NatBehaviour) -> Vec<(u64, u16)> {
        let mut entropy = Entropy::new(&[3; 32]);
        let mut pings = Vec::new();
        while let Some(now) = probing.poll_timeout() {
            let attempt = probing.handle_timeout(now, ours, theirs, &mut entropy);
            pings.extend(attempt.ports.iter().map(|port| (now.as_nanos() / 1_000_000, *port)));
        }
        pings
    }

    #[test]
    fn three_attempts_at_a_bounded_rate_and_no_more() {
        let one = NatBehaviour { mapping: Mapping::EndpointIndependent, ..NatBehaviour::default() };
        let theirs = dependent(Allocation::Random);
        let mut probing = Probing::new(Instant::ZERO, Role::First);
        let pings = run(&mut probing, &one, &theirs);
        assert_eq!(pings.len(), BUDGET as usize);
        for begin in [0, 1500, 3000] {
            let of_attempt = pings.iter().filter(|(at, _)| (begin..begin + 1500).contains(at)).count();
            assert_eq!(of_attempt, SCATTERED as usize);
        }
        for window in pings.windows(BURST as usize + 1) {
            assert!(window[BURST as usize].0 > window[0].0, "{window:?}");
        }
        assert!(pings.iter().all(|(at, _)| *at < 3500), "all is over soon");
    }

    #[test]
    fn a_second_sweep_goes_on_where_the_first_one_ended_unless_a_newer_port_is_told() {
        let ours = dependent(Allocation::Sequential(1));
        let mut theirs = ours;
        let mut probing = Probing::new(Instant::ZERO, Role::First);
        let mut entropy = Entropy::new(&[3; 32]);
        let mut first_ports = Vec::new();
        let mut attempts = 0;
        while let Some(now) = probing.poll_timeout() {
            let attempt = probing.handle_timeout(now, &ours, &theirs, &mut entropy);
            if probing.attempts > attempts {
                attempts = probing.attempts;
                first_ports.push(attempt.ports[0]);
                theirs.next_port = if attempts == 2 { 7000 } else { 5000 };
            }
        }
        assert_eq!(first_ports, [5000, 5096, 7000]);
    }

    #[test]
    fn sockets_are_opened_once_an_attempt() {
        let ours = dependent(Allocation::Random);
        let theirs = NatBehaviour { mapping: Mapping::EndpointIndependent, ..NatBehaviour::default() };
        let mut probing = Probing::new(Instant::ZERO, Role::Second);
        let mut entropy = Entropy::new(&[3; 32]);
        let mut opened = Vec::new();
        while let Some(now) = probing.poll_timeout() {
            let attempt = probing.handle_timeout(now, &ours, &theirs, &mut entropy);
            assert!(attempt.ports.is_empty());
            opened.push((now.as_nanos() / 1_000_000, attempt.sockets));
        }
        assert_eq!(opened, [(0, 64), (1500, 64), (3000, 64)]);
    }

    proptest! {
        /// Whatever a peer says, and however often it changes its mind.
        #[test]
        fn the_budget_holds(said in proptest::collection::vec(any::<[u8; 5]>(), 1..40), own in any::<[u8; 5]>()) {
            let ours = NatBehaviour::parse(&own).unwrap();
            let mut probing = Probing::new(Instant::ZERO, Role::First);
            let mut entropy = Entropy::new(&[3; 32]);
            let (mut sent, mut turns, mut sockets) = (0, 0, 0);
            while let Some(now) = probing.poll_timeout() {
                let theirs = NatBehaviour::parse(&said[turns % said.len()]).unwrap();
                let attempt = probing.handle_timeout(now, &ours, &theirs, &mut entropy);
                prop_assert!(attempt.ports.len() <= BURST as usize);
                prop_assert!(attempt.ports.iter().all(|port| *port >= super::super::FIRST_PORT));
                sent += attempt.ports.len();
                sockets += attempt.sockets;
                turns += 1;
            }
            prop_assert!(sent <= BUDGET as usize && sockets <= 3 * 64);
            prop_assert!(turns <= 300);
        }
    }
}
