//! Connections over an impaired path, in virtual time. A failing seed is printed and replays.

use std::time::Duration;

use crate::{
    pair::{self, Pair, Path, options},
    rng::{Rng, pattern},
};
use pilot_proto::{
    transport::{CloseReason, ConnectionEvent, Dialect, RecvError, SendError, State},
    wire::packet::Flags,
};

const DIALECTS: [Dialect; 3] = [Dialect::Native, Dialect::G2, Dialect::G1];
const MINUTE: Duration = Duration::from_secs(60);

fn both(pair: &Pair) -> [State; 2] {
    [0, 1].map(|end| pair.ends[end].as_ref().unwrap().connection.state())
}

#[test]
fn handshake_and_one_exchange() {
    for dialect in DIALECTS {
        let mut pair = Pair::dial(1, dialect, Path::default());
        pair.establish();
        assert_eq!(both(&pair), [State::Established; 2]);
        pair.end(0).write(b"ping");
        pair.run_until(MINUTE, |pair| pair.end(1).received == b"ping");
        pair.end(1).write(b"pong");
        pair.run_until(MINUTE, |pair| pair.end(0).received == b"pong");
    }
}

#[test]
fn half_close_lets_the_other_direction_go_on() {
    let mut pair = Pair::dial(1, Dialect::Native, Path::default());
    pair.end(0).write_and_finish(b"request");
    pair.run_until(MINUTE, |pair| {
        pair.ends[1].as_ref().is_some_and(|e| e.events.contains(&ConnectionEvent::RemoteFinished))
    });
    assert_eq!(pair.end(1).received, b"request");
    pair.run_until(MINUTE, |pair| pair.end(0).connection.state() == State::FinWait2);
    assert_eq!(both(&pair), [State::FinWait2, State::CloseWait]);
    let answer = pattern(300_000);
    pair.end(1).write_and_finish(&answer);
    pair.run_until(MINUTE, |pair| pair.end(1).closed().is_some());
    assert_eq!(pair.end(0).received, answer);
    assert_eq!(pair.end(1).closed(), Some(CloseReason::Finished));
    assert_eq!(pair.end(0).connection.state(), State::TimeWait);
    pair.run_until(MINUTE, |pair| pair.end(0).closed() == Some(CloseReason::Finished));
}

#[test]
fn simultaneous_close_ends_in_time_wait_on_both_sides() {
    let mut pair = Pair::dial(1, Dialect::Native, Path::default());
    pair.establish();
    pair.end(0).write_and_finish(b"a");
    pair.end(1).write_and_finish(b"b");
    let mut seen = Vec::new();
    pair.run_until(MINUTE, |pair| {
        seen.extend(both(pair));
        both(pair) == [State::TimeWait; 2]
    });
    assert!(seen.contains(&State::Closing));
    assert_eq!(pair.end(0).received, b"b");
    assert_eq!(pair.end(1).received, b"a");
}

#[test]
fn simultaneous_open_meets_in_established() {
    use pilot_proto::{time::Instant, transport::Connection, wire::seq::SeqNumber};
    let mut pair = Pair::dial(1, Dialect::Native, Path::default());
    let other =
        Connection::connect(Instant::ZERO, pair::tuple(1), options(Dialect::Native), SeqNumber::new(7));
    pair.ends[1] = Some(pair::End::new(other));
    let mut seen = Vec::new();
    pair.run_until(MINUTE, |pair| {
        seen.extend(both(pair));
        both(pair) == [State::Established; 2]
    });
    assert!(seen.contains(&State::SynReceived));
    pair.end(0).write(b"hello");
    pair.run_until(MINUTE, |pair| pair.end(1).received == b"hello");
}

#[test]
fn syn_is_repeated_from_one_to_eight_seconds_and_given_up() {
    let mut pair = Pair::dial(1, Dialect::Native, Path { loss: 100, ..Path::default() });
    let mut times = Vec::new();
    pair.service();
    pair.run_until(2 * MINUTE, |pair| {
        if pair.trace.len() > times.len() {
            times.push(pair.now.as_nanos() / 1_000_000_000);
        }
        pair.end(0).closed().is_some()
    });
    assert_eq!(times, [0, 1, 3, 7, 15, 23]);
    assert_eq!(pair.end(0).closed(), Some(CloseReason::SynTimeout));
    assert_eq!(pair.now.as_nanos() / 1_000_000_000, 31);
}

