//! The connection: its state variables, options and events.

use core::time::Duration;
use std::sync::Arc;

use super::{
    CloseReason, Dialect, PathKey, State, Stats, TimerKind,
    congestion::{self, Algorithm, Controller, Parameters},
    pacing::Pacer,
    path_state::LeftPath,
    recv::{Receiver, Supply},
    rtt::RttEstimator,
    send::{Recovery, Sender},
    state::Input,
    stats::Counters,
    timer::Timers,
    trace::{Recorder, TransportEvent},
};
use crate::{
    config::{SAFE_SEGMENT, TransportConfig},
    time::Instant,
    wire::{
        addr::{Address, Port},
        packet::Header,
        seq::SeqNumber,
    },
};

/// The two ends of a connection, as in packet headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FourTuple {
    /// Our address.
    pub local: Address,
    /// Our port.
    pub local_port: Port,
    /// The peer's address.
    pub remote: Address,
    /// The peer's port.
    pub remote_port: Port,
}

/// Options of one connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The transport dialect of the peer.
    pub dialect: Dialect,
    /// Largest segment to send, bytes.
    pub max_segment: usize,
    /// Disables Nagle's algorithm.
    pub no_delay: bool,
    /// The congestion controller; `None` for the configured default.
    pub congestion: Option<Algorithm>,
    /// All other parameters.
    pub config: Arc<TransportConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dialect: Dialect::Native,
            max_segment: SAFE_SEGMENT,
            no_delay: false,
            congestion: None,
            config: Arc::default(),
        }
    }
}

/// Events of a connection. Each is reported once until the application acts on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionEvent {
    /// The handshake is complete.
    Connected,
    /// There is data to read.
    Readable,
    /// The send buffer has room again.
    Writable,
    /// The peer sent FIN: the stream ends after the data that can be read now.
    RemoteFinished,
    /// The connection entered TIME-WAIT.
    TimeWait,
    /// The connection is closed.
    Closed(CloseReason),
}

/// One end of a stream.
#[derive(Debug)]
pub struct Connection {
    pub(super) tuple: FourTuple,
    pub(super) options: Options,
    pub(super) state: State,
    pub(super) iss: SeqNumber,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) rtt: RttEstimator,
    pub(super) congestion: Box<dyn Controller>,
    pub(super) pacer: Pacer,
    /// Latest delivery rate sample, bytes per second.
    pub(super) delivery_rate: u64,
    /// The path in use. The four fields above belong to it.
    pub(super) path: PathKey,
    pub(super) left_paths: Vec<LeftPath>,
    pub(super) probe: LossProbe,
    pub(super) undo: Option<Undo>,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
    /// A SYN or SYN-ACK must be sent.
    pub(super) is_syn_due: bool,
    /// When the SYN was first sent, for an RTT sample if it was sent only once.
    pub(super) syn_sent_at: Option<Instant>,
    pub(super) syn_transmissions: u32,
    /// The SYN is retransmitted early (`legacy_syn_rto`).
    pub(super) is_syn_rto_short: bool,
    pub(super) is_rst_due: bool,
    /// A spurious timeout was undone, and no RTT was sampled since.
    pub(super) has_undone_timeout: bool,
    /// The RST for a half-open connection of the peer.
    pub(super) half_open_reset: Option<Header>,
    /// The application closed the sending direction; FIN follows the data.
    pub(super) is_fin_queued: bool,
    /// FIN does not wait for a legacy peer to finish first.
    pub(super) is_fin_urgent: bool,
    /// The application closed both directions.
    pub(super) is_orphaned: bool,
    /// SND.WND, bytes beyond `snd_una`.
    pub(super) snd_wnd: usize,
    /// SND.WND in segments, as advertised.
    pub(super) snd_slots: usize,
    pub(super) snd_wl1: SeqNumber,
    pub(super) snd_wl2: SeqNumber,
    pub(super) dup_acks: u32,
    /// Consecutive timeouts without progress.
    pub(super) timeouts: u32,
    /// When the segment being retransmitted was first sent, as a lower bound.
    pub(super) unanswered_since: Option<Instant>,
    pub(super) persist_interval: Duration,
    pub(super) is_probe_due: bool,
    pub(super) is_keepalive_due: bool,
    pub(super) is_nagle_over: bool,
    pub(super) window_use: WindowUse,
    pub(super) quick_acks_left: u32,
    pub(super) last_arrival: Instant,
    /// When the peer last showed by other means that it is there.
    pub(super) alive_at: Instant,
    pub(super) is_write_blocked: bool,
    pub(super) send_supply: Supply,
    /// Send buffer size granted_send_buffer while memory was ample; it does not grow while memory is scarce.
    pub(super) granted_send_buffer: usize,
    pub(super) is_path_suspect: bool,
    pub(super) events: Events,
    pub(super) recorder: Recorder,
}

