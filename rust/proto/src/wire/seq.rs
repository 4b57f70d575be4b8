//! Sequence numbers: the modulo 2^32 space of RFC 9293 section 3.4.
//!
//! No other code compares or subtracts sequence numbers as integers.

use core::{
    cmp::Ordering,
    fmt,
    ops::{Add, AddAssign, Sub},
};

/// A sequence number. Ordering is serial: `a` is after `b` when `a - b` as a signed number is
/// positive, so it is meaningful only between numbers less than 2^31 apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(u32);

impl SeqNumber {
    /// The number with this value on the wire.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The value on the wire.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// Signed distance from `earlier` to `self`.
    pub const fn distance_from(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Bytes from `earlier` to `self`, `None` when `self` is before `earlier`.
    pub fn bytes_since(self, earlier: Self) -> Option<usize> {
        usize::try_from(self.distance_from(earlier)).ok()
    }

    /// The later of two numbers.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// The earlier of two numbers.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
}

impl PartialOrd for SeqNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.distance_from(*other).cmp(&0))
    }
}

impl Add<usize> for SeqNumber {
    type Output = Self;

    #[allow(clippy::cast_possible_truncation, reason = "the space is modulo 2^32")]
    fn add(self, rhs: usize) -> Self {
        Self(self.0.wrapping_add(rhs as u32))
    }
}

impl AddAssign<usize> for SeqNumber {
    fn add_assign(&mut self, rhs: usize) {
        *self = *self + rhs;
    }
}

impl Sub<usize> for SeqNumber {
    type Output = Self;

    #[allow(clippy::cast_possible_truncation, reason = "the space is modulo 2^32")]
    fn sub(self, rhs: usize) -> Self {
        Self(self.0.wrapping_sub(rhs as u32))
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_serial_across_the_wrap() {
        let before = SeqNumber::new(u32::MAX - 1);
        let after = before + 4;
        assert_eq!(after, SeqNumber::new(2));
        assert!(after > before);
        assert!(before < after);
        assert_eq!(after.bytes_since(before), Some(4));
        assert_eq!(before.bytes_since(after), None);
        assert_eq!(after.max(before), after);
        assert_eq!(after.min(before), before);
        assert_eq!(after - 4, before);
    }
}
