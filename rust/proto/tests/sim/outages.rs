//! Outages: R2, orphan and idle timeouts, and suspension of this process.

use std::time::Duration;

use crate::{
    pair::options,
    script::{ACK, FIN_ACK, Out, RST, Script, WINDOW, plain, seg},
};
use pilot_proto::{
    time::Instant,
    transport::{CloseReason, ConnectionEvent, Dialect, Options, State},
    wire::packet::Flags,
};

const SECOND: Duration = Duration::from_secs(1);

fn is_closed(script: &mut Script, reason: CloseReason) -> bool {
    script.events().contains(&ConnectionEvent::Closed(reason))
}

/// Data is in flight with an RTT of `rtt_ms` when the network fails.
fn cut_off(rtt_ms: u64) -> Script {
    let mut script = Script::established(plain(), rtt_ms);
    script.write(20_000);
    script.data();
    script
}

/// Suspends the process: time passes without handling timeouts.
fn suspend(script: &mut Script, time: Duration) {
    script.now += time;
    script.connection.handle_timeout(script.now);
}

/// R2 of RFC 1122 section 4.2.3.5, whatever the round trip.
#[test]
fn an_outage_of_a_hundred_seconds_breaks_nothing_and_one_of_150_does() {
    for rtt_ms in [1, 50, 600, 3000] {
        let mut script = cut_off(rtt_ms);
        let sent = script.wait(100 * SECOND);
        assert_eq!(script.connection.state(), State::Established, "{rtt_ms}");
        let data: Vec<_> = sent.iter().filter(|out| out.data().is_some()).collect();
        assert!((8..=40).contains(&data.len()), "{rtt_ms}: {} repeats", data.len());
        let gap = data.windows(2).map(|two| two[1].at.saturating_sub(two[0].at)).max().unwrap();
        assert!(gap <= 10 * SECOND, "{rtt_ms}: {gap:?}");
        script.ack(seg(20));
        script.write(1000);
        assert_eq!(script.data(), [(seg(20), 1000)]);

        let mut script = cut_off(rtt_ms);
        let sent = script.wait(150 * SECOND);
        assert!(is_closed(&mut script, CloseReason::RetransmissionTimeout), "{rtt_ms}");
        assert!(sent.last().unwrap().flags.contains(RST));
    }
}

/// Short losses back off only once, as the protocol requires.
#[test]
fn repeated_back_off_is_for_outages_only() {
    let mut script = cut_off(50);
    let times: Vec<_> = script.wait(10 * SECOND).iter().map(|out| out.at.as_millis()).collect();
    assert_eq!(times[1..12], [350, 750, 1150, 1550, 1950, 2350, 2750, 3150, 3550, 4350, 5950]);
}

#[test]
fn acknowledgements_without_progress_do_not_prolong_it() {
    let mut script = cut_off(50);
    for _ in 0..130 {
        script.wait(SECOND);
        script.ack(1);
    }
    assert!(is_closed(&mut script, CloseReason::RetransmissionTimeout));
}

#[test]
fn a_zero_window_proves_that_the_peer_is_alive() {
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, 0, &[]);
    script.write(1000);
    for _ in 0..300 {
        script.wait(SECOND);
        script.recv(ACK, 1, 1, 0, &[]);
    }
    assert_eq!(script.connection.state(), State::Established);
}

/// After a suspension of minutes overdue segments are sent before any connection fails.
#[test]
fn suspension_does_not_count_as_silence() {
    for before in [0, 3, 60, 110] {
        let mut script = cut_off(50);
        script.wait(before * SECOND);
        suspend(&mut script, 3600 * SECOND);
        assert!(script.sent().iter().any(|out| out.data().is_some()), "{before}");
        assert_eq!(script.connection.state(), State::Established, "{before}");
        script.ack(seg(20));
        assert_eq!(script.connection.stats().unacked, 0);
    }
    // Idle, and probed at once.
    for dialect in [Dialect::Native, Dialect::G2] {
        let mut script = Script::established(options(dialect), 50);
        suspend(&mut script, 3600 * SECOND);
        assert_eq!(script.sent().len(), 1, "{dialect:?}");
        script.wait(80 * SECOND);
        assert_eq!(script.connection.state(), State::Established);
        script.wait(80 * SECOND);
        assert!(is_closed(&mut script, CloseReason::IdleTimeout), "{dialect:?}");
    }
    // In SYN-SENT the overdue SYN is retransmitted.
    let mut script = Script::connecting(plain());
    suspend(&mut script, 3600 * SECOND);
    assert_eq!(script.sent().iter().map(|out| out.flags).collect::<Vec<_>>(), [Flags::SYN]);
    assert_eq!(script.connection.state(), State::SynSent);
}

