//! Slow start and AIMD (RFC 5681) with appropriate byte counting (RFC 3465) and NewReno's single
//! reduction per loss event (RFC 6582). After a timeout the window is the initial one: WP 4.3, which
//! deviates from the loss window of RFC 5681 section 3.1.

/// The congestion window of one connection, in octets.
#[derive(Clone, Debug)]
pub struct Reno {
    cwnd: usize,
    ssthresh: usize,
    smss: usize,
    initial_window: usize,
    max_cwnd: usize,
    abc_limit: Option<usize>,
    /// Octets acknowledged since the window last grew in congestion avoidance.
    bytes_acked: usize,
}

impl Reno {
    /// The window before anything was sent. `abc_limit` is L of RFC 3465 in segments, or `None` to
    /// count every octet in slow start.
    pub fn new(
        initial_window: usize,
        ssthresh: usize,
        max_cwnd: usize,
        smss: usize,
        abc_limit: Option<usize>,
    ) -> Self {
        Self { cwnd: initial_window, ssthresh, smss, initial_window, max_cwnd, abc_limit, bytes_acked: 0 }
    }

    /// Octets that may be in flight.
    pub fn cwnd(&self) -> usize {
        self.cwnd
    }

    /// Slow-start threshold, octets.
    pub fn ssthresh(&self) -> usize {
        self.ssthresh
    }

    /// The segment size changed.
    pub fn set_smss(&mut self, smss: usize) {
        self.smss = smss;
    }

    /// How slow start counts from now on.
    pub fn set_abc_limit(&mut self, abc_limit: Option<usize>) {
        self.abc_limit = abc_limit;
    }

    /// `bytes` were newly acknowledged outside recovery while the window was the limit.
    pub fn on_ack(&mut self, bytes: usize) {
        if self.cwnd < self.ssthresh {
            let counted = self.abc_limit.map_or(bytes, |limit| bytes.min(limit * self.smss));
            self.cwnd += counted;
        } else {
            self.bytes_acked += bytes;
            if self.bytes_acked >= self.cwnd {
                self.bytes_acked -= self.cwnd;
                self.cwnd += self.smss;
            }
        }
        self.cwnd = self.cwnd.min(self.max_cwnd);
    }

    /// A loss event was detected with `flight_size` octets in flight.
    pub fn on_loss(&mut self, flight_size: usize) {
        self.ssthresh = (flight_size / 2).max(2 * self.smss);
        self.cwnd = self.ssthresh;
        self.bytes_acked = 0;
    }

    /// The retransmission timer expired with `flight_size` octets in flight; `is_new_event` unless it
    /// already had for data of the same window (RFC 5681 section 3.1, last paragraph).
    pub fn on_rto(&mut self, flight_size: usize, is_new_event: bool) {
        if is_new_event {
            self.ssthresh = (flight_size / 2).max(2 * self.smss);
        }
        self.cwnd = self.initial_window.min(self.cwnd);
        self.bytes_acked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMSS: usize = 1000;

    fn reno() -> Reno {
        Reno::new(10 * SMSS, 40 * SMSS, 100 * SMSS, SMSS, Some(2))
    }

    #[test]
    fn slow_start_counts_at_most_two_segments_per_ack() {
        let mut reno = reno();
        reno.on_ack(SMSS);
        assert_eq!(reno.cwnd(), 11 * SMSS);
        reno.on_ack(5 * SMSS);
        assert_eq!(reno.cwnd(), 13 * SMSS);
        reno.set_abc_limit(None);
        reno.on_ack(5 * SMSS);
        assert_eq!(reno.cwnd(), 18 * SMSS);
    }

    #[test]
    fn avoidance_adds_one_segment_per_window() {
        let mut reno = reno();
        reno.on_loss(40 * SMSS);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (20 * SMSS, 20 * SMSS));
        for _ in 0..19 {
            reno.on_ack(SMSS);
        }
        assert_eq!(reno.cwnd(), 20 * SMSS);
        reno.on_ack(SMSS);
        assert_eq!(reno.cwnd(), 21 * SMSS);
    }

    #[test]
    fn a_timeout_returns_to_the_initial_window_and_halves_once() {
        let mut reno = reno();
        reno.on_rto(30 * SMSS, true);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (10 * SMSS, 15 * SMSS));
        reno.on_rto(2 * SMSS, false);
        assert_eq!((reno.cwnd(), reno.ssthresh()), (10 * SMSS, 15 * SMSS));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut reno = reno();
        reno.set_abc_limit(None);
        reno.on_ack(1000 * SMSS);
        assert_eq!(reno.cwnd(), 100 * SMSS);
    }
}