#[test]
fn a_vanished_peer_breaks_the_connection_within_the_retransmission_limit() {
    for dialect in DIALECTS {
        let mut pair = Pair::dial(1, dialect, Path::default());
        pair.establish();
        pair.cut();
        pair.end(0).write(&pattern(100_000));
        let begin = pair.now;
        pair.run_until(3 * MINUTE, |pair| pair.end(0).closed().is_some());
        assert_eq!(pair.end(0).closed(), Some(CloseReason::RetransmissionTimeout));
        // R2 of RFC 1122 section 4.2.3.5; eight attempts towards legacy peers.
        let is_patient = pair.now.saturating_since(begin) > Duration::from_secs(100);
        assert_eq!(is_patient, dialect == Dialect::Native, "{dialect:?}");
        let end = pair.end(0);
        assert_eq!(end.connection.send(b"x"), Err(SendError::Broken(CloseReason::RetransmissionTimeout)));
        assert_eq!(
            end.connection.recv(&mut [0; 1]),
            Err(RecvError::Broken(CloseReason::RetransmissionTimeout))
        );
    }
}

#[test]
fn reset_breaks_the_peer_at_once() {
    for dialect in DIALECTS {
        let mut pair = Pair::dial(1, dialect, Path::default());
        pair.establish();
        let now = pair.now;
        pair.end(0).connection.abort(now);
        pair.run_until(MINUTE, |pair| pair.end(1).closed().is_some());
        assert_eq!(pair.end(0).closed(), Some(CloseReason::Aborted));
        assert_eq!(pair.end(1).closed(), Some(CloseReason::Reset));
    }
}

#[test]
fn a_reader_that_pauses_closes_the_window_and_reopens_it() {
    for dialect in DIALECTS {
        let mut pair = Pair::dial(1, dialect, Path { loss: 3, ..Path::default() });
        pair.establish();
        pair.end(1).reads = false;
        let data = pattern(4_000_000);
        pair.end(0).write(&data);
        pair.run_until(2 * MINUTE, |pair| {
            pair.now.as_nanos() > 60_000_000_000 && pair.end(0).connection.stats().snd_wnd == 0
        });
        let held = pair.end(1).connection.readable();
        assert!(held <= 512 * 4096, "{held} bytes held beyond the window");
        pair.end(1).reads = true;
        pair.run_until(10 * MINUTE, |pair| pair.end(1).received.len() == data.len());
        assert_eq!(pair.end(1).received, data);
        assert_eq!(pair.end(0).closed(), None);
    }
}

#[test]
fn an_idle_connection_is_probed_and_a_dead_one_closed() {
    let mut pair = Pair::dial(1, Dialect::Native, Path::default());
    pair.establish();
    let begin = pair.now;
    pair.run_until(10 * MINUTE, |pair| pair.now.saturating_since(begin) > 5 * MINUTE);
    assert_eq!(both(&pair), [State::Established; 2]);
    pair.cut();
    let begin = pair.now;
    pair.run_until(10 * MINUTE, |pair| pair.end(0).closed().is_some() && pair.end(1).closed().is_some());
    assert_eq!(pair.end(0).closed(), Some(CloseReason::IdleTimeout));
    assert!(pair.now.saturating_since(begin) <= Duration::from_secs(151));
}

#[test]
fn one_loss_is_repaired_without_a_timeout() {
    for dialect in [Dialect::Native, Dialect::G2, Dialect::G1] {
        let mut pair = Pair::dial(4, dialect, Path { loss: 1, ..Path::default() });
        pair.establish();
        let data = pattern(2_000_000);
        pair.end(0).write(&data);
        pair.run_until(2 * MINUTE, |pair| pair.end(1).received.len() == data.len());
        let counters = pair.end(0).connection.stats().counters;
        assert!(counters.fast_retx > 0, "{dialect:?}: {counters:?}");
        assert!(counters.retransmits * 3 <= counters.fast_retx, "{dialect:?}: {counters:?}");
    }
}

