//! Connection limits: counts are released however a connection ends, and no peer uses up a limit.

use std::time::Duration;

use crate::node::{Net, closed, configured};
use pilot_proto::{
    config::NodeConfig,
    node::{ConnectionId, DialOptions, Event},
    transport::{CloseReason, State},
    wire::addr::{Address, NodeId, Port},
};

const SECOND: Duration = Duration::from_secs(1);
const PORT: Port = Port(80);

impl Net {
    fn limited(count: u32, change: impl Fn(&mut NodeConfig)) -> Self {
        let mut net = Self::new(count);
        for n in 1..=count {
            let mut config = NodeConfig::default();
            change(&mut config);
            net.replace(n, configured(n, n as u8 + 100, config));
            net.of(n).listen(PORT).unwrap();
        }
        net
    }

    pub(crate) fn dial(&mut self, from: u32, to: u32) -> ConnectionId {
        let now = self.now;
        let to = Address::backbone(NodeId(to));
        self.of(from).connect(now, to, PORT, DialOptions::default()).unwrap()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(time + 30 * SECOND, |net| (net.now >= end).then_some(()));
    }

    /// Connections of every state.
    fn slots(&mut self, n: u32) -> usize {
        self.of(n).connections().count()
    }

    /// Dials until one is refused; returns the number of open connections.
    fn fill(&mut self, from: u32, to: u32) -> usize {
        for up in 0.. {
            let id = self.dial(from, to);
            let is_up = self.event(from, |event| match event {
                Event::Connected(dialled) if *dialled == id => Some(true),
                Event::Closed(closed, reason) if *closed == id => {
                    assert_eq!(*reason, CloseReason::Refused);
                    Some(false)
                }
                _ => None,
            });
            if !is_up {
                let now = self.now;
                self.of(from).close(now, id);
                return up;
            }
        }
        0
    }
}

/// A dial cancelled before its answer: the other side receives SYN, then RST.
#[test]
fn a_connection_that_ends_before_it_is_accepted_leaves_nothing() {
    let mut net = Net::limited(2, |_| {});
    net.connect(1, 2);
    for _ in 0..50 {
        let id = net.dial(1, 2);
        let before = net.slots(2);
        net.run_until(SECOND, |net| (net.slots(2) > before).then_some(()));
        let now = net.now;
        net.of(1).abort(now, id);
        net.run_until(SECOND, |net| (net.slots(2) == 1).then_some(()));
    }
    assert_eq!((net.slots(1), net.slots(2)), (1, 1));
    assert!(!net.has_event(2, |event| matches!(event, Event::Closed(..) | Event::Accepted(_))));
    // No connection, port or memory stays counted.
    assert_eq!((net.of(2).stats().held, net.of(2).stats().send_held), (0, 0));
}

/// The dialler disappears during the handshake.
#[test]
fn a_connection_that_is_never_completed_leaves_nothing() {
    let mut net = Net::limited(2, |_| {});
    net.connect(1, 2);
    net.dial(1, 2);
    net.run_until(SECOND, |net| (net.slots(2) == 2).then_some(()));
    net.remove(1);
    net.run_until(60 * SECOND, |net| (net.slots(2) == 1).then_some(()));
    let is_left = |state: State| state == State::SynReceived;
    assert!(net.of(2).connections().all(|(_, connection)| !is_left(connection.state())));
}

#[test]
fn one_peer_gets_half_of_a_port_and_others_connect() {
    let mut net = Net::limited(4, |config| config.max_connections_per_port = 40);
    assert_eq!(net.fill(1, 4), 20);
    assert_eq!(net.fill(2, 4), 10);
    assert_eq!(net.fill(3, 4), 5);
    assert_eq!(net.of(4).stats().counters.dropped_limited, 3);
}

/// Connections reset by the peer count until the application closes them.
#[test]
fn unclosed_streams_stay_counted() {
    let mut net = Net::limited(2, |config| config.max_connections_per_port = 8);
    let mut up = Vec::new();
    for _ in 0..4 {
        let (dialled, accepted) = net.connect(1, 2);
        let now = net.now;
        net.of(1).abort(now, dialled);
        net.event(2, closed(accepted));
        up.push(accepted);
    }
    assert_eq!(net.fill(1, 2), 0);
    let now = net.now;
    for id in up {
        net.of(2).close(now, id);
    }
    assert_eq!(net.fill(1, 2), 4);
}

#[test]
fn outbound_dials_always_have_room() {
    let mut net = Net::limited(4, |config| {
        config.max_connections = 16;
        config.max_inbound_connections = 12;
    });
    for peer in 1..=3 {
        assert!(net.fill(peer, 4) > 0);
    }
    for _ in 0..4 {
        let id = net.dial(4, 1);
        net.event(4, |event| (*event == Event::Connected(id)).then_some(()));
    }
}

/// At the limit, a new peer evicts an unused connection of the peer with the most.
#[test]
fn a_new_peer_evicts_an_unused_connection() {
    let mut net = Net::limited(4, |config| config.max_connections_per_port = 3);
    let (used, accepted) = net.connect(1, 4);
    net.transfer((1, used), (4, accepted), b"in use");
    assert_eq!(net.fill(1, 4), 1);
    assert_eq!(net.fill(2, 4), 1);
    assert_eq!(net.fill(3, 4), 0, "what is young is spared");
    net.pass(4 * SECOND);
    assert_eq!(net.fill(3, 4), 1);
    assert_eq!(net.of(4).stats().counters.dropped_unused, 1);
    assert_eq!(net.of(4).connection(accepted).map(|it| it.state()), Some(State::Established));
    assert!(net.has_event(1, |event| matches!(event, Event::Closed(_, CloseReason::Reset))));
    // A peer that has a connection evicts none.
    assert_eq!(net.fill(3, 4), 0);
}

#[test]
fn time_wait_is_bounded_by_number_too() {
    let mut net = Net::limited(2, |config| config.max_time_wait = 10);
    for _ in 0..30 {
        let (a, b) = net.connect(1, 2);
        let now = net.now;
        net.of(1).close(now, a);
        net.event(2, |event| (*event == Event::RemoteFinished(b)).then_some(()));
        net.of(2).close(now, b);
        net.pass(SECOND / 10);
    }
    assert_eq!(net.slots(2), 0);
    assert_eq!(net.slots(1), 10);
}

/// After an outage, data sent meanwhile arrives within seconds.
#[test]
fn a_stream_resumes_soon_after_an_outage_of_100_seconds() {
    for is_idle in [false, true] {
        let mut net = Net::limited(2, |_| {});
        let (a, b) = net.connect(1, 2);
        net.transfer((1, a), (2, b), &[1; 10_000]);
        if !is_idle {
            net.of(1).with_connection(a, |c| c.send(&[2; 10_000]).unwrap());
        }
        net.set_loss(100);
        net.pass(100 * SECOND);
        net.set_loss(0);
        let begin = net.now;
        if is_idle {
            net.transfer((2, b), (1, a), &[3; 10_000]);
        } else {
            net.run_until(60 * SECOND, |net| {
                let readable = net.of(2).connection(b).map(|connection| connection.readable());
                (readable == Some(10_000)).then_some(())
            });
        }
        let took = net.now.saturating_since(begin);
        assert!(took < 6 * SECOND, "{took:?}, idle: {is_idle}");
    }
}
