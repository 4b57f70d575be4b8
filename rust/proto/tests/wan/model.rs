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

/// Found by the above: what left in the moment in which something later was acknowledged counted as
/// lost at once, again and again on a path without delay.
#[test]
fn a_path_without_delay_repeats_nothing_without_end() {
    pilot_sim::model::run(&[
        0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 227, 1, 72, 0, 0, 1, 0, 195, 3, 0, 0, 184, 1, 173, 0, 3, 199,
        95, 0,
    ]);
}

/// Found by fuzzing: the dialler had spent the credit of an address that the registry names, every answer
/// was lost, and neither end sent anything more.
#[test]
fn a_dial_whose_answers_were_lost_goes_on() {
    pilot_sim::model::run(&[
        136, 186, 35, 255, 140, 35, 138, 247, 181, 247, 0, 0, 0, 0, 134, 255, 255, 255, 0, 0, 13, 0, 209, 29,
        255, 255, 255, 255, 87, 163, 48,
    ]);
}