#[test]
fn acknowledgements_are_delayed_and_ride_on_data() {
    let spacing = Duration::from_micros(100);
    let mut pair = Pair::dial(1, Dialect::Native, Path { spacing, ..Path::default() });
    pair.establish();
    pair.end(0).write(&pattern(1152 * 400));
    pair.run_until(MINUTE, |pair| pair.end(1).received.len() == 1152 * 400);
    let acks =
        pair.trace.iter().filter(|(from, header, len)| *from == 1 && header.flags == Flags::ACK && *len == 0);
    let acks = acks.count();
    assert!((180..=250).contains(&acks), "{acks} acknowledgements for 400 segments");
}

#[test]
fn small_writes_wait_for_the_acknowledgement_unless_told_not_to() {
    for (no_delay, expected) in [(false, 2), (true, 5)] {
        let mut options = options(Dialect::Native);
        options.no_delay = no_delay;
        let mut pair = Pair::with_options(1, options.clone(), options, Path::default());
        pair.establish();
        let before = pair.trace.len();
        for _ in 0..5 {
            pair.end(0).write(b"0123456789");
            pair.service();
        }
        pair.run_until(MINUTE, |pair| pair.end(1).received.len() == 50);
        let data = pair.trace[before..].iter().filter(|(from, _, len)| *from == 0 && *len > 0).count();
        assert_eq!(data, expected);
    }
}

#[test]
fn data_that_looks_like_sack_is_delivered() {
    let mut data = Vec::new();
    for _ in 0..50 {
        data.extend(b"SACK\x02");
        data.extend([0; 16]);
    }
    for dialect in DIALECTS {
        let mut options = options(dialect);
        options.max_segment = 21;
        let mut pair = Pair::with_options(1, options.clone(), options, Path::default());
        pair.end(0).write(&data);
        pair.run_until(MINUTE, |pair| pair.ends[1].as_ref().is_some_and(|e| e.received.len() == data.len()));
        assert_eq!(pair.end(1).received, data);
    }
}

/// `SIM_SEED` alone, or as many as `SIM_SEEDS` says.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    number("SIM_SEED").map_or_else(|| 0..number("SIM_SEEDS").unwrap_or(5000), |seed| seed..seed + 1)
}

#[test]
fn transfers_survive_any_path() {
    for seed in seeds() {
        let mut rng = Rng(seed ^ 0xabcd);
        let path = Path {
            latency: Duration::from_micros(rng.below(80_000)),
            jitter: Duration::from_micros(rng.below(20_000)),
            loss: rng.below(12),
            duplication: rng.below(10),
            spacing: Duration::from_micros(rng.below(50)),
        };
        let dialect = DIALECTS[rng.below(3) as usize];
        let up = pattern(rng.below(400_000) as usize);
        let down = pattern(rng.below(400_000) as usize);
        let result = std::panic::catch_unwind(|| {
            let mut pair = Pair::dial(seed, dialect, path);
            pair.end(0).write(&up);
            pair.run_until(10 * MINUTE, |pair| {
                let is_up = pair.ends[1].as_mut().is_some_and(|end| {
                    if end.received.len() == up.len() && !down.is_empty() && end.is_unwritten() {
                        end.write(&down);
                    }
                    end.received.len() == up.len()
                });
                is_up && pair.end(0).received.len() == down.len()
            });
            assert!(pair.end(1).received == up && pair.end(0).received == down);
            pair.end(0).write_and_finish(b"");
            pair.end(1).write_and_finish(b"");
            pair.run_until(10 * MINUTE, |pair| {
                pair.end(0).closed().is_some() && pair.end(1).closed().is_some()
            });
        });
        assert!(result.is_ok(), "SIM_SEED={seed} replays: {dialect:?} {path:?}");
    }
}
