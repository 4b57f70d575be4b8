//! Bytes are delivered once and in order across every change of path.

use std::time::Duration;

use pilot_sim::{Notice, Place, Rng};

use crate::{
    scenario::{self, Built, Scenario, Shared},
    seeds,
};

const SECOND: Duration = Duration::from_secs(1);

/// What happens to a network in use.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A host moves to another network.
    Roam { host: usize, notice: Notice },
    /// Both move without notice; meanwhile the beacon in use dies for good, or forgets everybody.
    Exodus { kills: bool, time: Duration },
    /// Its boxes lose their states, and may get other addresses.
    Reboot { host: usize, is_renumbered: bool },
    /// The beacon in use is replaced by one that knows nobody.
    RestartBeacon,
    /// The beacon in use dies, and its successor takes over; it returns later.
    KillBeacon { back_after: Duration },
    /// Datagrams between the hosts are lost for a while, except through beacons.
    CutDirect { back_after: Duration },
    /// A host is suspended for a while.
    Suspend { host: usize, time: Duration },
    /// Its interface goes down and comes up again.
    Flap { host: usize, time: Duration, notice: Notice },
}

fn draw(rng: &mut Rng) -> Change {
    let host = rng.below(2) as usize;
    let notice = if rng.below(2) == 0 { Notice::Silent } else { Notice::Reported };
    let time = Duration::from_millis(100 + rng.below(15_000));
    match rng.below(10) {
        0..=2 => Change::Roam { host, notice },
        3 => Change::Reboot { host, is_renumbered: rng.below(2) == 0 },
        4 => Change::RestartBeacon,
        5 => Change::KillBeacon { back_after: time },
        6 => Change::CutDirect { back_after: time },
        7 => Change::Suspend { host, time },
        8 => Change::Exodus { kills: rng.below(2) == 0, time },
        _ => Change::Flap { host, time, notice },
    }
}

/// Moves a host to another network.
fn roam(built: &mut Built, scenario: &mut Scenario, rng: &mut Rng, (host, notice): (usize, Notice)) {
    let access = scenario::access(rng);
    scenario.sides[host].access = access;
    let boxes = scenario::add_boxes(&mut built.world, Place::Public, access);
    let attachment = scenario::attachment(&boxes, scenario.sides[host].family);
    built.boxes[host] = boxes;
    built.world.roam(built.hosts[host], attachment, notice);
}

impl Change {
    fn apply(self, built: &mut Built, scenario: &mut Scenario, rng: &mut Rng, flow: pilot_sim::FlowId) {
        let hosts = built.hosts;
        match self {
            Self::Roam { host, notice } => roam(built, scenario, rng, (host, notice)),
            Self::Exodus { kills, time } => {
                for host in 0..2 {
                    roam(built, scenario, rng, (host, Notice::Silent));
                }
                if kills {
                    built.world.kill_beacon(built.beacons[0]);
                } else {
                    built.world.restart_beacon(built.beacons[0]);
                }
                built.drip(flow, time, |_| false);
            }
            Self::Reboot { host, is_renumbered } => {
                for id in built.boxes[host].clone() {
                    built.world.reboot_box(id, is_renumbered);
                }
            }
            Self::RestartBeacon => built.world.restart_beacon(built.beacons[0]),
            Self::KillBeacon { back_after } => {
                built.world.kill_beacon(built.beacons[0]);
                built.drip(flow, back_after, |_| false);
                built.world.restart_beacon(built.beacons[0]);
            }
            Self::CutDirect { back_after } => {
                built.world.set_partition(hosts[0], hosts[1], true);
                built.drip(flow, back_after, |_| false);
                built.world.set_partition(hosts[0], hosts[1], false);
            }
            Self::Suspend { host, time } => {
                built.world.set_awake(hosts[host], false);
                built.world.run_for(time);
                built.world.set_awake(hosts[host], true);
            }
            Self::Flap { host, time, notice } => {
                built.world.set_interface(hosts[host], 0, false, notice);
                built.drip(flow, time, |_| false);
                built.world.set_interface(hosts[host], 0, true, notice);
            }
        }
    }
}

fn run(seed: u64) {
    let mut rng = Rng(seed ^ 0x5eed_c0de);
    let mut scenario = scenario::draw(&mut rng);
    // Hosts move apart, and there is a beacon left when one dies.
    (scenario.shared, scenario.beacons) = (Shared::Nothing, 2);
    let mut built = scenario.build(seed);
    let flow = built.dial(1000);
    built.settle(flow, 10 * SECOND);
    let mut changes = Vec::new();
    for _ in 0..=rng.below(3) {
        let before = Duration::from_millis(rng.below(8000));
        built.drip(flow, before, |_| false);
        let change = draw(&mut rng);
        changes.push(change);
        change.apply(&mut built, &mut scenario, &mut rng, flow);
    }
    built.drip(flow, SECOND, |_| false);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| built.settle(flow, 60 * SECOND)));
    assert!(result.is_ok(), "after {changes:?} in {scenario:?}");
}

#[test]
fn every_byte_arrives_once_and_in_order_across_changes() {
    seeds::each(run);
}
