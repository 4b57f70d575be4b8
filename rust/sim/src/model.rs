//! A network driven by input bytes, checked against a reference model. Used by fuzzers and property tests.

use core::time::Duration;

use crate::{FlowId, Loss, Path, World};
use pilot_proto::{
    config::{Algorithm, NodeConfig},
    node::DialOptions,
    transport::CloseReason,
};

const HOSTS: usize = 3;
/// Upper bound of concurrent transfers.
const MAX_FLOWS: usize = 12;
/// Upper bound of operations per input.
const MAX_OPERATIONS: usize = 300;
/// Downtime of a crashed host: longer than its packets can be in flight (quiet time of RFC 9293 section
/// 3.4.3). Packets that outlive their sender are tested separately.
const QUIET: Duration = Duration::from_millis(250);

/// Model of one transfer.
#[derive(Debug, Default)]
struct Expected {
    /// Whether its connection may break: it was aborted, or an end crashed.
    may_break: bool,
    /// Bytes received at the last check; never decreases.
    received: u64,
}

/// Runs the operations encoded in `input`, four bytes each, and checks after each that network and model
/// agree: received data is a prefix of the sent data, no connection breaks without a cause, and buffers keep
/// their bounds. Finally all paths are restored, and every transfer that could not break must finish.
///
/// # Panics
/// When network and model disagree.
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
            // Shorter than R2.
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

/// Disconnects a host and restarts it after its last packets have arrived.
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
