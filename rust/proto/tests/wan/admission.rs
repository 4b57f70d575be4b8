//! Limits of a node: connections, connections per port, SYNs per peer; and TIME-WAIT, which holds no
//! port.

use std::time::Duration;

use pilot_proto::{
    config::NodeConfig,
    node::{DialOptions, Event, NodeError},
    transport::CloseReason,
    wire::addr::Port,
};
use pilot_sim::{Loss, Path, World};

const SECOND: Duration = Duration::from_secs(1);

fn world(change: impl FnOnce(&mut NodeConfig)) -> World {
    let mut config = NodeConfig::default();
    change(&mut config);
    let latency = Duration::from_millis(5);
    World::pair(1, config, Path { latency, ..Path::default() })
}

/// Dials `count` times and returns how many are up and how many were refused after a second.
fn dial(world: &mut World, count: usize) -> (usize, usize) {
    let flows: Vec<_> =
        (0..count).map(|_| world.start_flow(0, 1, 1, DialOptions::default(), false).unwrap()).collect();
    world.run_for(SECOND / 2);
    let up = flows.iter().filter(|flow| world.flow(**flow).connected.is_some()).count();
    let refused = |flow: &&_| world.flow(**flow).closed == Some(CloseReason::Refused);
    (up, flows.iter().filter(refused).count())
}

#[test]
fn one_peer_gets_half_the_connections_of_a_port() {
    let mut world = world(|config| config.max_connections_per_port = 20);
    assert_eq!(dial(&mut world, 15), (10, 5));
    assert_eq!(world.node(1).stats().counters.dropped_limited, 5);
}

#[test]
fn a_node_at_max_connections_refuses_to_dial() {
    let mut world = world(|config| config.max_connections = 10);
    assert_eq!(dial(&mut world, 10), (10, 0));
    let again = world.start_flow(0, 1, 1, DialOptions::default(), false);
    assert_eq!(again, Err(NodeError::TooManyConnections));
}

#[test]
fn syns_above_the_rate_are_dropped_and_retransmitted() {
    let mut world = world(|config| config.syn_rate = (5, 5));
    let (up, refused) = dial(&mut world, 12);
    assert!((5..=8).contains(&up) && refused == 0, "{up} up, {refused} refused");
    assert!(world.node(1).stats().counters.dropped_limited >= 4);
    world.run_for(4 * SECOND);
    assert_eq!(world.flows().iter().filter(|flow| flow.connected.is_some()).count(), 12);
}

#[test]
fn time_wait_neither_blocks_its_port_nor_counts() {
    let mut world = world(|config| config.max_connections_per_port = 1);
    for _ in 0..5 {
        assert_eq!(dial(&mut world, 1), (1, 0));
        // Both ends finish; the dialler's side waits.
        for host in 0..2 {
            let ids: Vec<_> = world.node(host).connections().map(|(id, _)| id).collect();
            let now = world.now;
            for id in ids {
                world.node(host).with_connection(id, |connection| {
                    let unread = connection.readable();
                    connection.recv_consume(unread);
                });
                world.node(host).close(now, id);
            }
        }
        world.run_for(SECOND / 2);
    }
    assert_eq!(world.node(1).listen(Port(80)), Err(NodeError::PortInUse), "still listening");
}

#[test]
fn a_crash_is_noticed_and_the_next_dial_succeeds() {
    let mut world = world(|_| {});
    assert_eq!(dial(&mut world, 3), (3, 0));
    world.restart(1);
    assert_eq!(dial(&mut world, 1), (1, 0));
    assert!(world.flows()[..3].iter().all(|flow| flow.closed == Some(CloseReason::PeerRestarted)));
    assert!(std::iter::from_fn(|| world.poll_event(1)).all(|event| !matches!(event, Event::Closed(..))));
}

#[test]
fn a_peer_that_fills_windows_nobody_reads_takes_a_quarter_and_harms_no_other() {
    const LIMIT: usize = 16 << 20;
    let config = NodeConfig { recv_memory: LIMIT, ..NodeConfig::default() };
    let mut world = World::new(1, config, Path { latency: Duration::from_millis(5), ..Path::default() });
    let [hostile, victim, honest] = [(); 3].map(|()| world.add_host());
    for _ in 0..40 {
        let flow = world.start_flow(hostile, victim, u64::MAX, DialOptions::default(), false).unwrap();
        world.set_reading(flow, false);
    }
    world.run_for(5 * SECOND);
    let held = world.node(victim).stats().held;
    assert!((LIMIT / 5..LIMIT / 3).contains(&held), "{held}");
    let dropped = |world: &mut World, peer: usize| -> u64 {
        let of_peer =
            world.node(victim).connections().filter(|(_, c)| c.tuple().remote.node.0 == peer as u32 + 1);
        of_peer.map(|(_, c)| c.stats().counters.reassembly_overflow).sum()
    };
    assert!(dropped(&mut world, hostile) > 0);

    // Loss makes the honest peer's data wait behind gaps.
    let lossy = Path { latency: Duration::from_millis(5), loss: Loss::Random(0.01), ..Path::default() };
    world.set_path(honest, victim, lossy);
    let flow = world.start_flow(honest, victim, 5_000_000, DialOptions::default(), false).unwrap();
    world.run_until(20 * SECOND, |world| world.flow(flow).finished.is_some()).unwrap();
    assert_eq!(dropped(&mut world, honest), 0);

    for n in 0..40 {
        let flow = world.nth_flow(n).unwrap();
        world.abort(flow);
    }
    world.run_for(SECOND);
    for n in 0..40 {
        let flow = world.nth_flow(n).unwrap();
        world.set_reading(flow, true);
    }
    // A chunk is kept for what comes next until a connection has paused.
    world.run_for(35 * SECOND);
    assert_eq!(world.node(victim).stats().held, 0);
}
