//! Ed25519 (RFC 8032) for Python, by the library that the core signs with.

use pilot_proto::crypto::identity::{self, Identity};
use pyo3::{prelude::*, types::PyBytes};

use crate::errors;

/// The public key of a 32-byte seed.
#[pyfunction]
pub(crate) fn ed25519_public_key<'py>(py: Python<'py>, seed: [u8; 32]) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &key_pair(&seed)?.public_key()))
}

/// The 64-byte signature over `message`.
#[pyfunction]
pub(crate) fn ed25519_sign<'py>(
    py: Python<'py>,
    seed: [u8; 32],
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let signature =
        key_pair(&seed)?.sign(message).map_err(|_| errors::internal("the message cannot be signed"))?;
    Ok(PyBytes::new(py, &signature))
}

/// Verifies the signature over `message`; `false` also for keys and signatures of wrong length.
#[pyfunction]
pub(crate) fn ed25519_verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(public_key), Ok(signature)) = (public_key.try_into(), signature.try_into()) else {
        return false;
    };
    identity::verify(public_key, message, signature).is_ok()
}

fn key_pair(seed: &[u8; 32]) -> PyResult<Identity> {
    Identity::from_seed(seed).map_err(|_| errors::invalid("not a seed of a key pair"))
}
