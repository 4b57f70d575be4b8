//! Throughput over round-trip time, loss, rate and buffer. The table is committed: a change that
//! moves a figure shows as a diff. `UPDATE_SNAPSHOTS=1` writes it anew.

use std::{fmt::Write, path::PathBuf, time::Duration};

use pilot_proto::{config::NodeConfig, node::DialOptions, transport::Algorithm};
use pilot_sim::{Loss, Path, World};

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Reno, Algorithm::Cubic, Algorithm::Bbr];

/// One cell: how a path is, and for how long a transfer runs over it.
#[derive(Clone, Copy, Debug)]
struct Cell {
    rtt_ms: u64,
    loss: f64,
    mbit: u64,
    /// Bottleneck queue in bandwidth-delay products (of at least 10 ms).
    buffer: f64,
}

/// Megabits of payload per second of a transfer of ten bandwidth-delay products, or of ten seconds.
fn run(cell: Cell, algorithm: Algorithm) -> f64 {
    let rate = cell.mbit * 125_000;
    let bdp = rate * cell.rtt_ms.max(10) / 1000;
    let mut world = World::pair(7, NodeConfig::default(), Path::default());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let link = world.add_link(rate, (bdp as f64 * cell.buffer) as usize + 3000);
    let latency = Duration::from_micros(cell.rtt_ms * 500);
    let loss = if cell.loss > 0.0 { Loss::Random(cell.loss) } else { Loss::None };
    world.set_path(0, 1, Path { latency, loss, link: Some(link), ..Path::default() });
    world.set_path(1, 0, Path { latency, ..Path::default() });
    let options = DialOptions { congestion: Some(algorithm), ..DialOptions::default() };
    let total = (10 * bdp).max(2_000_000);
    let flow = world.start_flow(0, 1, total, options, false).unwrap();
    let limit = Duration::from_secs(10);
    let _ = world.run_until(limit, |world| world.flow(flow).finished.is_some());
    world.flow(flow).goodput(world.now) * 8.0 / 1e6
}

fn render() -> String {
    let mut table = String::from("rtt ms  loss %  Mbit/s  buffer     reno    cubic      bbr\n");
    for rtt_ms in [1, 30, 100, 200] {
        for loss in [0.0, 0.005, 0.02] {
            for mbit in [20, 100, 500] {
                let buffers: &[f64] = if mbit == 100 { &[0.25, 1.0, 4.0] } else { &[1.0] };
                for buffer in buffers {
                    let cell = Cell { rtt_ms, loss, mbit, buffer: *buffer };
                    let [reno, cubic, bbr] = ALGORITHMS.map(|algorithm| run(cell, algorithm));
                    let percent = loss * 100.0;
                    writeln!(
                        table,
                        "{rtt_ms:6}  {percent:6.1}  {mbit:6}  {buffer:6.2}  {reno:7.1}  {cubic:7.1}  {bbr:7.1}"
                    )
                    .unwrap();
                }
            }
        }
    }
    table
}

#[test]
fn throughput_matches_the_snapshot() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wan/throughput.txt");
    let table = render();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &table).unwrap();
        return;
    }
    let before = std::fs::read_to_string(&path).unwrap();
    assert!(table == before, "{} has changed; UPDATE_SNAPSHOTS=1 writes it anew:\n{table}", path.display());
}
