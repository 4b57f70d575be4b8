//! Raises the exceptions of `pilotstack.errors`; defines none.

use std::fmt::Display;

use pyo3::PyErr;

/// The Python classes, imported on first use.
mod classes {
    pyo3::import_exception!(pilotstack.errors, ConnectionFailed);
    pyo3::import_exception!(pilotstack.errors, InternalError);
    pyo3::import_exception!(pilotstack.errors, InvalidArgument);
    pyo3::import_exception!(pilotstack.errors, NotFound);
    pyo3::import_exception!(pilotstack.errors, TimedOut);
}

/// An argument outside its range.
pub(crate) fn invalid(message: impl Display) -> PyErr {
    classes::InvalidArgument::new_err(message.to_string())
}

/// Nobody answers, or something refuses.
pub(crate) fn connection_failed(message: impl Display) -> PyErr {
    classes::ConnectionFailed::new_err(message.to_string())
}

/// The name or number does not exist.
pub(crate) fn not_found(message: impl Display) -> PyErr {
    classes::NotFound::new_err(message.to_string())
}

/// A timeout expired.
pub(crate) fn timed_out(message: impl Display) -> PyErr {
    classes::TimedOut::new_err(message.to_string())
}

/// A bug of this package.
pub(crate) fn internal(message: impl Display) -> PyErr {
    classes::InternalError::new_err(message.to_string())
}
