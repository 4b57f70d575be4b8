//! Trace records as qlog: JSON text sequences (RFC 7464) with event names of
//! draft-ietf-quic-qlog-main-schema-04 where one fits, and the namespaces `tunnel:` and `node:` otherwise.
//!
//! Produces text only; the caller writes the files. Sequence numbers take the place of QUIC's packet numbers.

use core::{
    fmt::{self, Write as _},
    time::Duration,
};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    crypto::Suite,
    node::{ConnectionId, Record, What},
    time::Instant,
    transport::{
        CloseReason, Dialect, TimerKind, TransportEvent,
        trace::{DropCause, LossTrigger, Metrics, Segment},
    },
    tunnel::{KeyVerdict, TunnelEvent},
    wire::{
        addr::NodeId,
        packet::{Flags, HEADER_LEN},
    },
};

/// Precedes each record of a JSON text sequence.
const RECORD_SEPARATOR: char = '\x1e';

/// The qlog files of one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum File {
    /// Records that concern neither a peer nor a connection.
    Node,
    /// Records of the tunnel to a peer.
    Peer(NodeId),
    /// Records of one connection and, meanwhile, of the tunnel to its peer.
    Connection(ConnectionId),
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node.sqlog"),
            Self::Peer(node) => write!(f, "peer-{}.sqlog", node.0),
            Self::Connection(id) => write!(f, "connection-{}.sqlog", id.0),
        }
    }
}

/// Assigns records to files.
#[derive(Debug, Default)]
pub struct Files {
    by_peer: BTreeMap<NodeId, BTreeSet<ConnectionId>>,
    peer_of: BTreeMap<ConnectionId, NodeId>,
}

impl Files {
    /// The files that a record belongs to.
    pub fn of(&mut self, record: &Record) -> Vec<File> {
        match record.what {
            What::Dropped(_) => vec![File::Node],
            What::Peer(node, _) => {
                let connections = self.by_peer.get(&node).into_iter().flatten();
                [File::Peer(node)].into_iter().chain(connections.map(|id| File::Connection(*id))).collect()
            }
            What::Opened { id, tuple, .. } => {
                self.by_peer.entry(tuple.remote.node).or_default().insert(id);
                self.peer_of.insert(id, tuple.remote.node);
                vec![File::Connection(id)]
            }
            What::Connection(id, event) => {
                if matches!(event, TransportEvent::Closed(_)) {
                    self.forget(id);
                }
                vec![File::Connection(id)]
            }
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        let Some(node) = self.peer_of.remove(&id) else { return };
        if let Some(ids) = self.by_peer.get_mut(&node) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_peer.remove(&node);
            }
        }
    }
}

/// The header record of a file. `is_client` if we opened the connection.
pub fn header(file: File, is_client: bool) -> String {
    let vantage = if is_client { "client" } else { "server" };
    let text = format!(
        "{{\"qlog_version\":\"0.4\",\"qlog_format\":\"JSON-SEQ\",\"title\":\"{file}\",\"trace\":{{\
         \"vantage_point\":{{\"name\":\"pilotstack\",\"type\":\"{vantage}\"}},\
         \"common_fields\":{{\"protocol_type\":[\"PILOT\"],\"time_format\":\"absolute\"}}}}}}"
    );
    sequence(&text)
}

/// A record that states how many records were dropped.
pub fn overflow(at: Instant, count: u64) -> String {
    let time = Millis::at(at);
    sequence(&format!("{{\"time\":{time},\"name\":\"loglevel:warning\",\"data\":{{\"missing\":{count}}}}}"))
}

/// One record.
pub fn line(record: &Record) -> String {
    let (name, data) = describe(&record.what);
    let time = Millis::at(record.at);
    sequence(&format!("{{\"time\":{time},\"name\":\"{name}\",\"data\":{data}}}"))
}

fn sequence(json: &str) -> String {
    format!("{RECORD_SEPARATOR}{json}\n")
}

