//! What a transfer leaves in qlog files.

use std::{fs, net::Shutdown};

use super::*;
use crate::trace::TraceConfig;

#[test]
fn a_transfer_leaves_a_file_of_each_connection_with_its_states() {
    let dir = std::env::temp_dir().join(format!("pilot-net-qlog-{}", std::process::id()));
    let trace = TraceConfig { log: None, qlog: Some(dir.clone()) };
    let mut harness = Harness::recording(trace).unwrap();
    let mut program = Program::extended(&mut harness);
    assert!(program.dial(1, 7));
    let (_, mut stream) = program.stream(&mut harness);
    stream.write_all(b"there and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut harness, &mut stream), (b"there and back".to_vec(), None));
    drop(harness);

    let mut sides = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.contains("-connection-") {
            sides.push(check(&fs::read_to_string(&path).unwrap()));
        }
    }
    fs::remove_dir_all(&dir).unwrap();
    sides.sort();
    assert_eq!(sides, ["client", "server"]);
}

/// Checks one file, and says whose side it tells.
fn check(text: &str) -> String {
    let json = |record: &str| serde_json::from_str::<serde_json::Value>(record).unwrap();
    let records: Vec<_> = text.split('\x1e').skip(1).map(json).collect();
    assert_eq!(records[0]["qlog_version"], "0.4");
    let (mut states, mut bytes, mut before) = (vec!["CLOSED".to_owned()], 0, 0.0);
    for record in &records[1..] {
        let (time, data) = (record["time"].as_f64().unwrap(), &record["data"]);
        assert!(time >= before);
        before = time;
        match record["name"].as_str().unwrap() {
            "connectivity:connection_state_updated" => {
                assert_eq!(data["old"], states[states.len() - 1].as_str());
                states.push(data["new"].as_str().unwrap().to_owned());
            }
            "transport:packet_received" => bytes += data["raw"]["payload_length"].as_u64().unwrap(),
            _ => {}
        }
    }
    assert_eq!(bytes, 14);
    assert!(states.iter().any(|state| state == "ESTABLISHED"), "{states:?}");
    records[0]["trace"]["vantage_point"]["type"].as_str().unwrap().to_owned()
}
