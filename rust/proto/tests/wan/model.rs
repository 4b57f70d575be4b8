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
}
