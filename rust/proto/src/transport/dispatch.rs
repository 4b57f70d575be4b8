//! Transmission and timeouts (RFC 9293 section 3.10.8, RFC 6298 section 5).

use super::{
    CloseReason, Connection, Dialect, State, TimerKind,
    connection::WindowUse,
    send::{Outgoing, Recovery},
    state::Input,
    trace::{Segment, TransportEvent},
};
use crate::{
    time::Instant,
    wire::{
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
    },
};

const FIN_ACK: Flags = Flags::FIN.union(Flags::ACK);
const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);
const RST_ACK: Flags = Flags::RST.union(Flags::ACK);

impl Connection {
    /// Writes the next segment that may be sent to the front of `out` and returns its length. `out` must hold
    /// a header and the largest segment. To be called until it returns `None`.
    pub fn dispatch(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if let Some(reset) = self.half_open_reset.take() {
            self.recorder.trace.packet(|| TransportEvent::Sent(Segment::new(&reset, 0)));
            return reset.emit(out.get_mut(..HEADER_LEN)?).then_some(HEADER_LEN);
        }
        if core::mem::take(&mut self.is_rst_due) {
            return self.emit_rst(out);
        }
        if core::mem::take(&mut self.is_syn_due) {
            return self.emit_syn(now, out);
        }
        match self.state {
            State::Closed | State::Listen | State::SynSent | State::SynReceived => None,
            State::TimeWait => self.emit_ack(out),
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => {
                if let Some(segment) = self.next_segment(now) {
                    return self.emit_segment(now, segment, out);
                }
                self.emit_ack(out).or_else(|| self.emit_keepalive(out))
            }
        }
    }

