//! Names of drivers and of their requests.

/// Names a connected driver; never used again.
pub type ClientId = u64;

/// Names a request of a driver, for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Whose request.
    pub client: ClientId,
    /// Its id, if the driver gave one.
    pub id: Option<u32>,
}
