//! What works behind which NAT: the table in the docs. `UPDATE_SNAPSHOTS=1` writes it anew.

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use pilot_sim::nat::{Allocation, Behaviour::*, FirewallConfig, NatConfig};

use crate::scenario::{Access, Family, Scenario, Shared, Side};

const BEGIN: &str = "<!-- table of rust/proto/tests/nat/table.rs -->\n";
const END: &str = "<!-- end -->\n";
const MILLISECOND: Duration = Duration::from_millis(1);

fn kinds() -> Vec<(&'static str, Access)> {
    let nat =
        |mapping, filtering, allocation| NatConfig { mapping, filtering, allocation, ..NatConfig::default() };
    let cone = |filtering| nat(EndpointIndependent, filtering, Allocation::Preserving);
    let symmetric = |allocation| nat(AddressAndPortDependent, AddressAndPortDependent, allocation);
    vec![
        ("public", Access::Public),
        ("firewall", Access::Firewall(FirewallConfig::default())),
        ("EIM, EIF", Access::Home(cone(EndpointIndependent))),
        ("EIM, ADF", Access::Home(cone(AddressDependent))),
        ("EIM, APDF", Access::Home(cone(AddressAndPortDependent))),
        ("ADM, ADF", Access::Home(nat(AddressDependent, AddressDependent, Allocation::Random))),
        ("APDM, sequential", Access::Home(symmetric(Allocation::Sequential { step: 1, noise: 0 }))),
        ("APDM, random", Access::Home(symmetric(Allocation::Random))),
        (
            "EIM behind a carrier's EIM",
            Access::Carrier { home: cone(AddressAndPortDependent), carrier: cone(AddressAndPortDependent) },
        ),
        (
            "EIM behind a carrier's APDM",
            Access::Carrier { home: cone(AddressAndPortDependent), carrier: symmetric(Allocation::Random) },
        ),
    ]
}

fn outcome(a: Access, b: Access) -> String {
    let side = |access| Side { access, family: Family::V4 };
    let scenario = Scenario {
        sides: [side(a), side(b)],
        shared: Shared::Nothing,
        direct: 20 * MILLISECOND,
        to_beacon: [15 * MILLISECOND; 2],
        loss: 0.0,
        beacons: 1,
    };
    let mut built = scenario.build(1);
    let started = built.world.now;
    let flow = built.dial(200);
    built.settle(flow, Duration::from_secs(10));
    let first = built.world.flow(flow).connected.unwrap().saturating_since(started).as_millis();
    if built.drip(flow, Duration::from_secs(10), |built| built.is_direct()) {
        let direct = built.world.now.saturating_since(started).as_millis();
        return format!("{first} / {direct}");
    }
    format!("{first} / relay")
}

fn render() -> String {
    let kinds = kinds();
    let mut table = String::from("| |");
    for (name, _) in &kinds {
        write!(table, " {name} |").unwrap();
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(kinds.len()));
    table.push('\n');
    for (n, (name, a)) in kinds.iter().enumerate() {
        write!(table, "| {name} |").unwrap();
        for (m, (_, b)) in kinds.iter().enumerate() {
            // Who dials makes little difference.
            let cell = if m < n { String::new() } else { outcome(*a, *b) };
            write!(table, " {cell} |").unwrap();
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_table_in_the_docs_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/explanation/nat.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let fresh = format!("{head}{BEGIN}{}{END}{tail}", render());
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &fresh).unwrap();
        return;
    }
    assert!(page == fresh, "{} has changed; UPDATE_SNAPSHOTS=1 writes it anew:\n{fresh}", path.display());
}