/// State of the tail loss probe (RFC 8985 section 7).
#[derive(Debug, Default)]
pub(super) struct LossProbe {
    /// A probe is due.
    pub(super) is_due: bool,
    /// TLP.end_seq: the sequence number after its last byte, while it is outstanding.
    pub(super) end_seq: Option<SeqNumber>,
    /// TLP.is_retrans: whether it retransmitted a segment.
    pub(super) is_retrans: bool,
}

/// Use of the congestion window in the current round, which ends when `until` is acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WindowUse {
    pub(super) is_limited: bool,
    pub(super) max_in_flight: usize,
    pub(super) until: SeqNumber,
}

/// Counters that detect a spurious loss event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Undo {
    /// Retransmissions of this event.
    pub(super) retransmissions: u32,
    pub(super) spurious: u32,
}

/// The congestion controller for these options.
pub(super) fn controller(options: &Options) -> Box<dyn Controller> {
    let config = &options.config;
    let is_legacy = options.dialect.is_legacy();
    let algorithm = options.congestion.unwrap_or(config.congestion);
    let parameters = Parameters {
        initial_window: config.initial_window,
        ssthresh: if is_legacy { config.legacy_ssthresh } else { usize::MAX },
        max_cwnd: if is_legacy { config.legacy_max_cwnd } else { config.max_cwnd },
        smss: options.max_segment,
        abc_limit: is_legacy.then_some(config.abc_limit),
    };
    congestion::start(algorithm, parameters)
}

/// Pending events, delivered in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) is_connected: bool,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    pub(super) is_remote_finished: bool,
    pub(super) is_time_wait: bool,
    pub(super) closed: Option<CloseReason>,
    pub(super) reason: Option<CloseReason>,
}

impl Connection {
    /// Active open: SYN-SENT.
    pub fn connect(now: Instant, tuple: FourTuple, options: Options, iss: SeqNumber) -> Self {
        let mut connection = Self::new(now, tuple, options, iss, SeqNumber::default());
        connection.transition(Input::Open);
        connection.is_syn_due = true;
        connection
    }

    /// Passive open by a SYN at a listening port: SYN-RECEIVED, or ESTABLISHED at once for a legacy peer,
    /// which may never acknowledge our SYN.
    pub fn accept(now: Instant, tuple: FourTuple, options: Options, iss: SeqNumber, syn: &Header) -> Self {
        let mut connection = Self::new(now, tuple, options, iss, syn.seq + 1);
        connection.state = State::Listen;
        connection.transition(Input::Syn);
        connection.is_syn_due = true;
        connection.set_send_window(syn.window);
        connection.snd_wl1 = syn.seq;
        connection.snd_wl2 = iss;
        if connection.options.dialect.is_legacy() {
            connection.establish(now);
        }
        connection
    }

