//! Runs a property on many seeds, in threads.

use std::{
    env, panic,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Seeds per property unless `SIM_SEEDS` says otherwise.
const DEFAULT: u64 = 300;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs `property` on `SIM_SEED` alone, or on as many seeds as `SIM_SEEDS` says. Returns what it returned, by
/// seed.
///
/// # Panics
/// When it panicked; the seeds are printed.
pub(crate) fn each<T: Send>(property: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let seeds =
        number("SIM_SEED").map_or_else(|| 0..number("SIM_SEEDS").unwrap_or(DEFAULT), |seed| seed..seed + 1);
    let (next, failed, results) =
        (AtomicU64::new(seeds.start), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().unwrap().len() >= 5 {
                return;
            }
            match panic::catch_unwind(panic::AssertUnwindSafe(|| property(seed))) {
                Ok(result) => results.lock().unwrap().push((seed, result)),
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds {failed:?} fail; SIM_SEED={} replays the first", failed[0]);
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(seed, _)| *seed);
    results.into_iter().map(|(_, result)| result).collect()
}