/// Name and data (a JSON object) of an event.
pub fn describe(what: &What) -> (&'static str, String) {
    let mut data = Data::default();
    let name = match what {
        What::Dropped(counter) => {
            data.text("counter", counter);
            "node:dropped"
        }
        What::Peer(_, event) => tunnel(event, &mut data),
        What::Opened { tuple, is_inbound, .. } => {
            data.text("local", format_args!("{}:{}", tuple.local, tuple.local_port.0));
            data.text("remote", format_args!("{}:{}", tuple.remote, tuple.remote_port.0));
            data.text("owner", if *is_inbound { "remote" } else { "local" });
            "connectivity:connection_started"
        }
        What::Connection(_, event) => transport(event, &mut data),
    };
    (name, data.end())
}

fn tunnel(event: &TunnelEvent, data: &mut Data) -> &'static str {
    match *event {
        TunnelEvent::KeySent { to, asks_back } => {
            data.text("to", to);
            data.value("asks_back", asks_back);
            "tunnel:key_sent"
        }
        TunnelEvent::KeyReceived { from, verdict } => {
            data.text("from", from);
            let verdict = match verdict {
                KeyVerdict::Accepted => "accepted",
                KeyVerdict::NeedsIdentity => "needs_identity",
                KeyVerdict::Refused => "refused",
            };
            data.text("verdict", verdict);
            "tunnel:key_received"
        }
        TunnelEvent::Candidate { is_rekey } => {
            data.value("is_rekey", is_rekey);
            "tunnel:candidate"
        }
        TunnelEvent::Installed { is_reinstated } => {
            data.value("is_reinstated", is_reinstated);
            "tunnel:session_installed"
        }
        TunnelEvent::SuiteLatched(suite) => {
            data.text(
                "suite",
                match suite {
                    Suite::G1 => "G1",
                    Suite::G2 => "G2",
                },
            );
            "tunnel:suite_latched"
        }
        TunnelEvent::Capabilities(capabilities) => {
            data.text("boot_id", format_args!("{:016x}", capabilities.boot_id));
            data.value("max_segment", capabilities.max_segment);
            "tunnel:capabilities"
        }
        TunnelEvent::Legacy => "tunnel:legacy_peer",
        TunnelEvent::Restarted => "tunnel:peer_restarted",
        TunnelEvent::Challenged(to) => {
            data.text("to", to);
            "tunnel:path_challenged"
        }
        TunnelEvent::PathValidated { at, has_moved } => {
            data.text("at", at);
            data.value("has_moved", has_moved);
            "tunnel:path_validated"
        }
        TunnelEvent::PathChanged(to) => {
            data.text("to", to);
            "tunnel:path_changed"
        }
        TunnelEvent::MaxSegment(max_segment) => {
            data.value("max_segment", max_segment);
            "tunnel:max_segment"
        }
        TunnelEvent::Stalled => "tunnel:stalled",
        TunnelEvent::Unreachable => "tunnel:unreachable",
        TunnelEvent::Forgotten => "tunnel:sessions_forgotten",
    }
}

