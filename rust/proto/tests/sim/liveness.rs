//! Key exchange retries, keepalives and dead peer detection of the tunnel.

use std::{net::SocketAddr, time::Duration};

use crate::sessions::{BOOT_ID, PEER, Process, View, endpoint, exchange_key};
use pilot_proto::{
    crypto::CryptoError,
    time::Instant,
    tunnel::{Capabilities, Change, KeyVerdict, Liveness, OpenError, PathChange, Peer, Route, Session},
    wire::{
        addr::{NodeId, Port},
        seq::SeqNumber,
        tunnel::Frame,
    },
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl View {
    /// Frames sent since the last call: `s` for a signed key, `b` for a bare key, `.` for a sealed frame.
    fn left(&mut self) -> String {
        let kind = |frame: &[u8]| match Frame::parse(frame) {
            Ok(Frame::SignedKey(_)) => 's',
            Ok(Frame::BareKey(_)) => 'b',
            Ok(Frame::Sealed(_)) => '.',
            other => panic!("{other:?}"),
        };
        self.out.drain(..).map(|(_, frame)| kind(&frame)).collect()
    }

    fn activate(&mut self) {
        let now = self.now;
        self.with_peer(|peer, local, out| peer.activate(now, local, out));
    }

    fn act(&mut self) -> Liveness {
        let now = self.now;
        self.with_peer(|peer, local, out| peer.handle_timeout(now, local, out))
    }

    /// Advances to the next deadline and handles it.
    fn next(&mut self) -> Liveness {
        self.now = self.peer.poll_timeout().unwrap();
        self.act()
    }

    fn send(&mut self) {
        let mut frame = [0; 100];
        self.peer.seal(self.now, NodeId(2), &mut frame).unwrap();
    }

    /// A session in use with a peer without capabilities.
    fn with_legacy_peer() -> (Self, Process) {
        let mut view = Self::new();
        let mut process = view.process(10);
        assert_eq!(view.hear_key(&process), KeyVerdict::Accepted);
        view.hear_frame(&mut process).unwrap();
        assert!(!view.peer.is_ready(), "what it can do is not known");
        let echo = Capabilities { boot_id: BOOT_ID, max_segment: 4096 };
        assert_eq!(view.peer.on_capabilities(view.now, echo, BOOT_ID), Change::Ready);
        assert_eq!(view.peer.on_capabilities(view.now, echo, BOOT_ID), Change::None);
        assert!(view.peer.is_ready() && !view.peer.has_sent_boot_id());
        assert_eq!(view.answer_pings(&mut process, endpoint()), [PathChange::Validated]);
        view.activate();
        view.left();
        (view, process)
    }
}

#[test]
fn hellos_are_retried_until_the_peer_is_unreachable() {
    let mut view = View::new();
    assert!(!view.peer.is_active() && !view.peer.is_ready());
    let begin = view.now;
    view.activate();
    assert!(view.peer.is_active());
    let mut hellos = vec![(Duration::ZERO, view.left())];
    while view.next() != Liveness::Unreachable {
        let left = view.left();
        if !left.is_empty() {
            hellos.push((view.now.saturating_since(begin), left));
        }
    }
    let expected = [(0, "s"), (1, "sb"), (3, "sb"), (7, "sb"), (11, "sb"), (15, "sb")];
    assert_eq!(hellos, expected.map(|(at, left)| (at * SECOND, left.to_owned())));
    assert_eq!(view.now, begin + 19 * SECOND);
}

/// Pings are sent under both suites until one is detected, within the anti-amplification limit.
#[test]
fn an_unanswered_key_is_dropped() {
    for is_needed in [false, true] {
        let mut view = View::new();
        view.activate();
        view.peer.deactivate();
        view.left();
        assert_eq!(view.hear_key(&view.process(10)), KeyVerdict::Accepted);
        assert_eq!(view.left(), "s..");
        if is_needed {
            view.activate();
            assert_eq!(view.left(), "s", "it may be a replay");
        }
        let begin = view.now;
        let given_up = 7750 * MS;
        let mut asked = Vec::new();
        while view.now < begin + given_up {
            let liveness = view.next();
            if liveness != Liveness::Fine {
                asked.push((view.now.saturating_since(begin), liveness));
            }
            assert_eq!(view.left().replace(['s', 'b'], ""), "");
        }
        assert_eq!(view.now, begin + given_up);
        // Where it is needed, the registry is asked when the key is repeated, and at the end for its
        // successor; then that one is waited for.
        let times = if is_needed { &[SECOND, 3 * SECOND, 7 * SECOND, given_up][..] } else { &[] };
        assert_eq!(asked, times.iter().map(|&at| (at, Liveness::Stalled)).collect::<Vec<_>>());
        assert_eq!(view.peer.poll_timeout().is_some(), is_needed);
        assert_eq!(view.hear_key(&view.process(11)), KeyVerdict::Accepted);
    }
}

#[test]
fn unanswered_pings_do_not_end_a_session() {
    let mut view = View::new();
    let mut process = view.process(10);
    view.hear_key(&process);
    view.hear_frame(&mut process).unwrap();
    view.answer_pings(&mut process, endpoint());
    let mut pings = 1;
    while view.peer.poll_timeout().is_some() {
        assert_eq!(view.next(), Liveness::Fine);
        pings += usize::from(!view.left().is_empty());
    }
    assert_eq!(pings, 6);
    let now = view.now;
    for expected in [".", ""] {
        view.with_peer(|peer, local, out| peer.request_capabilities(now, local, out));
        assert_eq!(view.left(), expected);
    }
}

#[test]
fn a_registry_record_does_not_move_a_working_session() {
    let mut view = View::new();
    let record = |view: &mut View, port: u16| {
        let (now, key) = (view.now, view.peer.identity_key().unwrap());
        let to = SocketAddr::new(endpoint().ip(), port);
        view.with_peer(|peer, local, out| peer.on_record(now, key, Some(to), local, out));
        (view.peer.endpoint().unwrap().port(), view.left())
    };
    assert_eq!(record(&mut view, 4001), (4001, String::new()));
    let (mut view, _) = View::with_legacy_peer();
    assert_eq!(record(&mut view, 4001), (4000, String::new()), "it was heard just now");
    view.now += SECOND;
    assert_eq!(record(&mut view, 4000), (4000, String::new()));
    assert_eq!(record(&mut view, 4001), (4000, "sb..".to_owned()), "it may have moved: both are asked");
    for port in 4002..=4004 {
        assert_eq!(record(&mut view, port).1.replace('.', ""), "sb");
    }
    assert_eq!(record(&mut view, 4005), (4000, String::new()), "not so often");
    view.now += 4 * SECOND;
    assert_eq!(record(&mut view, 4005).1.replace('.', ""), "sb");
}

#[test]
fn a_key_exchange_needs_identity_key_and_address() {
    let now = Instant::from_millis(1000);
    let mut view = View::new();
    view.peer = Peer::new(now, PEER, exchange_key(100));
    assert!(view.peer.needs_record());
    view.with_peer(|peer, local, out| peer.on_record(now, [1; 32], None, local, out));
    assert!(view.peer.needs_record());
    view.with_peer(|peer, local, out| peer.on_record(now, [1; 32], Some(endpoint()), local, out));
    assert!(!view.peer.needs_record());
}

/// RFC 8899: with peers that answer padded pings by short ones, and while the path is used.
#[test]
fn only_active_paths_of_native_peers_are_probed() {
    let (mut view, _) = View::with_legacy_peer();
    view.peer.on_path_suspect(view.now);
    assert_eq!((view.act(), view.left()), (Liveness::Fine, String::new()));
    let mut view = View::new();
    let mut process = view.process(10);
    view.hear_key(&process);
    view.hear_frame(&mut process).unwrap();
    let told = Capabilities { boot_id: 77, max_segment: 1300 };
    assert_eq!(view.peer.on_capabilities(view.now, told, BOOT_ID), Change::Ready);
    assert_eq!(view.peer.on_capabilities(view.now, told, BOOT_ID), Change::None);
    assert!(view.peer.has_sent_boot_id());
    view.activate();
    assert_eq!(view.act(), Liveness::Fine);
    assert!(!view.out.iter().any(|(_, frame)| frame.len() > 1000), "nor to where it may not be");
    view.peer.deactivate();
    assert_eq!(view.answer_pings(&mut process, endpoint()), [PathChange::Validated]);
    assert_eq!(view.peer.poll_timeout(), None);
    assert!(!view.peer.has_new_segment());
    view.activate();
    assert_eq!((view.act(), view.left()), (Liveness::Fine, "...".to_owned()));
    view.peer.on_pong(view.now, Port(2), SeqNumber::new(3));
    assert!(view.peer.has_new_segment());
    assert_eq!(view.peer.take_segment(), 1300, "what the peer takes");
    assert!(!view.peer.has_new_segment());
}

#[test]
fn inactive_peers_are_not_probed() {
    let mut view = View::new();
    view.activate();
    view.peer.deactivate();
    assert!(!view.peer.is_active());
    assert_eq!(view.peer.poll_timeout(), None);
}

/// A flood of keys gets four answers per second.
#[test]
fn answers_to_keys_are_rate_limited() {
    let mut view = View::new();
    for (ms, expected) in [(0, "s"), (249, ""), (1, "s"), (249, ""), (1, "s")] {
        view.now += ms * MS;
        let now = view.now;
        view.with_peer(|peer, local, out| peer.on_bare_key(now, endpoint().into(), local, out));
        assert_eq!(view.left(), expected);
    }
}

#[test]
fn unopened_frames_trigger_a_key_exchange_without_a_session() {
    let unopened = |view: &mut View| {
        let now = view.now;
        view.with_peer(|peer, local, out| peer.on_unopened(now, endpoint().into(), 100, local, out));
        view.left()
    };
    let mut view = View::new();
    for (ms, expected) in [(0, "sb"), (2999, ""), (1, "sb")] {
        view.now += ms * MS;
        assert_eq!(unopened(&mut view), expected);
    }
    let (mut view, _) = View::with_legacy_peer();
    assert_eq!(unopened(&mut view), "");
}

#[test]
fn keepalives_are_sent_after_25_idle_seconds() {
    let (mut view, mut process) = View::with_legacy_peer();
    let begin = view.now;
    for seconds in [5, 10, 15, 20, 25, 30] {
        assert_eq!(view.next(), Liveness::Fine);
        assert_eq!(view.now, begin + seconds * SECOND);
        assert_eq!(view.left(), if seconds == 25 { "." } else { "" });
        view.hear_frame(&mut process).unwrap();
        assert_eq!(view.peer.last_rx(), view.now);
    }
}

#[test]
fn four_seconds_without_an_answer_start_a_key_exchange() {
    for (silent_ms, liveness, expected) in [(4000, Liveness::Stalled, "sb."), (3999, Liveness::Fine, "")] {
        let (mut view, mut process) = View::with_legacy_peer();
        view.now += 5 * SECOND - silent_ms * MS;
        view.hear_frame(&mut process).unwrap();
        view.now += MS;
        view.send();
        assert_eq!((view.next(), view.left()), (liveness, expected.to_owned()), "{silent_ms}");
        assert_eq!(view.peer.is_silent(view.now, 4 * SECOND), liveness == Liveness::Stalled);
    }
    // A peer that was sent nothing need not answer.
    let (mut view, _) = View::with_legacy_peer();
    assert_eq!((view.next(), view.left()), (Liveness::Fine, String::new()));
}

/// Each prefix costs a replay window; a peer that used up all of them gets a new key.
#[test]
fn exhausted_nonce_prefixes_start_a_rekey() {
    for (prefixes, expected) in [(63, ""), (64, "sb..")] {
        let (mut view, _) = View::with_legacy_peer();
        for n in 1..prefixes {
            let session = Session::new(&exchange_key(10), view.own, 1000 + 2 * n).unwrap();
            let mut process = view.process(10);
            process.session = session;
            view.hear_frame(&mut process).unwrap();
        }
        assert_eq!((view.next(), view.left()), (Liveness::Fine, expected.to_owned()), "{prefixes}");
    }
}

#[test]
fn dropped_sessions_neither_open_nor_seal() {
    let (mut view, mut process) = View::with_legacy_peer();
    view.peer.forget_sessions(view.now, exchange_key(101));
    assert!(!view.peer.is_ready() && view.peer.suite().is_none());
    assert_eq!(view.hear_frame(&mut process), Err(OpenError::Unauthentic));
    assert_eq!(view.peer.seal(view.now, PEER, &mut [0; 100]), Err(CryptoError::Key));
}

/// A NAT whose bindings live shorter than the keepalive shows itself by a new port after a pause.
#[test]
fn keepalives_are_adapted_to_short_bindings() {
    for (moves, pause, expected) in [(0, 6, 25), (1, 6, 15), (2, 6, 10), (3, 6, 5), (9, 6, 5), (3, 1, 25)] {
        let (mut view, mut process) = View::with_legacy_peer();
        let mut at = endpoint();
        for n in 1..=moves {
            view.now += pause * SECOND;
            at.set_port(5000 + n);
            view.hear_frame_from(&mut process, at).unwrap();
            assert_eq!(view.answer_pings(&mut process, at), [PathChange::Moved]);
        }
        view.act();
        view.send();
        view.hear_frame_from(&mut process, at).unwrap();
        view.left();
        let begin = view.now;
        // The address before is challenged, too.
        while !view.out.drain(..).any(|(to, _)| to == Route::Direct(at)) {
            view.hear_frame_from(&mut process, at).unwrap();
            view.next();
        }
        let waited = view.now.saturating_since(begin).as_secs();
        assert!((expected - 5..=expected + 5).contains(&waited), "{moves} {pause}: {waited}");
    }
}
