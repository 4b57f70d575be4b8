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
