//! Random operations on a network and on a model of it (the same that libFuzzer drives).

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_network_does_what_its_model_says(
        operations in proptest::collection::vec(any::<[u8; 4]>(), 1..60)
    ) {
        pilot_sim::model::run(&operations.concat());
    }
}

/// Found by the above.
#[test]
fn what_went_wrong_once_does_not_again() {
    // What left in the moment in which something later was acknowledged counted as lost at once, again
    // and again on a path without delay.
    pilot_sim::model::run(&[
        0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 227, 1, 72, 0, 0, 1, 0, 195, 3, 0, 0, 184, 1, 173, 0, 3, 199,
        95, 0,
    ]);
    // The word of a restart came after the handshake with the new process, and broke the connection.
    pilot_sim::model::run(&[
        50, 29, 115, 21, 243, 70, 53, 55, 3, 64, 218, 0, 4, 44, 173, 0, 176, 146, 7, 80, 83, 0, 0, 0, 147,
        11, 0, 0, 0, 0, 0, 0, 87, 0, 0, 0, 6, 0, 0, 0, 24, 0, 0, 0, 9, 82, 47, 0, 0, 0, 0, 0, 80, 0, 3, 0,
    ]);
    // The key of a process that was gone arrived after that of its successor, whose key was then refused
    // as a replay for good.
    pilot_sim::model::run(&[
        50, 255, 32, 136, 181, 17, 0, 119, 251, 1, 0, 50, 255, 0, 0, 6, 85, 0, 0, 0, 0, 0, 35, 255, 255, 248,
        214, 50, 176, 63, 30, 30,
    ]);
    // A restarted host dialled between the ports of a connection that its peer still held, and its SYN
    // was taken for one of that.
    pilot_sim::model::run(&[
        0, 122, 1, 0, 0, 63, 143, 130, 170, 170, 0, 0, 255, 0, 121, 61, 0, 59, 0, 0, 0, 255, 2, 40,
    ]);
}