    /// The earliest deadline and its timer.
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        self.timers.next()
    }

    /// Processes every expired timer. May be called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.discount_suspension(now);
        while let Some(kind) = self.timers.expire(now) {
            self.trace_timeout(kind);
            match kind {
                TimerKind::Retransmission => self.on_retransmission_timeout(now),
                TimerKind::LossProbe => self.on_probe_timeout(now),
                TimerKind::Reordering => {
                    self.detect_loss(now, self.sender.in_flight());
                }
                TimerKind::Pacing => {}
                TimerKind::Persist => {
                    self.is_probe_due = true;
                    self.persist_interval = (self.persist_interval * 2).min(self.options.config.persist_max);
                }
                TimerKind::Ack => self.receiver.ack.request(),
                TimerKind::Nagle => self.is_nagle_over = true,
                TimerKind::Keepalive => self.on_keepalive_timeout(now),
                TimerKind::Idle => self.on_idle_timeout(now),
                TimerKind::Orphan => self.on_orphan_timeout(),
                TimerKind::TimeWait => self.fail(CloseReason::Finished),
            }
        }
        self.trace_metrics();
    }

    /// The next segment with data or FIN, if one may be sent.
    fn next_segment(&mut self, now: Instant) -> Option<Outgoing> {
        if core::mem::take(&mut self.probe.is_due) {
            let is_new = self.sender.unsent() > 0 && self.usable_window() >= self.options.max_segment;
            let len = is_new
                .then(|| self.avoid_sack_look_alike(self.sender.unsent().min(self.options.max_segment)));
            if let Some(len) = len {
                self.on_new_data(len);
            }
            return self.next_probe(now, len);
        }
        let quantum = self.options.config.pacing_quantum;
        if self.sender.in_flight() > 0
            && (self.sender.has_lost() || self.sender.unsent() > 0)
            && let Some(at) = self.pacer.blocked_until(now, quantum)
        {
            self.timers.set(TimerKind::Pacing, at);
            return None;
        }
        if self.sender.has_lost()
            && let Some(segment) =
                self.sender.next_retransmission(now, self.congestion.cwnd(), self.max_retransmit_len())
        {
            self.on_retransmission(now, segment);
            return Some(segment);
        }
        if self.sender.is_fin_sent {
            return None;
        }
        if self.sender.unsent() > 0 {
            let len = self.next_len(now)?;
            self.on_new_data(len);
            self.is_nagle_over = false;
            self.timers.stop(TimerKind::Nagle);
            let segment = self.sender.send_new(now, len, false);
            self.notify_writer();
            return Some(segment);
        }
        if self.sender.in_flight() < self.congestion.cwnd() && !self.sender.has_lost() {
            self.sender.on_app_limited();
        }
        self.track_window_use(false);
        // A legacy peer processes FIN at once, even when earlier data is missing.
        let must_wait_for_ack = self.options.dialect.is_legacy() && self.sender.outstanding() > 0;
        let may_wait = !self.is_orphaned && !self.is_fin_urgent;
        let must_wait_for_fin = self.options.dialect.discards_unsent_on_fin() && may_wait;
        if !self.is_fin_queued || must_wait_for_ack || must_wait_for_fin {
            return None;
        }
        self.transition(Input::FinSent);
        Some(self.sender.send_new(now, 0, true))
    }

    fn on_retransmission(&mut self, now: Instant, segment: Outgoing) {
        if matches!(self.sender.recovery, Recovery::Timeout { .. }) {
            self.counters.retransmits += 1;
        } else {
            self.counters.fast_retx += 1;
        }
        if let Some(undo) = self.undo.as_mut().filter(|_| !segment.is_excused) {
            undo.retransmissions += 1;
        }
        if self.sender.is_head(segment.seq) {
            // Restart the timer: its acknowledgement takes a full RTT from now.
            self.timers.set(TimerKind::Retransmission, now + self.rtt.rto());
        }
    }

    /// Tracks the use of the congestion window over a round trip: a window that is not used does not grow
    /// (RFC 7661 section 4.3). The largest flight counts, not the one after an acknowledgement.
    fn track_window_use(&mut self, is_limited: bool) {
        let in_flight = self.sender.in_flight();
        let used = &mut self.window_use;
        let is_over = self.sender.round_end() >= used.until;
        if is_over || is_limited || (!used.is_limited && in_flight > used.max_in_flight) {
            *used = WindowUse { is_limited, max_in_flight: in_flight, until: self.sender.snd_nxt };
        }
    }

    fn on_new_data(&mut self, len: usize) {
        self.counters.bytes_sent += len as u64;
        if len < self.options.max_segment {
            self.sender.snd_sml = self.sender.snd_nxt + len;
        }
    }

    /// Usable window: bytes that may be sent (RFC 9293 section 3.8.6.2.1).
    fn usable_window(&self) -> usize {
        let used = self.sender.snd_nxt.bytes_since(self.sender.snd_una).unwrap_or(0);
        let limit = self.outstanding_limit();
        if self.sender.outstanding() >= limit { 0 } else { self.snd_wnd.saturating_sub(used) }
    }

    /// Upper bound of unacknowledged segments.
    fn outstanding_limit(&self) -> usize {
        let config = &self.options.config;
        if self.options.dialect.is_legacy() {
            config.legacy_outstanding.min(self.snd_slots)
        } else {
            config.native_outstanding
        }
    }

    /// Length of the next segment of new data, if one may be sent now.
    fn next_len(&mut self, now: Instant) -> Option<usize> {
        let unsent = self.sender.unsent();
        let wanted = unsent.min(self.options.max_segment);
        let used = self.sender.snd_nxt.bytes_since(self.sender.snd_una).unwrap_or(0);
        let usable = self.snd_wnd.saturating_sub(used);
        let limit = self.outstanding_limit();
        if self.sender.outstanding() == 0 && (usable == 0 || limit == 0) {
            if !core::mem::take(&mut self.is_probe_due) {
                self.timers.start(TimerKind::Persist, now + self.persist_interval);
                return None;
            }
            return Some(self.avoid_sack_look_alike(wanted));
        }
        if self.sender.outstanding() >= limit {
            return None;
        }
        // Silly window avoidance: send a partial segment only when nothing is outstanding.
        if usable < wanted && self.sender.outstanding() > 0 {
            return None;
        }
        let len = wanted.min(usable);
        if self.sender.in_flight() > 0 && self.sender.in_flight() + len > self.congestion.cwnd() {
            self.track_window_use(true);
            return None;
        }
        let is_small = len < self.options.max_segment;
        let is_small_outstanding = self.sender.snd_sml > self.sender.snd_una;
        if is_small
            && is_small_outstanding
            && !self.options.no_delay
            && !self.is_fin_queued
            && !self.is_nagle_over
        {
            self.timers.start(TimerKind::Nagle, now + self.options.config.nagle_delay);
            return None;
        }
        Some(self.avoid_sack_look_alike(len))
    }

    /// Longest segment that is retransmitted unsplit, bytes.
    pub(super) fn max_retransmit_len(&self) -> usize {
        if self.options.dialect.is_legacy() { usize::MAX } else { self.options.max_segment }
    }

    /// Shortens a data segment whose payload a receiver would parse as SACK blocks.
    fn avoid_sack_look_alike(&self, len: usize) -> usize {
        self.sender.look_alike_len(self.sender.snd_nxt, len).unwrap_or(len)
    }

    fn emit_segment(&mut self, now: Instant, segment: Outgoing, out: &mut [u8]) -> Option<usize> {
        let bytes = out.get_mut(..HEADER_LEN + segment.len)?;
        if !self.sender.copy(segment.seq, &mut bytes[HEADER_LEN..]) {
            return None;
        }
        if segment.len > 0 {
            self.counters.segs_sent += 1;
            self.pacer.on_sent(now, segment.len, self.options.config.pacing_quantum);
            let before = self.sender.in_flight().saturating_sub(segment.len);
            self.congestion.on_sent(now, segment.len, before, self.sender.is_app_limited());
            if before == 0 && self.pacer.rate() > 0 {
                // The controller may have restarted after an idle period.
                self.pacer.set_rate(self.congestion.pacing_rate(self.rtt.srtt()));
            }
        }
        // PTO restarts with each transmission (RFC 8985 section 7.2), RTO does not.
        if !self.timers.is_set(TimerKind::Retransmission) {
            self.arm_retransmission(now);
        }
        self.timers.stop(TimerKind::Persist);
        if segment.is_fin && self.options.dialect.is_legacy() {
            return self.emit(Flags::FIN, segment.seq, SeqNumber::default(), 0, bytes);
        }
        let flags = if segment.is_fin { FIN_ACK } else { Flags::ACK };
        self.receiver.ack.on_sent(false);
        self.timers.stop(TimerKind::Ack);
        self.emit_current(flags, segment.seq, bytes)
    }

    fn emit_syn(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        let bytes = out.get_mut(..HEADER_LEN)?;
        self.syn_transmissions += 1;
        self.syn_sent_at.get_or_insert(now);
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.unanswered_since.get_or_insert(now);
            let config = &self.options.config;
            let (first, max) = if self.is_syn_rto_short {
                (config.legacy_syn_rto, config.syn_rto)
            } else {
                (config.syn_rto, config.syn_rto_max)
            };
            let doublings = (self.syn_transmissions - 1).min(16);
            self.timers.set(TimerKind::Retransmission, now + (first * (1 << doublings)).min(max));
        }
        if self.state == State::SynSent {
            let window = self.receiver.advertise();
            return self.emit(Flags::SYN, self.iss, SeqNumber::default(), window, bytes);
        }
        self.emit_current(SYN_ACK, self.iss, bytes)
    }

    fn emit_rst(&mut self, out: &mut [u8]) -> Option<usize> {
        let bytes = out.get_mut(..HEADER_LEN)?;
        if self.options.dialect.is_legacy() {
            return self.emit(Flags::RST, SeqNumber::default(), SeqNumber::default(), 0, bytes);
        }
        self.emit_current(RST_ACK, self.sender.snd_nxt, bytes)
    }

    fn emit_ack(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.receiver.ack.is_due {
            let blocks = self.receiver.sack_blocks();
            let len = blocks.emit(out.get_mut(HEADER_LEN..)?).unwrap_or(0);
            self.counters.sack_sent += blocks.as_slice().len() as u64;
            self.receiver.ack.on_sent(true);
            self.timers.stop(TimerKind::Ack);
            let bytes = out.get_mut(..HEADER_LEN + len)?;
            if self.state == State::TimeWait && self.options.dialect.is_legacy() {
                return self.emit(FIN_ACK, self.sender.snd_nxt, self.receiver.rcv_nxt, 0, bytes);
            }
            return self.emit_current(Flags::ACK, self.sender.snd_nxt, bytes);
        }
        if self.receiver.ack.duplicates_owed > 0 {
            self.receiver.ack.duplicates_owed -= 1;
            return self.emit_current(Flags::ACK, self.sender.snd_nxt, out.get_mut(..HEADER_LEN)?);
        }
        None
    }

    /// Keepalive (RFC 9293 section 3.8.4). A sequence number before the window makes native peers answer;
    /// legacy peers never answer.
    fn emit_keepalive(&mut self, out: &mut [u8]) -> Option<usize> {
        if !core::mem::take(&mut self.is_keepalive_due) {
            return None;
        }
        let back = usize::from(self.options.dialect == Dialect::Native);
        self.emit_current(Flags::ACK, self.sender.snd_nxt - back, out.get_mut(..HEADER_LEN)?)
    }

    /// Emits a segment with the current acknowledgement and window.
    fn emit_current(&mut self, flags: Flags, seq: SeqNumber, bytes: &mut [u8]) -> Option<usize> {
        let window = self.receiver.advertise();
        let ack = self.receiver.rcv_nxt;
        self.emit(flags, seq, ack, window, bytes)
    }

    fn emit(
        &mut self,
        flags: Flags,
        seq: SeqNumber,
        ack: SeqNumber,
        window: u16,
        bytes: &mut [u8],
    ) -> Option<usize> {
        let tuple = &self.tuple;
        let header = Header {
            flags,
            protocol: Protocol::Stream,
            src: tuple.local,
            dst: tuple.remote,
            src_port: tuple.local_port,
            dst_port: tuple.remote_port,
            seq,
            ack,
            window,
        };
        let is_whole = header.emit(bytes);
        let len = bytes.len();
        self.recorder.trace.packet(|| TransportEvent::Sent(Segment::new(&header, len - HEADER_LEN)));
        is_whole.then_some(len)
    }
}

