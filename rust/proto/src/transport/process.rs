//! Segment arrival (RFC 9293 section 3.10.7).

use super::{
    CloseReason, Connection, Dialect, State, TimerKind,
    recv::Arrival,
    send::Acked,
    state::Input,
    trace::{DropCause, Segment, TransportEvent},
};
use crate::{
    time::Instant,
    wire::{
        packet::{Flags, Header},
        sack::{self, SackBlocks},
        seq::SeqNumber,
    },
};

/// Duplicate ACKs without SACK that trigger fast retransmit in a G1 sender, which ignores those with SACK.
const G1_DUPLICATES: u32 = 3;

impl Connection {
    /// Processes one segment. Unacceptable segments are dropped and counted.
    pub fn process(&mut self, now: Instant, segment: &Header, payload: &[u8]) {
        self.last_arrival = now;
        self.recorder.trace.packet(|| TransportEvent::Received(Segment::new(segment, payload.len())));
        match self.state {
            State::Closed | State::Listen => {}
            State::SynSent => self.process_syn_sent(now, segment),
            State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => self.process_synchronized(now, segment, payload),
        }
        self.trace_metrics();
    }

    fn process_syn_sent(&mut self, now: Instant, segment: &Header) {
        let acks_syn = segment.flags.contains(Flags::ACK) && segment.ack == self.iss + 1;
        let is_legacy = self.options.dialect.is_legacy();
        if segment.flags.contains(Flags::RST) {
            if acks_syn || is_legacy {
                self.fail(CloseReason::Refused);
            }
            return;
        }
        if segment.flags.contains(Flags::ACK) && !acks_syn && self.options.dialect == Dialect::Native {
            // RFC 9293 section 3.10.7.3, first check: reset the peer's half-open connection, so that the
            // retransmitted SYN finds the port free.
            self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
            self.half_open_reset = super::reset_for(segment, 0);
            return;
        }
        if !segment.flags.contains(Flags::SYN) {
            self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
            return;
        }
        if segment.flags.contains(Flags::ACK) {
            // G1 does not check the numbers of a SYN-ACK, and changes them after sending data.
            if !acks_syn && self.options.dialect != Dialect::G1 {
                self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
                return;
            }
            self.start_receiving(segment);
            if self.syn_transmissions == 1
                && let Some(sent_at) = self.syn_sent_at
            {
                self.rtt.on_sample(now.saturating_since(sent_at));
            }
            self.establish(now);
            self.receiver.ack.request();
        } else {
            // Simultaneous open.
            self.start_receiving(segment);
            self.transition(Input::Syn);
            self.is_syn_due = true;
            self.syn_transmissions = 0;
        }
    }

    /// Sets IRS and SND.WND from the peer's SYN.
    fn start_receiving(&mut self, segment: &Header) {
        // A G1 peer retransmits a lost SYN-ACK with a sequence number advanced by data sent meanwhile.
        let has_drifted = self.options.dialect == Dialect::G1 && self.syn_transmissions > 1;
        let irs = if has_drifted { SeqNumber::default() } else { segment.seq };
        self.receiver = super::recv::Receiver::new(irs + 1, &self.options.config);
        self.set_send_window(segment.window);
        self.snd_wl1 = segment.seq;
        self.snd_wl2 = segment.ack;
    }

    fn process_synchronized(&mut self, now: Instant, segment: &Header, payload: &[u8]) {
        let is_repeated = segment.flags.contains(Flags::FIN) || !payload.is_empty();
        if segment.flags.contains(Flags::RST) {
            self.process_rst(segment);
        } else if segment.flags.contains(Flags::SYN) {
            self.process_late_syn(segment);
        } else if self.options.dialect.is_legacy() && segment.flags.contains(Flags::FIN) {
            self.process_legacy_fin(now, segment);
        } else if segment.flags.contains(Flags::ACK) && self.state != State::TimeWait {
            self.process_ack_and_data(now, segment, payload);
        } else if self.state == State::TimeWait && is_repeated && !self.options.dialect.is_legacy() {
            // Our last ACK was lost; the peer retransmits its FIN, or data before it.
            self.receiver.ack.request_pure();
            self.timers.set(TimerKind::TimeWait, now + self.options.config.time_wait);
        } else {
            self.drop_segment(DropCause::Unacceptable, segment.seq, payload.len());
        }
    }

    /// RFC 9293 section 3.10.7.4, second check, without the challenge ACK of RFC 5961: the tunnel already
    /// keeps blind attackers out. Legacy peers send RST with meaningless numbers.
    fn process_rst(&mut self, segment: &Header) {
        if self.receiver.is_in_window(segment.seq) || self.options.dialect.is_legacy() {
            match self.state {
                State::TimeWait => self.fail(CloseReason::Finished),
                State::Closed
                | State::Listen
                | State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
                | State::Closing
                | State::LastAck => self.fail(CloseReason::Reset),
            }
        } else {
            self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
        }
    }

