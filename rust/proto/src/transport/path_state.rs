//! What a connection knows of one path: congestion control, round-trip time and pacing (RFC 9000 section
//! 9.4). Segments in flight are not part of it.

use super::{congestion::Controller, pacing::Pacer, rtt::RttEstimator};
use crate::time::Instant;

/// Paths whose state is kept beside the current one's: one through a relay and one direct, say.
pub(super) const MAX_LEFT: usize = 2;

/// Names a path. Two addresses behind which the network may differ need different keys; another port of the
/// same address (a NAT binding) keeps its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PathKey(pub u32);

/// State of a path that was left.
#[derive(Debug)]
pub(super) struct LeftPath {
    pub(super) key: PathKey,
    pub(super) left_at: Instant,
    pub(super) rtt: RttEstimator,
    pub(super) congestion: Box<dyn Controller>,
    pub(super) pacer: Pacer,
    pub(super) delivery_rate: u64,
}
