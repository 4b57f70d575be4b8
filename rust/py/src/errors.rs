//! The package's own exceptions, which are Python classes: one per meaning, none made here.

use std::fmt::Display;

use pyo3::PyErr;

/// Where the classes are. They are imported when the first is raised.
mod classes {
    pyo3::import_exception!(pilotstack.errors, InternalError);
    pyo3::import_exception!(pilotstack.errors, InvalidArgument);
    pyo3::import_exception!(pilotstack.errors, NotFound);
    pyo3::import_exception!(pilotstack.errors, TimedOut);
}

/// An argument outside its range.
pub(crate) fn invalid(message: impl Display) -> PyErr {
    classes::InvalidArgument::new_err(message.to_string())
}

/// Nothing has this name or number.
pub(crate) fn not_found(message: impl Display) -> PyErr {
    classes::NotFound::new_err(message.to_string())
}

/// What was waited for did not happen in time.
pub(crate) fn timed_out(message: impl Display) -> PyErr {
    classes::TimedOut::new_err(message.to_string())
}

/// A defect of ours.
pub(crate) fn internal(message: impl Display) -> PyErr {
    classes::InternalError::new_err(message.to_string())
}
