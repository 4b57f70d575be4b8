//! Loss recovery: acknowledgements and timeouts drive congestion control, RACK, the tail loss probe and the
//! retransmission timeout (RFC 5681, 6298, 8985).

use core::time::Duration;

use super::{
    CloseReason, Connection, Dialect, State, TimerKind,
    congestion::Ack,
    connection::Undo,
    send::{Acked, Outgoing, Recovery},
    trace::{LossTrigger, TransportEvent},
};
use crate::{time::Instant, wire::seq::SeqNumber};

impl Connection {
    pub(super) fn min_rtt(&self) -> Duration {
        self.rtt.min_rtt().unwrap_or_default()
    }

    fn srtt(&self) -> Duration {
        self.rtt.srtt().unwrap_or(self.options.config.rto_initial)
    }

    /// Continues after an acknowledgement was applied to the scoreboard. `ack` is SEG.ACK;
    /// `is_bare_duplicate` is set for a duplicate ACK without SACK.
    pub(super) fn on_acked(
        &mut self,
        now: Instant,
        acked: &Acked,
        prior_in_flight: usize,
        ack: SeqNumber,
        is_bare_duplicate: bool,
    ) {
        if acked.bytes > 0 {
            self.dup_acks = 0;
            self.on_progress(now);
        }
        let sample = acked.sampled_at.map(|sent_at| now.saturating_since(sent_at));
        if let Some(rtt) = sample {
            self.rtt.on_sample(rtt);
            self.has_undone_timeout = false;
        }
        let rate = self.sender.rate_sample(acked);
        if let Some(rate) = rate.and_then(|rate| rate.rate(self.min_rtt())) {
            self.delivery_rate = rate;
        }
        let was_recovering = matches!(self.sender.recovery, Recovery::Fast { .. });
        self.on_spurious(acked.spurious);
        self.process_probe_ack(now, acked, prior_in_flight, ack, is_bare_duplicate);
        self.leave_recovery();
        if was_recovering && acked.bytes > 0 && !self.has_sack() {
            // Without SACK a partial acknowledgement indicates the next hole (RFC 6582).
            self.mark_head_lost();
        }
        let lost = self.detect_loss(now, prior_in_flight);
        if acked.delivered == 0 {
            return;
        }
        if acked.delivered_here == 0 {
            self.arm_retransmission(now);
            return;
        }
        self.congestion.on_ack(&Ack {
            now,
            acked: acked.counted,
            delivered: acked.delivered_here,
            total_delivered: self.sender.delivered(),
            lost,
            in_flight: self.sender.in_flight(),
            rtt: sample,
            min_rtt: self.min_rtt(),
            srtt: self.srtt(),
            snd_una: self.sender.round_end(),
            snd_nxt: self.sender.snd_nxt,
            is_cwnd_limited: self.is_cwnd_limited(),
            is_recovering: was_recovering || matches!(self.sender.recovery, Recovery::Fast { .. }),
            rate,
        });
        self.pacer.set_rate(self.congestion.pacing_rate(self.rtt.srtt()));
        self.arm_retransmission(now);
    }

    /// Whether the congestion window limited the last round trip. In slow start a half-used window counts, so
    /// that it can double (RFC 7661).
    pub(super) fn is_cwnd_limited(&self) -> bool {
        let is_half_used = self.congestion.cwnd() <= 2 * self.window_use.max_in_flight;
        self.window_use.is_limited || (self.congestion.is_slow_start() && is_half_used)
    }

    /// Whether the peer sends SACK. A duplicate ACK without SACK then indicates a duplicate segment, not a
    /// loss.
    fn has_sack(&self) -> bool {
        self.options.dialect == Dialect::Native || self.counters.sack_recv > 0
    }

    fn leave_recovery(&mut self) {
        let recover = match self.sender.recovery {
            Recovery::Open => return,
            Recovery::Fast { recover } | Recovery::Timeout { recover } => recover,
        };
        if self.sender.snd_una >= recover {
            self.end_recovery(false);
            self.sender.rack.on_recovered();
            self.congestion.on_recovered();
        }
    }

