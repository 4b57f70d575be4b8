//! Trace records of a run, written as qlog when the run fails.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use pilot_proto::{
    node::{Node, Record, What},
    qlog::{self, File, Files},
};

use crate::flow::HostId;

/// Upper bound of records; the oldest are dropped.
const MAX_RECORDS: usize = 1 << 20;

/// The records of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    dir: PathBuf,
    records: VecDeque<(HostId, Record)>,
}

impl Recorder {
    /// A recorder for a subfolder of `dir` named after the seed.
    pub(crate) fn new(dir: PathBuf, seed: u64) -> Self {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("seed-{seed}-{}-{run}", std::process::id());
        Self { dir: dir.join(name), records: VecDeque::new() }
    }

    /// Collects the records of a host's node.
    pub(crate) fn take(&mut self, host: HostId, node: &mut Node) {
        while let Some(record) = node.poll_trace() {
            if self.records.len() == MAX_RECORDS {
                self.records.pop_front();
            }
            self.records.push_back((host, record));
        }
    }

    /// Writes the records and prints their location on stderr.
    #[allow(clippy::print_stderr, reason = "tests tell where to look")]
    pub(crate) fn save(&mut self) {
        match self.write() {
            Ok(()) => eprintln!("qlog of the failed run: {}", self.dir.display()),
            Err(error) => eprintln!("no qlog in {}: {error}", self.dir.display()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut texts: BTreeMap<(HostId, File), String> = BTreeMap::new();
        let mut files: BTreeMap<HostId, Files> = BTreeMap::new();
        for (host, record) in self.records.drain(..) {
            let is_client = matches!(record.what, What::Opened { is_inbound: false, .. });
            for file in files.entry(host).or_default().of(&record) {
                let text = texts.entry((host, file)).or_insert_with(|| qlog::header(file, is_client));
                text.push_str(&qlog::line(&record));
            }
        }
        for ((host, file), text) in texts {
            let dir = self.dir.join(format!("host-{host}"));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(file.to_string()), text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{panic, path::Path as Folder, time::Duration};

    use pilot_proto::{config::NodeConfig, node::DialOptions};

    use super::*;
    use crate::{Loss, Path, World};

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn names(folder: &Folder) -> Vec<String> {
        let text = fs::read_to_string(folder).unwrap();
        let json = |record: &str| serde_json::from_str::<serde_json::Value>(record).unwrap();
        let records: Vec<_> = text.split('\x1e').skip(1).map(json).collect();
        assert_eq!(records[0]["qlog_format"], "JSON-SEQ");
        records[1..].iter().map(|record| record["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_failing_run_writes_its_records() {
        let scratch = Scratch(std::env::temp_dir().join(format!("pilot-sim-qlog-{}", std::process::id())));
        let dir = scratch.0.clone();
        let failed = panic::catch_unwind(move || {
            let lossy =
                Path { latency: Duration::from_millis(10), loss: Loss::Random(0.05), ..Path::default() };
            let mut world = World::new(7, NodeConfig::default(), lossy);
            world.record(dir, 7);
            world.add_host();
            world.add_host();
            let flow = world.start_flow(0, 1, 300_000, DialOptions::default(), false).unwrap();
            let is_done = |world: &mut World| world.flow(flow).finished.is_some();
            world.run_until(Duration::from_secs(60), is_done).unwrap();
            panic!("forced");
        });
        assert!(failed.is_err());
        let run = fs::read_dir(&scratch.0).unwrap().next().unwrap().unwrap().path();
        assert!(run.file_name().unwrap().to_str().unwrap().starts_with("seed-7-"));
        let sender = names(&run.join("host-0/connection-1.sqlog"));
        for expected in [
            "connectivity:connection_started",
            "connectivity:connection_state_updated",
            "recovery:metrics_updated",
            "recovery:congestion_state_updated",
            "recovery:loss_episode_started",
            "recovery:packet_lost",
            "transport:packet_sent",
            "transport:packet_received",
            "tunnel:suite_latched",
        ] {
            assert!(sender.iter().any(|name| name == expected), "{expected} is missing");
        }
        let receiver = names(&run.join("host-1/connection-1.sqlog"));
        assert!(receiver.iter().any(|name| name == "transport:packet_received"));
        assert!(names(&run.join("host-1/peer-1.sqlog")).iter().any(|name| name == "tunnel:key_received"));
    }
}