    /// A SYN for an existing connection: our SYN-ACK was lost, or the SYN is an old duplicate.
    fn process_late_syn(&mut self, segment: &Header) {
        let is_repeated = segment.seq + 1 == self.receiver.rcv_nxt;
        if segment.flags.contains(Flags::ACK) {
            if self.state == State::SynReceived && segment.ack == self.iss + 1 {
                // Simultaneous open: their SYN-ACK acknowledges our SYN.
                self.establish(self.last_arrival);
                self.set_send_window(segment.window);
            }
            self.receiver.ack.request_pure();
        } else if is_repeated && (self.options.dialect.is_legacy() || self.sender.snd_nxt == self.iss + 1) {
            self.is_syn_due = true;
        } else {
            // RFC 5961 section 4.2: a challenge acknowledgement.
            self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
            self.receiver.ack.request_pure();
        }
    }

    /// FIN of a legacy peer closes both directions; FIN|ACK answers ours.
    fn process_legacy_fin(&mut self, now: Instant, segment: &Header) {
        if self.state == State::TimeWait {
            // An answer to an answer would loop.
            if !segment.flags.contains(Flags::ACK) {
                self.receiver.ack.request_pure();
            }
            return;
        }
        if !self.receiver.on_fin(segment.seq) {
            self.drop_segment(DropCause::Unacceptable, segment.seq, 0);
            return;
        }
        self.finish_legacy(now);
    }

    fn finish_legacy(&mut self, now: Instant) {
        if !self.receiver.reach_fin() {
            self.receiver.ack.request_pure();
            return;
        }
        self.events.is_remote_finished = true;
        let has_finished = self.sender.is_fin_sent;
        self.is_fin_queued = true;
        self.transition(Input::LegacyFin);
        self.enter_time_wait(now);
        if !has_finished {
            self.receiver.ack.request_pure();
        }
    }

    fn process_ack_and_data(&mut self, now: Instant, segment: &Header, payload: &[u8]) {
        let is_before_syn = self.state == State::SynReceived && segment.ack <= self.iss;
        if is_before_syn || segment.ack > self.sender.snd_nxt {
            self.drop_segment(DropCause::Unacceptable, segment.seq, payload.len());
            self.receiver.ack.request_pure();
            return;
        }
        let blocks = sack::parse_exact(payload, self.sender.snd_nxt);
        let is_pure = payload.is_empty() || blocks.is_some();
        self.process_ack(now, segment, is_pure, blocks.as_ref());
        if self.state == State::Closed {
            return;
        }
        if !is_pure {
            self.process_data(segment.seq, payload);
        } else if payload.is_empty() && segment.seq < self.receiver.rcv_nxt {
            // A keepalive has a sequence number before RCV.NXT, so that it is answered.
            if !self.options.dialect.is_legacy() && !segment.flags.contains(Flags::FIN) {
                self.receiver.ack.request_pure();
            }
        }
        if segment.flags.contains(Flags::FIN)
            && !self.receiver.on_fin(segment.seq + if is_pure { 0 } else { payload.len() })
        {
            self.drop_segment(DropCause::Unacceptable, segment.seq, payload.len());
            self.receiver.ack.request_pure();
        }
        self.reach_fin(now);
    }

    /// RFC 9293 section 3.10.7.4, fifth check.
    fn process_ack(&mut self, now: Instant, segment: &Header, is_pure: bool, blocks: Option<&SackBlocks>) {
        if self.state == State::SynReceived {
            if self.syn_transmissions == 1
                && let Some(sent_at) = self.syn_sent_at
            {
                self.rtt.on_sample(now.saturating_since(sent_at));
            }
            self.establish(now);
        }
        if self.options.dialect.is_legacy() {
            // A legacy peer that sends anything has received our SYN-ACK.
            self.is_syn_due = false;
        }
        let una = self.sender.snd_una;
        let is_duplicate = is_pure && segment.ack == una && self.sender.in_flight() > 0;
        let window_before = self.snd_slots;
        self.update_window(segment, is_pure);
        let prior_in_flight = self.sender.in_flight();
        let min_rtt = self.min_rtt();
        let mut acked = Acked::default();
        let is_duplicate = is_duplicate && window_before == self.snd_slots;
        if segment.ack > una {
            self.sender.on_ack(now, segment.ack, min_rtt, &mut acked);
        } else if is_duplicate {
            self.counters.dup_acks += 1;
            self.dup_acks += 1;
        }
        if let Some(blocks) = blocks {
            // After the cumulative ACK: RACK takes what is delivered below the highest for reordered.
            self.counters.sack_recv += blocks.as_slice().len() as u64;
            self.sender.on_sack(now, blocks, min_rtt, &mut acked);
        }
        self.on_acked(now, &acked, prior_in_flight, segment.ack, is_duplicate && blocks.is_none());
        self.notify_writer();
        if acked.fin {
            self.on_fin_acked(now);
        }
    }

