//! Python binding: `pilotstack._core`.

use pyo3::prelude::*;

/// The compiled core of pilotstack.
#[pymodule(gil_used = false)]
mod _core {}