/// The RST for a segment that belongs to no connection (RFC 9293 section 3.10.7.1), or `None` for a segment
/// that must not be answered. Legacy peers accept any RST, whatever its numbers.
pub fn reset_for(segment: &Header, payload_len: usize) -> Option<Header> {
    if segment.flags.contains(Flags::RST) {
        return None;
    }
    let (flags, seq, ack) = if segment.flags.contains(Flags::ACK) {
        (Flags::RST, segment.ack, SeqNumber::default())
    } else {
        let taken =
            usize::from(segment.flags.contains(Flags::SYN)) + usize::from(segment.flags.contains(Flags::FIN));
        (RST_ACK, SeqNumber::default(), segment.seq + payload_len + taken)
    };
    Some(Header {
        flags,
        protocol: Protocol::Stream,
        src: segment.dst,
        dst: segment.src,
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        seq,
        ack,
        window: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        transport::{Algorithm, FourTuple, Options},
        wire::addr::{Address, NodeId, Port},
    };

    /// An established connection that sent as much as allowed of `segments` segments; ten times 4,096 bytes
    /// fill its window.
    fn sending(congestion: Algorithm, segments: usize) -> Connection {
        let [local, remote] = [1, 2].map(|n| Address::backbone(NodeId(n)));
        let tuple = FourTuple { local, local_port: Port(1), remote, remote_port: Port(2) };
        let options = Options { max_segment: 1024, congestion: Some(congestion), ..Options::default() };
        let mut connection = Connection::connect(Instant::ZERO, tuple, options, SeqNumber::new(0));
        let syn_ack = Header {
            flags: SYN_ACK,
            protocol: Protocol::Stream,
            src: remote,
            dst: local,
            src_port: Port(2),
            dst_port: Port(1),
            seq: SeqNumber::new(0),
            ack: SeqNumber::new(1),
            window: 512,
        };
        connection.process(Instant::from_millis(50), &syn_ack, &[]);
        assert_eq!(connection.send(&vec![0; segments * 1024]), Ok(segments * 1024));
        dispatch_all(&mut connection, Instant::from_millis(50));
        connection
    }

    fn dispatch_all(connection: &mut Connection, now: Instant) {
        while connection.dispatch(now, &mut [0; 4096]).is_some() {}
    }

    /// draft-ietf-ccwg-bbr section 4.1.2.4: nothing to send, room in the window, and no pending
    /// retransmission.
    #[test]
    fn app_limited_only_without_any_other_limit() {
        for (segments, is_limit) in [(39, true), (40, false), (41, false)] {
            assert_eq!(sending(Algorithm::Cubic, segments).sender.is_app_limited(), is_limit, "{segments}");
        }
        let mut connection = sending(Algorithm::Cubic, 40);
        while connection.counters.retransmits == 0 {
            let (at, _) = connection.poll_timeout().unwrap();
            connection.handle_timeout(at);
            dispatch_all(&mut connection, at);
        }
        assert!(connection.sender.in_flight() < connection.congestion.cwnd());
        assert!(!connection.sender.is_app_limited());
    }

    /// In slow start a half-used window counts as limiting, so that it can double; BBR requires a full one
    /// (draft-ietf-ccwg-bbr: C.is_cwnd_limited).
    #[test]
    fn a_half_used_window_is_limiting_in_slow_start_only() {
        use Algorithm::{Bbr, Cubic};
        for (congestion, segments, is_limited) in
            [(Cubic, 19, false), (Cubic, 20, true), (Bbr, 20, false), (Bbr, 39, false), (Bbr, 41, true)]
        {
            let connection = sending(congestion, segments);
            assert_eq!(connection.is_cwnd_limited(), is_limited, "{congestion} {segments}");
        }
    }
}
