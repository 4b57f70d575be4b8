//! `pilotstack._core`: converts arguments and results and releases the GIL. No state and no logic of its own.

mod beacon;
mod core;
mod errors;
mod keys;
mod port_mapping;
mod simulation;

use pyo3::prelude::*;

#[pymodule]
#[pyo3(name = "_core")]
fn core_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // On a second import the logger is already installed.
    let _ = pyo3_log::try_init();
    module.add_class::<core::Core>()?;
    module.add_class::<beacon::BeaconServer>()?;
    module.add_class::<port_mapping::PortMapper>()?;
    module.add_class::<simulation::Simulation>()?;
    module.add_function(wrap_pyfunction!(keys::ed25519_public_key, module)?)?;
    module.add_function(wrap_pyfunction!(keys::ed25519_sign, module)?)?;
    module.add_function(wrap_pyfunction!(keys::ed25519_verify, module)?)?;
    Ok(())
}
