//! Flows that share a bottleneck share it evenly (Jain's index, RFC 5166 section 2.3.1).

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions, transport::Algorithm};
use pilot_sim::{Path, World};

const MBIT: u64 = 125_000;

/// Goodputs of flows between hosts of their own over one link of 100 Mbit/s and 30 ms, over the last
/// two thirds of `seconds`.
fn goodputs(algorithms: &[Algorithm], seconds: u64) -> Vec<f64> {
    let mut world = World::new(3, NodeConfig::default(), Path::default());
    let rate = 100 * MBIT;
    let link = world.add_link(rate, (rate * 30 / 1000) as usize);
    let latency = Duration::from_millis(15);
    let mut flows = Vec::new();
    for algorithm in algorithms {
        let (from, to) = (world.add_host(), world.add_host());
        world.set_path(from, to, Path { latency, link: Some(link), ..Path::default() });
        world.set_path(to, from, Path { latency, ..Path::default() });
        let options = DialOptions { congestion: Some(*algorithm), ..DialOptions::default() };
        flows.push(world.start_flow(from, to, u64::MAX, options, false).unwrap());
        world.run_for(Duration::from_millis(37));
    }
    world.run_for(Duration::from_secs(seconds / 3));
    let before: Vec<u64> = flows.iter().map(|flow| world.flow(*flow).received).collect();
    world.run_for(Duration::from_secs(seconds * 2 / 3));
    let taken = |(flow, before): (_, &u64)| (world.flow(flow).received - before) as f64;
    flows.iter().copied().zip(&before).map(taken).collect()
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
}

#[test]
fn two_to_sixty_four_flows_share_evenly() {
    for algorithm in [Algorithm::Reno, Algorithm::Cubic, Algorithm::Bbr] {
        for count in [2, 4, 16, 64] {
            let shares = goodputs(&vec![algorithm; count], 60);
            let index = jain(&shares);
            assert!(index >= 0.9, "{count} flows of {algorithm}: {index:.3}, {shares:?}");
            let seconds = 40.0;
            let used = shares.iter().sum::<f64>() / seconds / (100 * MBIT) as f64;
            assert!(used >= 0.8, "{count} flows of {algorithm} use {used:.2} of the link");
        }
    }
}

#[test]
fn the_default_leaves_another_controller_its_share() {
    let default = Algorithm::default();
    for other in [Algorithm::Reno, Algorithm::Cubic] {
        let shares = goodputs(&[default, other], 120);
        let share = shares[1] / (shares[0] + shares[1]);
        assert!((0.25..=0.75).contains(&share), "{other} beside {default} gets {share:.2}");
    }
}
