//! Transfers over networks drawn from a seed: every byte arrives once and in order, or the transfer
//! ends with a reason that fits. A failing seed is printed and replays with `SIM_SEED`.

use std::time::Duration;

use pilot_proto::{config::NodeConfig, node::DialOptions, transport::Algorithm};
use pilot_sim::{FlowId, Loss, Path, Rng, World};

const MINUTE: Duration = Duration::from_secs(60);

fn micros(rng: &mut Rng, below: u64) -> Duration {
    Duration::from_micros(rng.below(below))
}

fn path(rng: &mut Rng, world: &mut World) -> Path {
    let percent = |rng: &mut Rng, below: u64| rng.below(below) as f64 / 100.0;
    let loss = match rng.below(3) {
        0 => Loss::None,
        1 => Loss::Random(percent(rng, 10)),
        // A burst ends after so many datagrams, not after a time: one that outlasted eight
        // retransmissions would rightly break the connection.
        _ => Loss::Bursty { begin: 0.02, end: 0.8 + percent(rng, 20), inside: 0.9 },
    };
    let link = (rng.below(2) == 0).then(|| {
        let rate = 100_000 << rng.below(8);
        world.add_link(rate, 10_000 + rng.below(rate / 4) as usize)
    });
    Path {
        latency: micros(rng, 100_000),
        jitter: micros(rng, 10_000),
        noise: micros(rng, 10_000),
        loss,
        duplication: percent(rng, 5),
        reordering: percent(rng, 5),
        reorder_delay: micros(rng, 30_000),
        mtu: if rng.below(2) == 0 { 1280 } else { 0 },
        has_icmp: rng.below(2) == 0,
        link,
    }
}

fn start(rng: &mut Rng, world: &mut World, hosts: usize) -> FlowId {
    let from = rng.below(hosts as u64) as usize;
    let to = (from + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
    let congestion = [None, Some(Algorithm::Reno), Some(Algorithm::Cubic), Some(Algorithm::Bbr)];
    let options = DialOptions { no_delay: rng.below(2) == 0, congestion: congestion[rng.below(4) as usize] };
    let scale = 10 + rng.below(9);
    let bytes = rng.below(1 << scale);
    world.start_flow(from, to, bytes + 1, options, rng.below(4) == 0).unwrap()
}

fn run(seed: u64) {
    let mut rng = Rng(seed ^ 0x00de_cade);
    let hosts = 2 + rng.below(4) as usize;
    let mut world = World::new(seed, NodeConfig::default(), Path::default());
    for _ in 0..hosts {
        world.add_host();
    }
    for from in 0..hosts {
        for to in 0..hosts {
            let path = path(&mut rng, &mut world);
            world.set_path(from, to, path);
        }
    }
    let flows: Vec<FlowId> = (0..=rng.below(5)).map(|_| start(&mut rng, &mut world, hosts)).collect();
    if rng.below(2) == 0 {
        world.run_for(micros(&mut rng, 2_000_000));
        let (a, b) = (rng.below(hosts as u64) as usize, rng.below(hosts as u64) as usize);
        world.set_partition(a, b, true);
        world.run_for(micros(&mut rng, 1_000_000));
        world.set_partition(a, b, false);
    }
    world
        .run_until(20 * MINUTE, |world| flows.iter().all(|flow| world.flow(*flow).finished.is_some()))
        .unwrap_or_else(|stuck| {
            let open = world.flows().iter().filter(|flow| flow.finished.is_none());
            panic!("{stuck}: {:?}", open.collect::<Vec<_>>())
        });
    for host in 0..hosts {
        let stats = world.node(host).stats();
        assert_eq!(stats.counters.dropped_malformed, 0, "nobody alters bytes here");
    }
}

/// Seeds of `part`, of two that run side by side.
fn run_part(part: u64) {
    if let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return run(seed);
    }
    let seeds: u64 = std::env::var("SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5000);
    for seed in (part..seeds).step_by(2) {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed} fails; replay it with SIM_SEED={seed}");
    }
}

#[test]
fn any_network_of_an_even_seed_delivers() {
    run_part(0);
}

#[test]
fn any_network_of_an_odd_seed_delivers() {
    run_part(1);
}
