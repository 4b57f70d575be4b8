//! A network of three nodes against a reference model: see `pilot_sim::model`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| pilot_sim::model::run(input));