fn transport(event: &TransportEvent, data: &mut Data) -> &'static str {
    match *event {
        TransportEvent::Configured { dialect, congestion, max_segment } => {
            data.text("dialect", dialect_name(dialect));
            data.text("congestion_control", congestion.name());
            data.value("max_datagram_size", max_segment);
            "recovery:parameters_set"
        }
        TransportEvent::Transition { old, new } => {
            data.text("old", old);
            data.text("new", new);
            "connectivity:connection_state_updated"
        }
        TransportEvent::Closed(reason) => {
            data.text("reason", reason_name(reason));
            "connectivity:connection_closed"
        }
        TransportEvent::Sent(segment) => {
            data.segment(&segment);
            "transport:packet_sent"
        }
        TransportEvent::Received(segment) => {
            data.segment(&segment);
            "transport:packet_received"
        }
        TransportEvent::Dropped { cause, seq, len } => {
            data.number(seq.value());
            data.value("raw", format_args!("{{\"payload_length\":{len}}}"));
            data.text("trigger", cause_name(cause));
            "transport:packet_dropped"
        }
        TransportEvent::Lost { seq, size } => {
            data.number(seq.value());
            data.value("size", size);
            data.text("trigger", "time_threshold");
            "recovery:packet_lost"
        }
        TransportEvent::RecoveryStarted { trigger, recover } => {
            data.text(
                "trigger",
                match trigger {
                    LossTrigger::Acknowledgement => "acknowledgement",
                    LossTrigger::Timeout => "timeout",
                },
            );
            data.value("recover", recover.value());
            "recovery:loss_episode_started"
        }
        TransportEvent::RecoveryEnded { is_spurious } => {
            data.value("is_spurious", is_spurious);
            "recovery:loss_episode_ended"
        }
        TransportEvent::Timeout { timer, count } => {
            data.text("event_type", "expired");
            data.text("timer_type", timer_name(timer));
            data.value("pto_count", count);
            "recovery:loss_timer_updated"
        }
        TransportEvent::PathChanged { path, is_known } => {
            data.value("path", path.0);
            data.value("is_known", is_known);
            "connectivity:path_updated"
        }
        TransportEvent::Phase(phase) => {
            data.text("new", phase);
            "recovery:congestion_state_updated"
        }
        TransportEvent::Metrics(metrics) => {
            data.metrics(&metrics);
            "recovery:metrics_updated"
        }
    }
}

fn cause_name(cause: DropCause) -> &'static str {
    match cause {
        DropCause::Unacceptable => "unacceptable",
        DropCause::Duplicate => "duplicate",
        DropCause::Overflow => "overflow",
    }
}

fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::G1 => "G1",
        Dialect::G2 => "G2",
        Dialect::Native => "native",
    }
}

fn reason_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Finished => "finished",
        CloseReason::Refused => "refused",
        CloseReason::Reset => "reset",
        CloseReason::Aborted => "aborted",
        CloseReason::SynTimeout => "syn_timeout",
        CloseReason::RetransmissionTimeout => "retransmission_timeout",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::PeerRestarted => "peer_restarted",
        CloseReason::Unreachable => "unreachable",
        CloseReason::Prohibited => "prohibited",
        CloseReason::Shutdown => "shutdown",
    }
}

fn timer_name(timer: TimerKind) -> &'static str {
    match timer {
        TimerKind::Retransmission => "retransmission",
        TimerKind::LossProbe => "pto",
        TimerKind::Reordering => "reordering",
        TimerKind::Pacing => "pacing",
        TimerKind::Persist => "persist",
        TimerKind::Ack => "ack",
        TimerKind::Nagle => "nagle",
        TimerKind::Keepalive => "keepalive",
        TimerKind::Idle => "idle",
        TimerKind::Orphan => "orphan",
        TimerKind::TimeWait => "time_wait",
    }
}

/// Milliseconds with nanosecond digits, the time format of qlog.
struct Millis(Duration);

impl Millis {
    fn at(instant: Instant) -> Self {
        Self(Duration::from_nanos(instant.as_nanos()))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_millis(), self.0.subsec_nanos() % 1_000_000)
    }
}

/// Builder of a JSON object. Names and texts are constants of ours and need no escaping.
#[derive(Default)]
struct Data(String);

