//! `pilotstack._core`: converts, lets go of the GIL, converts. No state and no decision of its own.

mod beacon;
mod core;
mod errors;
mod keys;
mod simulation;

use pyo3::prelude::*;

#[pymodule]
#[pyo3(name = "_core")]
fn core_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A second import in one process finds the logger installed.
    let _ = pyo3_log::try_init();
    module.add_class::<core::Core>()?;
    module.add_class::<beacon::BeaconServer>()?;
    module.add_class::<simulation::Simulation>()?;
    module.add_function(wrap_pyfunction!(keys::ed25519_public_key, module)?)?;
    module.add_function(wrap_pyfunction!(keys::ed25519_sign, module)?)?;
    module.add_function(wrap_pyfunction!(keys::ed25519_verify, module)?)?;
    Ok(())
}
