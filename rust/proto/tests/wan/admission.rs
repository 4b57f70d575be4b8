//! Limits of a node: connections, connections per port, SYNs per peer; and TIME-WAIT, which holds no
//! port.

use std::time::Duration;

use pilot_proto::{
    config::NodeConfig,
    node::{DialOptions, Event, NodeError},
    transport::CloseReason,
    wire::addr::Port,
};
use pilot_sim::{Path, World};

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
fn a_port_takes_so_many_connections_and_refuses_the_rest() {
    let mut world = world(|config| config.max_connections_per_port = 10);
    assert_eq!(dial(&mut world, 15), (10, 5));
    assert_eq!(world.node(1).stats().counters.dropped_limited, 5);
}

#[test]
fn a_node_takes_so_many_connections_and_dials_no_more() {
    let mut world = world(|config| config.max_connections = 10);
    assert_eq!(dial(&mut world, 10), (10, 0));
    let again = world.start_flow(0, 1, 1, DialOptions::default(), false);
    assert_eq!(again, Err(NodeError::TooManyConnections));
}

#[test]
fn syns_over_the_rate_are_dropped_and_come_again() {
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