    /// Updates SND.WND: by the rule of RFC 9293 for native peers, from every segment of legacy ones.
    fn update_window(&mut self, segment: &Header, is_pure: bool) {
        let is_newer =
            segment.seq > self.snd_wl1 || (segment.seq == self.snd_wl1 && segment.ack >= self.snd_wl2);
        if !is_newer && !self.options.dialect.is_legacy() {
            return;
        }
        // G1 sends keepalives with window 0.
        let is_g1_keepalive = self.options.dialect == Dialect::G1
            && segment.window == 0
            && is_pure
            && segment.ack == self.sender.snd_una;
        if is_g1_keepalive {
            return;
        }
        self.snd_wl1 = segment.seq;
        self.snd_wl2 = segment.ack;
        let was_closed = self.snd_wnd == 0;
        self.set_send_window(segment.window);
        if was_closed && self.snd_wnd > 0 {
            // The window probe was dropped.
            self.sender.mark_head_lost();
        }
        if self.snd_wnd > 0 {
            self.persist_interval = self.options.config.persist_min;
            self.timers.stop(TimerKind::Persist);
        }
        if self.snd_wnd == 0 {
            // A peer that advertises a zero window is alive (RFC 9293 section 3.8.6.1).
            self.timeouts = 0;
            self.unanswered_since = None;
        }
    }

    fn on_fin_acked(&mut self, now: Instant) {
        self.transition(Input::AckOfFin);
        match self.state {
            State::TimeWait => self.enter_time_wait(now),
            State::Closed => self.fail(CloseReason::Finished),
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => {}
        }
    }

    fn process_data(&mut self, seq: SeqNumber, payload: &[u8]) {
        self.counters.segs_recv += 1;
        let is_new = seq + payload.len() > self.receiver.rcv_nxt;
        if self.is_orphaned && is_new && self.state.can_receive() {
            // Data after close: reset (RFC 9293 section 3.6.1).
            self.is_rst_due = true;
            self.fail(CloseReason::Aborted);
            return;
        }
        if !self.state.can_receive() {
            // A retransmission: our ACK was lost (RFC 9293 section 3.10.7.4, first check).
            self.drop_segment(DropCause::Unacceptable, seq, payload.len());
            self.receiver.ack.request_pure();
            return;
        }
        let before = self.receiver.queue.len();
        let had_gap = self.receiver.has_gap();
        match self.receiver.on_data(seq, payload) {
            Arrival::InOrder => {
                let arrived = self.receiver.queue.len() - before;
                self.counters.bytes_recv += arrived as u64;
                self.events.is_readable = true;
                self.receiver.since_gap = 0;
                self.on_in_order(had_gap);
            }
            Arrival::OutOfOrder => {
                self.receiver.since_gap += 1;
                self.receiver.ack.request_pure();
                self.owe_duplicate();
            }
            Arrival::Duplicate => {
                self.drop_segment(DropCause::Duplicate, seq, payload.len());
                self.receiver.ack.request_pure();
            }
            Arrival::Unacceptable => {
                self.drop_segment(DropCause::Unacceptable, seq, payload.len());
                self.receiver.ack.request_pure();
            }
            Arrival::Overflow => {
                self.drop_segment(DropCause::Overflow, seq, payload.len());
                self.receiver.ack.request_pure();
            }
        }
    }

    /// Schedules the acknowledgement of in-order data (RFC 9293 section 3.8.6.3).
    fn on_in_order(&mut self, had_gap: bool) {
        let ack = &mut self.receiver.ack;
        ack.pending += 1;
        if had_gap {
            ack.request_pure();
        } else if self.quick_acks_left > 0 {
            self.quick_acks_left -= 1;
            ack.request();
        } else if ack.pending >= self.options.config.ack_every {
            ack.request();
        } else {
            let delay = self.options.config.ack_delay;
            self.timers.start(TimerKind::Ack, self.last_arrival + delay);
        }
    }

    fn owe_duplicate(&mut self) {
        if self.options.dialect == Dialect::G1 && self.receiver.since_gap <= G1_DUPLICATES {
            self.receiver.ack.duplicates_owed += 1;
        }
    }

    /// Processes the peer's FIN once it is in sequence.
    fn reach_fin(&mut self, now: Instant) {
        if self.options.dialect.is_legacy() {
            if self.receiver.is_fin_reachable() {
                self.finish_legacy(now);
            }
            return;
        }
        if !self.receiver.reach_fin() {
            return;
        }
        self.events.is_remote_finished = true;
        self.receiver.ack.request();
        self.transition(Input::Fin);
        if self.state == State::TimeWait {
            self.enter_time_wait(now);
        }
    }
}
