//! How much may be in flight.

mod reno;

pub use reno::Reno;
