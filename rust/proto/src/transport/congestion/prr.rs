//! Proportional Rate Reduction (PRR, RFC 9937): limits transmission during fast recovery, so that the flight
//! neither stalls nor exceeds what the path delivers.
//!
//! For peers without SACK, duplicate ACKs are not counted; their segments are counted with the next
//! cumulative acknowledgement.

use super::Ack;

/// One fast recovery. Bytes throughout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prr {
    /// RecoverFS (section 6.1): bytes in flight at the start of the recovery, without selectively
    /// acknowledged ones.
    recover_fs: usize,
    /// prr_delivered.
    delivered: usize,
    /// prr_out.
    out: usize,
}

impl Prr {
    /// Starts a recovery with `flight_size` bytes in flight.
    pub(super) fn new(flight_size: usize) -> Self {
        Self { recover_fs: flight_size.max(1), delivered: 0, out: 0 }
    }

    /// `size` bytes are sent.
    pub(super) fn on_sent(&mut self, size: usize) {
        self.out = self.out.saturating_add(size);
    }

    /// Bytes that may be sent upon an acknowledgement (section 6.2).
    pub(super) fn on_ack(&mut self, ack: &Ack, ssthresh: usize, smss: usize) -> usize {
        self.delivered = self.delivered.saturating_add(ack.delivered);
        let sndcnt = if ack.in_flight > ssthresh {
            // Proportional: the flight shrinks to the threshold over one round trip.
            let due = (self.delivered as u128 * ssthresh as u128).div_ceil(self.recover_fs as u128);
            usize::try_from(due).unwrap_or(usize::MAX).saturating_sub(self.out)
        } else {
            // The flight is below the threshold: as much as is delivered may be sent (PRR-CRB), plus one
            // segment without new losses (PRR-SSRB).
            let is_safe = ack.acked > 0 && ack.lost == 0;
            let limit = self.delivered.saturating_sub(self.out).max(ack.delivered);
            let limit = if is_safe { limit.saturating_add(smss) } else { limit };
            limit.min(ssthresh - ack.in_flight)
        };
        // The first retransmission is sent at once.
        if self.out == 0 && sndcnt == 0 { smss } else { sndcnt }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{SMSS, ack},
        *,
    };
    use crate::time::Instant;

    fn told(in_flight: usize, delivered: usize) -> Ack {
        Ack { in_flight, acked: 0, delivered, ..ack(Instant::ZERO, 0) }
    }

    /// One loss of a hundred, a reduction to seven tenths.
    #[test]
    fn a_single_loss_spreads_the_reduction_over_a_round_trip() {
        let mut prr = Prr::new(100 * SMSS);
        let (mut in_flight, mut sent) = (99 * SMSS, 0);
        for delivered in 1..=99 {
            in_flight -= SMSS;
            let mut may = prr.on_ack(&told(in_flight, SMSS), 70 * SMSS, SMSS);
            while may >= SMSS {
                prr.on_sent(SMSS);
                may -= SMSS;
                in_flight += SMSS;
                sent += 1;
            }
            assert!((delivered * 7 / 10_i32).abs_diff(sent) <= 1, "{sent} of {delivered}");
        }
        assert!((69 * SMSS..=70 * SMSS).contains(&in_flight), "{in_flight}");
    }

    #[test]
    fn after_heavy_losses_the_flight_follows_delivery() {
        // Half is gone: the flight is below the threshold from the start.
        let mut prr = Prr::new(100 * SMSS);
        prr.on_sent(SMSS);
        for _ in 0..20 {
            let lossy = Ack { acked: SMSS, lost: SMSS, ..told(49 * SMSS, SMSS) };
            assert_eq!(prr.on_ack(&lossy, 70 * SMSS, SMSS), SMSS);
            prr.on_sent(SMSS);
        }
    }

    #[test]
    fn progress_without_losses_grows_the_flight_up_to_the_threshold() {
        let mut prr = Prr::new(100 * SMSS);
        prr.on_sent(SMSS);
        let safe = |in_flight| Ack { acked: SMSS, ..told(in_flight, SMSS) };
        assert_eq!(prr.on_ack(&safe(49 * SMSS), 70 * SMSS, SMSS), 2 * SMSS);
        prr.on_sent(2 * SMSS);
        assert_eq!(prr.on_ack(&safe(69 * SMSS), 70 * SMSS, SMSS), SMSS);
        assert_eq!(prr.on_ack(&safe(70 * SMSS), 70 * SMSS, SMSS), 0);
        // Selective acknowledgements alone are no progress.
        assert_eq!(prr.on_ack(&told(49 * SMSS, SMSS), 70 * SMSS, SMSS), SMSS);
        // At the threshold nothing is caught up.
        let mut prr = Prr::new(100 * SMSS);
        prr.on_sent(SMSS);
        assert_eq!(prr.on_ack(&told(70 * SMSS, 10 * SMSS), 70 * SMSS, SMSS), 0);
    }

    #[test]
    fn unused_allowance_is_kept() {
        let mut prr = Prr::new(100 * SMSS);
        prr.on_sent(SMSS);
        let lossy = Ack { acked: SMSS, lost: SMSS, ..told(40 * SMSS, SMSS) };
        for _ in 0..5 {
            prr.on_ack(&lossy, 70 * SMSS, SMSS);
        }
        // Six delivered, one sent.
        assert_eq!(prr.on_ack(&lossy, 70 * SMSS, SMSS), 5 * SMSS);
    }

    #[test]
    fn the_first_retransmission_is_sent_at_once() {
        let mut prr = Prr::new(100 * SMSS);
        assert_eq!(prr.on_ack(&told(99 * SMSS, 0), 70 * SMSS, SMSS), SMSS);
        prr.on_sent(SMSS);
        assert_eq!(prr.on_ack(&told(99 * SMSS, 0), 70 * SMSS, SMSS), 0);
    }
}
