//! A network driven by bytes, beside a model of what must come of it. Fuzzers and property tests
//! choose the bytes.

use core::time::Duration;

use crate::{FlowId, Loss, Path, World};
use pilot_proto::{
    config::{Algorithm, NodeConfig},
    node::DialOptions,
    transport::CloseReason,
};

const HOSTS: usize = 3;
/// Transfers at once; more are not started.
const MAX_FLOWS: usize = 12;
/// Operations that are looked at.
const MAX_OPERATIONS: usize = 300;
/// How long a crashed host stays away: longer than its packets can be on their way, as RFC 9293 section
/// 3.4.3 asks of hosts that forget their numbers. What comes of packets that outlive their sender is
/// tested by itself.
const QUIET: Duration = Duration::from_millis(250);

/// What is known of a transfer without looking at any connection.
#[derive(Debug, Default)]
struct Expected {
    /// Something happened to it that breaks a connection: an abort, or the crash of an end.
    may_break: bool,
    /// What was received when it was last looked at; it never falls.
    received: u64,
}

/// Runs the operations that `input` describes, four bytes each, and checks after each that the
/// network and the model agree: what arrives is a prefix of what was sent (the transfers compare every
/// byte), nothing breaks without a cause, and buffers keep their bounds. In the end everything is
/// healed, and what could not break must finish.
///
/// # Panics
/// When they do not agree.
pub fn run(input: &[u8]) {
    let mut world = World::new(1, NodeConfig::default(), Path::default());
    for _ in 0..HOSTS {
        world.add_host();
    }
    let mut expected: Vec<Expected> = Vec::new();
    for operation in input.chunks_exact(4).take(MAX_OPERATIONS) {
        if let [kind, a, b, c] = *operation {
            apply(&mut world, &mut expected, kind, [a, b, c]);
        }
        check(&mut world, &mut expected);
    }
    settle(&mut world, &expected);
}

fn apply(world: &mut World, expected: &mut Vec<Expected>, kind: u8, [a, b, c]: [u8; 3]) {
    let (from, to) = (usize::from(a) % HOSTS, usize::from(b) % HOSTS);
    let flow = FlowId(usize::from(a) % expected.len().max(1));
    let amount = u64::from(u16::from_be_bytes([b, c]));
    match kind % 9 {
        0 | 1 if from != to && expected.len() < MAX_FLOWS => {
            let algorithms = [Algorithm::Reno, Algorithm::Cubic, Algorithm::Bbr];
            let congestion = algorithms.get(usize::from(c) % 4).copied();
            let options = DialOptions { no_delay: c & 4 > 0, congestion };
            let bytes = 1 + (u64::from(c) << (a % 12));
            if world.start_flow(from, to, bytes, options, c & 8 > 0).is_ok() {
                expected.push(Expected::default());
            }
        }
        2 if !expected.is_empty() => {
            world.abort(flow);
            expected[flow.0].may_break = true;
        }
        3 if a < 64 => {
            crash(world, from);
            for (expected, flow) in expected.iter_mut().zip(world.flows()) {
                expected.may_break |= flow.from == from || flow.to == from;
            }
        }
        4 if from != to => {
            world.set_partition(from, to, true);
            // Less than the shortest time in which retransmissions are given up.
            world.run_for(Duration::from_micros(amount * 15));
            world.set_partition(from, to, false);
        }
        5 => {
            let latency = Duration::from_micros(u64::from(b) * 300);
            let path = Path {
                latency,
                jitter: Duration::from_micros(u64::from(c) * 100),
                loss: Loss::Random(f64::from(c & 15) / 200.0),
                duplication: f64::from(b & 7) / 50.0,
                reordering: f64::from(c & 7) / 20.0,
                reorder_delay: Duration::from_millis(u64::from(b & 31)),
                ..Path::default()
            };
            world.set_path(from, to, path);
        }
        6 if !expected.is_empty() => {
            world.set_reading(flow, false);
            world.run_for(Duration::from_micros(amount * 100));
            world.set_reading(flow, true);
        }
        7 if !expected.is_empty() && c < 128 => {
            world.finish(flow);
        }
        _ => world.run_for(Duration::from_micros(amount * 50)),
    }
}

/// Cuts a host off, and puts a new process in its place when its last packets have arrived.
fn crash(world: &mut World, host: usize) {
    for other in (0..HOSTS).filter(|other| *other != host) {
        world.set_partition(host, other, true);
    }
    world.run_for(QUIET);
    world.restart(host);
    for other in (0..HOSTS).filter(|other| *other != host) {
        world.set_partition(host, other, false);
    }
}

fn check(world: &mut World, expected: &mut [Expected]) {
    for (index, expected) in expected.iter_mut().enumerate() {
        let flow = world.flow(FlowId(index));
        assert!(flow.received >= expected.received && flow.received <= flow.sent, "{flow:?}");
        expected.received = flow.received;
        if let Some(reason) = flow.closed {
            let is_clean = reason == CloseReason::Finished;
            assert!(is_clean || expected.may_break, "transfer {index} broke without a cause: {flow:?}");
        }
    }
    for host in 0..HOSTS {
        let stats = world.node(host).stats();
        assert!(stats.peers <= HOSTS && stats.counters.dropped_malformed == 0, "{stats:?}");
        let config = NodeConfig::default().transport;
        for (_, connection) in world.node(host).connections() {
            let stats = connection.stats();
            assert!(connection.readable() <= config.max_recv_buffer, "{stats:?}");
            assert!(stats.cwnd <= config.max_cwnd && stats.ooo_buf <= config.out_of_order_segments);
        }
    }
}

fn settle(world: &mut World, expected: &[Expected]) {
    for from in 0..HOSTS {
        for to in 0..HOSTS {
            world.set_path(from, to, Path { latency: Duration::from_millis(5), ..Path::default() });
        }
    }
    let is_over = |world: &mut World| {
        let done =
            |(flow, expected): (&crate::Flow, &Expected)| flow.finished.is_some() || expected.may_break;
        world.flows().iter().zip(expected).all(done)
    };
    let result = world.run_until(Duration::from_secs(600), is_over);
    assert!(result.is_ok(), "{result:?}: {:?}", world.flows());
}