    fn new(now: Instant, tuple: FourTuple, options: Options, iss: SeqNumber, rcv_nxt: SeqNumber) -> Self {
        let config = &options.config;
        let mut timers = Timers::default();
        timers.set(TimerKind::Idle, now + config.idle_timeout);
        Self {
            tuple,
            state: State::Closed,
            iss,
            sender: Sender::new(iss + 1),
            receiver: Receiver::new(rcv_nxt, config),
            rtt: RttEstimator::new(config),
            congestion: controller(&options),
            pacer: Pacer::default(),
            delivery_rate: 0,
            path: PathKey::default(),
            left_paths: Vec::new(),
            probe: LossProbe::default(),
            undo: None,
            timers,
            counters: Counters::default(),
            is_syn_due: false,
            syn_sent_at: None,
            syn_transmissions: 0,
            is_syn_rto_short: false,
            is_rst_due: false,
            has_undone_timeout: false,
            half_open_reset: None,
            is_fin_queued: false,
            is_fin_urgent: false,
            is_orphaned: false,
            snd_wnd: 0,
            snd_slots: 0,
            snd_wl1: SeqNumber::default(),
            snd_wl2: SeqNumber::default(),
            dup_acks: 0,
            timeouts: 0,
            unanswered_since: None,
            persist_interval: config.persist_min,
            is_probe_due: false,
            is_keepalive_due: false,
            is_nagle_over: false,
            window_use: WindowUse::default(),
            quick_acks_left: config.quick_acks,
            last_arrival: now,
            alive_at: now,
            is_write_blocked: false,
            send_supply: Supply::default(),
            granted_send_buffer: config.send_backlog,
            is_path_suspect: false,
            events: Events::default(),
            recorder: Recorder::default(),
            options,
        }
    }

    /// Sets the congestion controller. Must precede the first dispatch.
    pub fn set_congestion(&mut self, algorithm: Algorithm) {
        self.options.congestion = Some(algorithm);
        self.congestion = controller(&self.options);
        self.trace_configuration();
    }