    /// A segment sent at `since` was dropped because it exceeds the new [`Self::max_segment`]. It and others on
    /// this path that are longer and were sent later are retransmitted at once, in parts, without a
    /// congestion response.
    pub fn on_path_mtu_reduced(&mut self, now: Instant, since: Instant) {
        if !self.sender.mark_longer_lost(self.options.max_segment, since) {
            return;
        }
        self.probe.end_seq = None;
        self.arm_retransmission(now);
    }

    /// What a peer without SACK tells by duplicates. While the head is in flight on a path that was left,
    /// duplicates tell that it is slower.
    fn mark_head_lost(&mut self) {
        if self.sender.is_head_elsewhere() {
            return;
        }
        let seq = self.sender.snd_una;
        if let Some(loss) = self.sender.mark_head_lost() {
            self.recorder.trace.packet(|| TransportEvent::Lost { seq, size: loss.size });
            self.congestion.on_segment_lost(&loss);
        }
    }

    /// RACK, and fast retransmit after three duplicate ACKs (RFC 5681 section 3.2) for peers without SACK.
    /// Returns the bytes that RACK marked lost.
    pub(super) fn detect_loss(&mut self, now: Instant, flight_size: usize) -> usize {
        let threshold = self.options.config.dup_ack_threshold;
        let is_sure = self.sender.recovery != Recovery::Open || self.sender.sacked() >= threshold as usize;
        let reo_wnd = self.sender.rack.reo_wnd(is_sure, self.srtt(), self.min_rtt());
        let (congestion, trace) = (&mut self.congestion, &mut self.recorder.trace);
        self.sender.answer_time = self.rtt.srtt().unwrap_or(self.options.config.rto_min);
        let (mut lost, mut is_lost_elsewhere) = (0, false);
        let deadline = self.sender.detect_lost(now, reo_wnd, |seq, size, loss| {
            trace.packet(|| TransportEvent::Lost { seq, size });
            match loss {
                Some(loss) => {
                    lost += size;
                    congestion.on_segment_lost(loss);
                }
                None => is_lost_elsewhere = true,
            }
        });
        match deadline {
            Some(at) => self.timers.set(TimerKind::Reordering, at),
            None => self.timers.stop(TimerKind::Reordering),
        }
        if is_lost_elsewhere {
            // All that arrived by the new path waits for it.
            self.sender.force_retransmission();
        }
        if self.dup_acks == threshold && !self.has_sack() && self.sender.recovery == Recovery::Open {
            self.mark_head_lost();
        }
        if self.sender.recovery == Recovery::Open && self.sender.has_congestion_loss() {
            self.start_recovery(LossTrigger::Acknowledgement);
            self.undo = Some(Undo::default());
            self.probe.end_seq = None;
            self.congestion.on_loss_event(now, flight_size, self.sender.in_flight());
            self.sender.force_retransmission();
            self.arm_retransmission(now);
        }
        lost
    }

    /// Counts spurious retransmissions. When all retransmissions of a loss event were spurious, its window
    /// reduction is undone.
    fn on_spurious(&mut self, spurious: u32) {
        if spurious == 0 {
            return;
        }
        self.counters.spurious_retx += u64::from(spurious);
        self.sender.rack.on_spurious();
        let Some(undo) = &mut self.undo else { return };
        undo.spurious += spurious;
        if undo.spurious < undo.retransmissions {
            return;
        }
        if matches!(self.sender.recovery, Recovery::Timeout { .. }) {
            if core::mem::replace(&mut self.has_undone_timeout, true) {
                // An ACK faster than the minimum RTT may also mean a shorter path; a second one without an
                // RTT sample in between does.
                return;
            }
            self.sender.undo_timeout();
        }
        self.end_recovery(true);
        self.congestion.undo();
    }

    /// Processes an acknowledgement of the tail loss probe (RFC 8985 section 7.4.2). Without D-SACK, a bare
    /// duplicate shows that both copies arrived.
    fn process_probe_ack(
        &mut self,
        now: Instant,
        acked: &Acked,
        flight_size: usize,
        ack: SeqNumber,
        is_bare_duplicate: bool,
    ) {
        let Some(end_seq) = self.probe.end_seq.filter(|end| ack >= *end) else { return };
        if !self.probe.is_retrans || acked.spurious > 0 {
            self.probe.end_seq = None;
        } else if ack > end_seq {
            self.probe.end_seq = None;
            // The probe repaired a loss that was not detected otherwise.
            self.congestion.on_loss_event(now, flight_size, self.sender.in_flight());
            self.congestion.on_recovered();
        } else if is_bare_duplicate {
            self.probe.end_seq = None;
            self.counters.spurious_retx += 1;
        }
    }