impl Data {
    fn value(&mut self, name: &str, value: impl fmt::Display) {
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{comma}\"{name}\":{value}");
    }

    fn text(&mut self, name: &str, value: impl fmt::Display) {
        self.value(name, format_args!("\"{value}\""));
    }

    fn number(&mut self, seq: u32) {
        self.value("header", format_args!("{{\"packet_type\":\"1RTT\",\"packet_number\":{seq}}}"));
    }

    fn segment(&mut self, segment: &Segment) {
        let Segment { flags, seq, ack, window, len } = *segment;
        let names = [(Flags::SYN, "SYN"), (Flags::FIN, "FIN"), (Flags::RST, "RST"), (Flags::ACK, "ACK")];
        let set: Vec<_> =
            names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name).collect();
        self.value(
            "header",
            format_args!(
                "{{\"packet_type\":\"1RTT\",\"packet_number\":{},\"flags\":\"{}\",\"ack\":{},\"window\":{window}}}",
                seq.value(),
                set.join("|"),
                ack.value(),
            ),
        );
        let total = HEADER_LEN + len;
        self.value("raw", format_args!("{{\"length\":{total},\"payload_length\":{len}}}"));
    }

    fn metrics(&mut self, metrics: &Metrics) {
        self.value("smoothed_rtt", Millis(metrics.srtt));
        self.value("rtt_variance", Millis(metrics.rttvar));
        self.value("min_rtt", Millis(metrics.min_rtt));
        self.value("rto", Millis(metrics.rto));
        self.value("congestion_window", metrics.cwnd);
        self.value("ssthresh", metrics.ssthresh);
        self.value("bytes_in_flight", metrics.in_flight);
        // qlog counts bits per second.
        self.value("pacing_rate", metrics.pacing_rate.saturating_mul(8));
        self.value("delivery_rate", metrics.delivery_rate.saturating_mul(8));
        self.value("send_window", metrics.snd_wnd);
        self.value("pto_count", metrics.timeouts);
    }

    fn end(self) -> String {
        format!("{{{}}}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{transport::State, wire::seq::SeqNumber};

    fn parsed(what: What) -> serde_json::Value {
        let at = Instant::from_nanos(12_345_678);
        let text = line(&Record { at, what });
        let json = text.strip_prefix(RECORD_SEPARATOR).and_then(|text| text.strip_suffix('\n')).unwrap();
        serde_json::from_str(json).unwrap()
    }

    fn of(event: TransportEvent) -> serde_json::Value {
        parsed(What::Connection(ConnectionId(1), event))
    }

    #[test]
    fn records_have_time_name_and_data() {
        let state = of(TransportEvent::Transition { old: State::SynSent, new: State::Established });
        assert_eq!(state["time"], 12.345_678);
        assert_eq!(state["name"], "connectivity:connection_state_updated");
        assert_eq!(state["data"]["old"], "SYN-SENT");
        assert_eq!(state["data"]["new"], "ESTABLISHED");
        let flags = Flags::SYN.union(Flags::ACK);
        let (seq, ack) = (SeqNumber::new(7), SeqNumber::new(u32::MAX));
        let sent = of(TransportEvent::Sent(Segment { flags, seq, ack, window: 512, len: 10 }));
        assert_eq!(sent["data"]["header"]["flags"], "SYN|ACK");
        assert_eq!(sent["data"]["header"]["packet_number"], 7);
        assert_eq!(sent["data"]["raw"]["length"], 44);
        let srtt = Duration::from_micros(1500);
        let metrics = of(TransportEvent::Metrics(Metrics { srtt, pacing_rate: 10, ..Metrics::default() }));
        assert_eq!(metrics["data"]["smoothed_rtt"], 1.5);
        assert_eq!(metrics["data"]["pacing_rate"], 80);
        let header = header(File::Node, true);
        let header: serde_json::Value = serde_json::from_str(&header[1..]).unwrap();
        assert_eq!(header["qlog_format"], "JSON-SEQ");
    }

    #[test]
    fn peer_events_are_written_to_the_files_of_open_connections() {
        let mut files = Files::default();
        let mut of = |what| files.of(&Record { at: Instant::ZERO, what });
        let peer = NodeId(9);
        let stalled = What::Peer(peer, TunnelEvent::Stalled);
        assert_eq!(of(stalled), [File::Peer(peer)]);
        let address = crate::wire::addr::Address::backbone;
        let port = crate::wire::addr::Port;
        let tuple = crate::transport::FourTuple {
            local: address(NodeId(1)),
            local_port: port(2),
            remote: address(peer),
            remote_port: port(3),
        };
        for id in [4, 5] {
            let id = ConnectionId(id);
            assert_eq!(of(What::Opened { id, tuple, is_inbound: false }), [File::Connection(id)]);
        }
        let closed = TransportEvent::Closed(CloseReason::Finished);
        assert_eq!(of(What::Connection(ConnectionId(4), closed)), [File::Connection(ConnectionId(4))]);
        assert_eq!(of(stalled), [File::Peer(peer), File::Connection(ConnectionId(5))]);
    }
}