    /// Sets the peer's dialect. Must precede the first dispatch.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.options.dialect = dialect;
        self.congestion = controller(&self.options);
        self.trace_configuration();
    }

    /// Replaces the initial sequence number. Must precede the first dispatch.
    pub fn set_iss(&mut self, iss: SeqNumber) {
        let queue = core::mem::take(&mut self.sender.queue);
        self.iss = iss;
        self.sender = Sender::new(iss + 1);
        self.sender.queue = queue;
    }

    /// Sets the largest segment sent from now on, bytes.
    pub fn set_max_segment(&mut self, max_segment: usize) {
        self.options.max_segment = max_segment;
        self.congestion.set_smss(max_segment);
        self.trace_configuration();
    }

    /// Whether a black hole was suspected since the last call (RFC 8899 section 4.3): a retransmission timer
    /// expired, or a segment was lost three times while others arrived. The node verifies the segment size;
    /// [`Self::set_max_segment`] and [`Self::on_path_mtu_reduced`] follow if it is too large.
    pub fn take_path_suspicion(&mut self) -> bool {
        core::mem::take(&mut self.is_path_suspect) | core::mem::take(&mut self.sender.is_path_suspect)
    }

    /// Largest segment sent, bytes.
    pub fn max_segment(&self) -> usize {
        self.options.max_segment
    }

    /// Disables Nagle's algorithm.
    pub fn set_no_delay(&mut self, no_delay: bool) {
        self.options.no_delay = no_delay;
    }

    /// Retransmits SYN at once: the peer restarted since it was sent.
    pub fn retry_syn(&mut self) {
        self.is_syn_due |= self.state == State::SynSent;
    }

    /// Whether a SYN to a legacy peer is due, which must be paced.
    pub fn has_paced_syn_due(&self) -> bool {
        self.is_syn_due && self.state == State::SynSent && self.options.dialect.is_legacy()
    }

    /// Sets whether SYN is retransmitted early, because a reachable legacy peer dropped it.
    pub fn set_syn_rto_short(&mut self, is_short: bool) {
        self.is_syn_rto_short = is_short;
    }

    /// Sends FIN after the queued data even to a legacy peer that has not finished; used when the process
    /// ends.
    pub fn shutdown_at_once(&mut self) {
        self.is_fin_urgent = true;
        self.shutdown();
    }

    /// The two ends.
    pub fn tuple(&self) -> &FourTuple {
        &self.tuple
    }

    /// The state of RFC 9293.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the connection failed, if it did.
    pub fn broken(&self) -> Option<CloseReason> {
        self.events.reason.filter(|reason| *reason != CloseReason::Finished)
    }

    /// Closes the connection without sending anything.
    pub fn terminate(&mut self, reason: CloseReason) {
        if self.state != State::Closed {
            self.fail(reason);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ConnectionEvent> {
        let events = &mut self.events;
        if core::mem::take(&mut events.is_connected) {
            return Some(ConnectionEvent::Connected);
        }
        if core::mem::take(&mut events.is_readable) {
            return Some(ConnectionEvent::Readable);
        }
        if core::mem::take(&mut events.is_writable) {
            return Some(ConnectionEvent::Writable);
        }
        if core::mem::take(&mut events.is_remote_finished) {
            return Some(ConnectionEvent::RemoteFinished);
        }
        if core::mem::take(&mut events.is_time_wait) {
            return Some(ConnectionEvent::TimeWait);
        }
        events.closed.take().map(ConnectionEvent::Closed)
    }

    /// The last sample of the round-trip time, unless it was taken before.
    #[inline]
    pub fn take_rtt_sample(&mut self) -> Option<Duration> {
        self.rtt.take_sample()
    }

    /// Counters since the connection was created.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Statistics for `connections` and `info`.
    pub fn stats(&self) -> Stats {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Stats {
            counters: self.counters,
            congestion: self.congestion.algorithm(),
            pacing_rate: self.pacer.rate(),
            delivery_rate: self.delivery_rate,
            cwnd: self.congestion.cwnd(),
            // An unset threshold is reported as the largest window.
            ssthresh: self.congestion.ssthresh().min(self.options.config.max_cwnd),
            in_flight: self.sender.in_flight(),
            srtt_ns: self.rtt.srtt().map_or(0, nanos),
            rttvar_ns: nanos(self.rtt.rttvar()),
            min_rtt_ns: self.rtt.min_rtt().map_or(0, nanos),
            unacked: self.sender.outstanding(),
            ooo_buf: self.receiver.out_of_order(),
            snd_wnd: self.snd_wnd,
            rcv_wnd: self.receiver.window(),
            max_segment: self.options.max_segment,
            in_recovery: self.sender.recovery != Recovery::Open,
        }
    }

    /// Applies an input to the state; the state changes nowhere else.
    pub(super) fn transition(&mut self, input: Input) {
        let old = self.state;
        self.state = old.on(input);
        let new = self.state;
        if new != old {
            self.recorder.trace.event(|| TransportEvent::Transition { old, new });
        }
    }

    /// The handshake is complete.
    pub(super) fn establish(&mut self, now: Instant) {
        let input = if self.state == State::SynSent { Input::SynAck } else { Input::AckOfSyn };
        self.transition(input);
        self.timers.stop(TimerKind::Retransmission);
        self.unanswered_since = None;
        self.timers.set(TimerKind::Keepalive, now + self.options.config.keepalive);
        self.events.is_connected = true;
    }

    /// Sets SND.WND from a window field.
    pub(super) fn set_send_window(&mut self, field: u16) {
        self.snd_slots = usize::from(field);
        self.snd_wnd = self.snd_slots * self.options.dialect.slot();
    }

    /// Enters TIME-WAIT.
    pub(super) fn enter_time_wait(&mut self, now: Instant) {
        self.timers.stop_all();
        self.timers.set(TimerKind::TimeWait, now + self.options.config.time_wait);
        self.sender.clear();
        self.events.is_time_wait = true;
    }

    /// Enters CLOSED for `reason`.
    pub(super) fn fail(&mut self, reason: CloseReason) {
        self.transition(Input::Kill);
        self.timers.stop_all();
        self.sender.clear();
        self.receiver.drop_out_of_order();
        self.is_syn_due = false;
        self.events.closed = Some(reason);
        self.recorder.trace.event(|| TransportEvent::Closed(reason));
        self.events.reason = Some(reason);
    }
}