#[test]
fn an_idle_stream_outlives_an_outage_of_a_hundred_seconds() {
    // The outage begins when the next probe is almost due.
    let mut script = Script::established(plain(), 50);
    script.wait(130 * SECOND);
    assert_eq!(script.connection.state(), State::Established);
    let probes = script.wait(16 * SECOND);
    assert_eq!(probes.len(), 1, "{probes:?}");
    script.recv(ACK, 1, 1, WINDOW, &[]);
    script.wait(140 * SECOND);
    assert_eq!(script.connection.state(), State::Established);
}

#[test]
fn a_recovered_peer_is_retransmitted_to_at_once() {
    let now = |script: &mut Script| {
        script.connection.on_peer_reachable(script.now);
        script.connection.handle_timeout(script.now);
        script.sent()
    };
    let mut script = cut_off(50);
    script.wait(65 * SECOND);
    let sent = now(&mut script);
    assert_eq!(sent.iter().filter_map(Out::data).collect::<Vec<_>>(), [(seg(0), 1000)]);
    // The next timeout is no longer the one that had backed off.
    let next = script.wait(SECOND);
    assert!(next.iter().any(|out| out.data().is_some()), "{next:?}");

    let mut script = Script::established(plain(), 50);
    assert_eq!(now(&mut script), [], "nothing is missing");
    script.wait(44 * SECOND);
    assert_eq!(now(&mut script).len(), 1, "a probe");

    let mut script = Script::connecting(plain());
    script.wait(8 * SECOND);
    assert_eq!(now(&mut script).iter().map(|out| out.flags).collect::<Vec<_>>(), [Flags::SYN]);

    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, 0, &[]);
    script.write(1000);
    assert_eq!(script.sent(), []);
    assert_eq!(now(&mut script).iter().filter_map(Out::data).collect::<Vec<_>>(), [(1, 1000)]);
}

/// Orphan timeout.
#[test]
fn an_orphaned_connection_times_out() {
    let ends = |mut script: Script, reply: &dyn Fn(&mut Script)| {
        let begin = script.now;
        while script.connection.state() != State::Closed {
            assert!(script.now.saturating_since(begin) < 130 * SECOND, "{:?}", script.connection.state());
            script.wait(SECOND);
            reply(&mut script);
        }
        script.now.saturating_since(begin)
    };
    // FIN-WAIT-2: the peer answers every keepalive and never sends FIN.
    let mut script = Script::established(plain(), 50);
    script.connection.close(script.now);
    assert_eq!(script.sent()[0].flags, FIN_ACK);
    script.ack(2);
    assert_eq!(script.connection.state(), State::FinWait2);
    assert!(ends(script, &|script| script.recv(ACK, 1, 2, WINDOW, &[])) >= 119 * SECOND);
    // A window that stays closed.
    let mut script = Script::established(plain(), 50);
    script.recv(ACK, 1, 1, 0, &[]);
    script.write(1000);
    script.connection.close(script.now);
    assert!(ends(script, &|script| script.recv(ACK, 1, 1, 0, &[])) >= 119 * SECOND);
    // Slow progress is progress.
    let mut script = Script::established(Options { max_segment: 1000, ..plain() }, 50);
    script.write(10_000);
    script.sent();
    script.connection.close(script.now);
    for n in 1..=10 {
        script.wait(60 * SECOND);
        assert_eq!(script.connection.state(), State::FinWait1, "{n}");
        script.ack(seg(n));
    }
    assert!(script.now > Instant::from_millis(600_000));
}