    /// Arms the probe timeout while nothing indicates a loss, otherwise the retransmission timeout (RFC 6298
    /// (5.3), RFC 8985 section 7.2).
    pub(super) fn arm_retransmission(&mut self, now: Instant) {
        self.timers.stop(TimerKind::LossProbe);
        self.probe.is_due = false;
        if self.sender.outstanding() == 0 {
            self.timers.stop(TimerKind::Retransmission);
            return;
        }
        // A head on a path that was left has that path's time first.
        let rto_at = self.sender.head_overdue_at().map_or(now, |at| at.max(now)) + self.rtt.rto();
        self.timers.set(TimerKind::Retransmission, rto_at);
        let may_probe = self.sender.recovery == Recovery::Open
            && self.sender.sacked() == 0
            && self.probe.end_seq.is_none()
            && !self.sender.is_head_elsewhere()
            && self.snd_wnd > 0
            && self.state.is_synchronized();
        if let Some(srtt) = self.rtt.srtt().filter(|_| may_probe) {
            let is_single = self.sender.outstanding() == 1;
            let delay = if is_single { self.options.config.ack_delay_max } else { Duration::ZERO };
            let pto_at = now + srtt * 2 + delay;
            self.timers.set(TimerKind::LossProbe, pto_at.min(rto_at));
            self.timers.stop(TimerKind::Retransmission);
        }
    }

    /// The probe timeout expired: one segment, new data if possible, is sent to reveal a tail loss.
    pub(super) fn on_probe_timeout(&mut self, now: Instant) {
        self.timers.set(TimerKind::Retransmission, now + self.rtt.rto());
        self.probe.is_due = true;
    }

    /// The segment of the tail loss probe: `new_len` bytes of new data, else a retransmission.
    pub(super) fn next_probe(&mut self, now: Instant, new_len: Option<usize>) -> Option<Outgoing> {
        let segment = match new_len {
            Some(len) => self.sender.send_new(now, len, false),
            None => self.sender.retransmit_last(now, self.max_retransmit_len())?,
        };
        self.probe.is_retrans = new_len.is_none();
        self.probe.end_seq = Some(segment.seq + segment.len + usize::from(segment.is_fin));
        self.counters.loss_probes += 1;
        Some(segment)
    }

    pub(super) fn on_retransmission_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            if self.has_reached_syn_timeout(now) {
                self.fail(CloseReason::SynTimeout);
            } else {
                self.is_syn_due = true;
            }
            return;
        }
        if self.sender.outstanding() == 0 {
            return;
        }
        self.timeouts += 1;
        let config = &self.options.config;
        if self.options.dialect.is_legacy() && self.sender.is_fin_sent {
            if self.timeouts > config.legacy_fin_retries {
                self.fail(CloseReason::Finished);
                return;
            }
        } else if self.has_reached_r2(now) {
            self.is_rst_due = true;
            self.fail(CloseReason::RetransmissionTimeout);
            return;
        }
        self.is_path_suspect |= self.sender.is_head_large() && !self.options.dialect.is_legacy();
        let is_new_event = !matches!(self.sender.recovery, Recovery::Timeout { .. });
        // Protocol: back off once per loss event. A closed window is no loss. During an outage each timeout
        // backs off (RFC 6298 (5.5)).
        let is_outage = self.timeouts > self.options.config.max_retransmissions;
        if is_new_event || is_outage || self.snd_wnd == 0 {
            self.rtt.back_off();
        }
        if self.snd_wnd > 0 {
            self.congestion.on_rto(now, self.sender.in_flight(), is_new_event);
            if is_new_event {
                self.undo = Some(Undo::default());
            }
        }
        self.sender.on_timeout();
        self.start_recovery(LossTrigger::Timeout);
        self.dup_acks = 0;
        self.probe.end_seq = None;
        self.timers.stop(TimerKind::Reordering);
        self.timers.set(TimerKind::Retransmission, now + self.rtt.rto());
    }
}
