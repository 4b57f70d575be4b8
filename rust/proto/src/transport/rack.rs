//! RACK loss detection (RFC 8985): a segment is lost when one sent sufficiently later was delivered.

use core::time::Duration;

use crate::{time::Instant, wire::seq::SeqNumber};

/// Recoveries after which a widened reordering window narrows again. RFC 8985 section 6.2, step 4.
const REO_WND_PERSIST: u32 = 16;

/// Lower bound of RACK.rtt. With a clock that does not advance between a transmission and its
/// acknowledgement, segments would otherwise count as lost at the time they are sent.
const GRANULARITY: Duration = Duration::from_micros(10);

/// The most recently sent of the delivered segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Latest {
    xmit_ts: Instant,
    end_seq: SeqNumber,
}

/// State of the algorithm (RFC 8985 section 5.2).
#[derive(Debug)]
pub(super) struct Rack {
    latest: Option<Latest>,
    /// Round-trip time of the segment in `latest`.
    rtt: Duration,
    /// RACK.fack: the highest sequence number delivered.
    fack: SeqNumber,
    is_reordering_seen: bool,
    reo_wnd_mult: u32,
    reo_wnd_persist: u32,
}

impl Rack {
    pub(super) fn new(first: SeqNumber) -> Self {
        Self {
            latest: None,
            rtt: Duration::ZERO,
            fack: first,
            is_reordering_seen: false,
            reo_wnd_mult: 1,
            reo_wnd_persist: 0,
        }
    }

    /// Processes a delivered segment (section 6.2, steps 2 and 3). Returns `false` for a retransmission
    /// acknowledged faster than the minimum RTT: its original was the copy that arrived.
    pub(super) fn on_delivered(
        &mut self,
        now: Instant,
        sent_at: Instant,
        end_seq: SeqNumber,
        transmissions: u32,
        min_rtt: Duration,
    ) -> bool {
        let rtt = now.saturating_since(sent_at);
        if transmissions > 1 && rtt < min_rtt {
            return false;
        }
        if self.is_after(sent_at, end_seq) {
            // A segment sent later was delivered already.
        } else {
            self.latest = Some(Latest { xmit_ts: sent_at, end_seq });
            self.rtt = rtt;
        }
        // Step 3: a segment sent once and delivered below RACK.fack was reordered.
        if end_seq < self.fack && transmissions == 1 {
            self.is_reordering_seen = true;
        }
        self.fack = self.fack.max(end_seq);
        true
    }

    /// The highest sequence number delivered.
    pub(super) fn fack(&self) -> SeqNumber {
        self.fack
    }

    /// Whether a segment sent after this one was delivered (RACK_sent_after).
    pub(super) fn is_after(&self, sent_at: Instant, end_seq: SeqNumber) -> bool {
        self.latest.is_some_and(|latest| {
            latest.xmit_ts > sent_at || (latest.xmit_ts == sent_at && latest.end_seq > end_seq)
        })
    }

    /// When a segment sent at `sent_at` counts as lost, if a later one was delivered.
    pub(super) fn lost_at(&self, sent_at: Instant, reo_wnd: Duration) -> Instant {
        sent_at + self.rtt.max(GRANULARITY) + reo_wnd
    }

    /// RACK.reo_wnd (step 4). `is_sure` during recovery, or when as many segments as the duplicate threshold
    /// are selectively acknowledged.
    pub(super) fn reo_wnd(&self, is_sure: bool, srtt: Duration, min_rtt: Duration) -> Duration {
        if !self.is_reordering_seen && is_sure {
            return Duration::ZERO;
        }
        (min_rtt / 4 * self.reo_wnd_mult).min(srtt)
    }

    /// A retransmission was spurious: widens the reordering window.
    pub(super) fn on_spurious(&mut self) {
        self.reo_wnd_mult = (self.reo_wnd_mult + 1).min(64);
        self.reo_wnd_persist = REO_WND_PERSIST;
        self.is_reordering_seen = true;
    }

    /// A recovery ended.
    pub(super) fn on_recovered(&mut self) {
        self.reo_wnd_persist = self.reo_wnd_persist.saturating_sub(1);
        if self.reo_wnd_persist == 0 {
            self.reo_wnd_mult = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn seq(n: u32) -> SeqNumber {
        SeqNumber::new(n)
    }

    #[test]
    fn the_window_is_zero_until_reordering_is_seen() {
        let mut rack = Rack::new(seq(0));
        let now = Instant::from_millis(40);
        assert!(rack.on_delivered(now, Instant::ZERO, seq(3000), 1, 40 * MS));
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), Duration::ZERO);
        assert_eq!(rack.reo_wnd(false, 40 * MS, 40 * MS), 10 * MS);
        assert!(rack.on_delivered(now, Instant::ZERO, seq(1000), 1, 40 * MS));
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), 10 * MS);
    }

    /// Section 6.2, step 3: retransmissions do not indicate reordering.
    #[test]
    fn a_retransmission_is_no_reordering() {
        let mut rack = Rack::new(seq(0));
        let now = Instant::from_millis(80);
        assert!(rack.on_delivered(now, Instant::ZERO, seq(3000), 1, 40 * MS));
        assert!(rack.on_delivered(now, Instant::from_millis(40), seq(1000), 2, 40 * MS));
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), Duration::ZERO);
    }

    /// Step 3: a peer that reneged may acknowledge the same segment again.
    #[test]
    fn repeated_delivery_is_no_reordering() {
        let mut rack = Rack::new(seq(0));
        for _ in 0..2 {
            assert!(rack.on_delivered(Instant::from_millis(40), Instant::ZERO, seq(3000), 1, 40 * MS));
        }
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), Duration::ZERO);
    }

    #[test]
    fn a_spurious_retransmission_widens_the_window() {
        let mut rack = Rack::new(seq(0));
        let now = Instant::from_millis(50);
        assert!(!rack.on_delivered(now, Instant::from_millis(45), seq(1000), 2, 40 * MS));
        for expected in [20, 30, 40, 40] {
            rack.on_spurious();
            assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), expected * MS);
        }
        for _ in 1..REO_WND_PERSIST {
            rack.on_recovered();
        }
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), 40 * MS);
        rack.on_recovered();
        assert_eq!(rack.reo_wnd(true, 40 * MS, 40 * MS), 10 * MS);
    }

    #[test]
    fn segments_are_ordered_by_send_time_then_sequence_number() {
        let mut rack = Rack::new(seq(0));
        assert!(!rack.is_after(Instant::ZERO, seq(1)));
        rack.on_delivered(Instant::from_millis(30), Instant::from_millis(5), seq(2000), 1, MS);
        assert!(rack.is_after(Instant::from_millis(4), seq(9000)));
        assert!(rack.is_after(Instant::from_millis(5), seq(1000)));
        assert!(!rack.is_after(Instant::from_millis(5), seq(2000)));
        assert!(!rack.is_after(Instant::from_millis(6), seq(1000)));
        assert_eq!(rack.lost_at(Instant::from_millis(5), 2 * MS), Instant::from_millis(32));
    }

    #[test]
    fn no_segment_is_lost_at_its_send_time() {
        let mut rack = Rack::new(seq(0));
        let now = Instant::from_millis(5);
        rack.on_delivered(now, now, seq(2000), 1, Duration::ZERO);
        assert!(rack.is_after(now, seq(1000)));
        assert!(rack.lost_at(now, Duration::ZERO) > now);
    }
}
