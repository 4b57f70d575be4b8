//! When a peer is asked for its keys or for a sign of life, and when it is given up.

use std::{net::SocketAddr, time::Duration};

use crate::sessions::{BOOT_ID, PEER, Process, View, endpoint, exchange_key};
use pilot_proto::{
    crypto::CryptoError,
    time::Instant,
    tunnel::{Capabilities, Change, KeyVerdict, Liveness, OpenError, Peer, Proof, Session},
    wire::{
        addr::{NodeId, Port},
        seq::SeqNumber,
        tunnel::Frame,
    },
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl View {
    /// What left since the last look: `s` for our signed key, `b` for a bare one, which asks back, `.`
    /// for a sealed frame.
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

    /// Goes to the next deadline and acts on it.
    fn next(&mut self) -> Liveness {
        self.now = self.peer.poll_timeout().unwrap();
        self.act()
    }

    fn send(&mut self) {
        let mut frame = [0; 100];
        self.peer.seal(self.now, NodeId(2), &mut frame).unwrap();
    }

    /// A session with a peer that tells no capabilities, in use since now.
    fn with_old_peer() -> (Self, Process) {
        let mut view = Self::new();
        let mut process = view.process(10);
        assert_eq!(view.hear_key(&process), KeyVerdict::Accepted);
        view.hear_frame(&mut process).unwrap();
        assert!(!view.peer.is_ready(), "what it can do is not known");
        let echo = Capabilities { boot_id: BOOT_ID, max_segment: 4096 };
        assert_eq!(view.peer.on_capabilities(view.now, echo, BOOT_ID), Change::Ready);
        assert_eq!(view.peer.on_capabilities(view.now, echo, BOOT_ID), Change::None);
        assert!(view.peer.is_ready() && !view.peer.tells_restarts());
        assert_eq!(view.answer_pings(&mut process, endpoint()), [Proof::Validated]);
        view.activate();
        view.left();
        (view, process)
    }
}

#[test]
fn a_hello_is_repeated_until_the_peer_is_given_up() {
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

/// Pings under both suites, until one tells which the peer has; no more than the key pays for.
#[test]
fn a_key_whose_owner_does_not_answer_is_given_up() {
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
fn a_session_outlasts_pings_that_nobody_answers() {
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
        view.with_peer(|peer, local, out| peer.ask_capabilities(now, local, out));
        assert_eq!(view.left(), expected);
    }
}

#[test]
fn the_record_of_the_registry_moves_no_session_that_works() {
    let mut view = View::new();
    let record = |view: &mut View, port: u16| {
        let (now, key) = (view.now, view.peer.identity_key().unwrap());
        let to = SocketAddr::new(endpoint().ip(), port);
        view.with_peer(|peer, local, out| peer.on_record(now, key, Some(to), local, out));
        (view.peer.endpoint().unwrap().port(), view.left())
    };
    assert_eq!(record(&mut view, 4001), (4001, String::new()));
    let (mut view, _) = View::with_old_peer();
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
fn a_peer_needs_a_key_and_a_place() {
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
fn only_a_path_that_is_used_is_probed_and_not_to_old_peers() {
    let (mut view, _) = View::with_old_peer();
    view.peer.on_path_suspect(view.now);
    assert_eq!((view.act(), view.left()), (Liveness::Fine, String::new()));
    let mut view = View::new();
    let mut process = view.process(10);
    view.hear_key(&process);
    view.hear_frame(&mut process).unwrap();
    let told = Capabilities { boot_id: 77, max_segment: 1300 };
    assert_eq!(view.peer.on_capabilities(view.now, told, BOOT_ID), Change::Ready);
    assert_eq!(view.peer.on_capabilities(view.now, told, BOOT_ID), Change::None);
    assert!(view.peer.tells_restarts());
    view.activate();
    assert_eq!(view.act(), Liveness::Fine);
    assert!(!view.out.iter().any(|(_, frame)| frame.len() > 1000), "nor to where it may not be");
    view.peer.deactivate();
    assert_eq!(view.answer_pings(&mut process, endpoint()), [Proof::Validated]);
    assert_eq!(view.peer.poll_timeout(), None);
    assert!(!view.peer.has_new_segment());
    view.activate();
    assert_eq!((view.act(), view.left()), (Liveness::Fine, ".".to_owned()));
    view.peer.on_pong(view.now, Port(2), SeqNumber::new(1));
    assert!(view.peer.has_new_segment());
    assert_eq!(view.peer.tell_segment(), 1300, "what the peer takes");
    assert!(!view.peer.has_new_segment());
}

#[test]
fn nothing_is_asked_of_a_peer_that_nobody_needs() {
    let mut view = View::new();
    view.activate();
    view.peer.deactivate();
    assert!(!view.peer.is_active());
    assert_eq!(view.peer.poll_timeout(), None);
}

/// A flood of keys draws four answers a second.
#[test]
fn answers_to_keys_are_few() {
    let mut view = View::new();
    for (ms, expected) in [(0, "s"), (249, ""), (1, "s"), (249, ""), (1, "s")] {
        view.now += ms * MS;
        let now = view.now;
        view.with_peer(|peer, local, out| peer.on_bare_key(now, endpoint(), local, out));
        assert_eq!(view.left(), expected);
    }
}

#[test]
fn frames_that_nothing_opens_ask_for_keys_unless_a_session_stands() {
    let unopened = |view: &mut View| {
        let now = view.now;
        view.with_peer(|peer, local, out| peer.on_unopened(now, endpoint(), 100, local, out));
        view.left()
    };
    let mut view = View::new();
    for (ms, expected) in [(0, "sb"), (2999, ""), (1, "sb")] {
        view.now += ms * MS;
        assert_eq!(unopened(&mut view), expected);
    }
    let (mut view, _) = View::with_old_peer();
    assert_eq!(unopened(&mut view), "");
}

#[test]
fn an_idle_path_is_kept_alive_every_twenty_five_seconds() {
    let (mut view, mut process) = View::with_old_peer();
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
fn a_peer_that_does_not_answer_for_four_seconds_is_asked_for_its_keys() {
    for (silent_ms, liveness, expected) in [(4000, Liveness::Stalled, "sb."), (3999, Liveness::Fine, "")] {
        let (mut view, mut process) = View::with_old_peer();
        view.now += 5 * SECOND - silent_ms * MS;
        view.hear_frame(&mut process).unwrap();
        view.now += MS;
        view.send();
        assert_eq!((view.next(), view.left()), (liveness, expected.to_owned()), "{silent_ms}");
        assert_eq!(view.peer.is_silent(view.now, 4 * SECOND), liveness == Liveness::Stalled);
    }
    // Whoever was sent nothing owes nothing.
    let (mut view, _) = View::with_old_peer();
    assert_eq!((view.next(), view.left()), (Liveness::Fine, String::new()));
}

/// Each prefix costs a replay window; a peer that used up all of them gets a new key.
#[test]
fn a_peer_that_used_up_its_prefixes_is_asked_for_a_new_key() {
    for (prefixes, expected) in [(63, ""), (64, "sb..")] {
        let (mut view, _) = View::with_old_peer();
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
fn forgotten_sessions_open_nothing_and_seal_nothing() {
    let (mut view, mut process) = View::with_old_peer();
    view.peer.forget_sessions(view.now, exchange_key(101));
    assert!(!view.peer.is_ready() && view.peer.suite().is_none());
    assert_eq!(view.hear_frame(&mut process), Err(OpenError::Unauthentic));
    assert_eq!(view.peer.seal(view.now, PEER, &mut [0; 100]), Err(CryptoError::Key));
}
