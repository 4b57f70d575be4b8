//! Inputs and effects of congestion controller and pacer, with a scripted peer.

use std::time::Duration;

use crate::script::{Out, Script, data, plain, seg};
use pilot_proto::{config::Algorithm, transport::Options};

const MS: Duration = Duration::from_millis(1);

/// With nothing in flight there is nothing to pace.
#[test]
fn an_empty_flight_is_not_paced_by_an_old_rate() {
    let mut script = Script::established(plain(), 50);
    script.write(1000);
    assert_eq!(script.data().len(), 1);
    script.now += 50 * MS;
    script.ack(seg(1));
    script.write(40_000);
    let sent = script.data().len();
    assert!((2..39).contains(&sent), "{sent} in the first burst");
    script.ack(seg(1 + sent as u32));
    assert_eq!(script.data().first(), Some(&(seg(1 + sent as u32), 1000)));
}

/// RFC 7661 section 4.3: the largest flight of a round trip counts, not the last one.
#[test]
fn the_largest_flight_of_a_round_decides_about_growth() {
    let mut script = Script::established(plain(), 50);
    script.write(25_000);
    assert_eq!(script.data().len(), 25);
    script.now += 50 * MS;
    script.ack(seg(5));
    let cwnd = script.connection.stats().cwnd;
    assert!((41_000..=50_000).contains(&cwnd), "{cwnd}");
    script.write(1000);
    assert_eq!(script.data().len(), 1);
    script.ack(seg(6));
    assert!(script.connection.stats().cwnd > cwnd);
}

/// RFC 9937 section 6.2: without new losses progress allows one segment more than was delivered; with them it
/// does not.
#[test]
fn as_much_is_sent_as_delivered_during_new_losses() {
    let mut script = Script::established(plain(), 50);
    script.write(200_000);
    assert_eq!(script.data().len(), 40);
    script.now += 50 * MS;
    script.sack(seg(1), &[(seg(37), seg(40))]);
    let sent = data(&script.wait(45 * MS));
    assert_eq!(sent, [(seg(1), 1000), (seg(2), 1000), (seg(3), 1000), (seg(4), 1000)]);
}

fn bbr() -> Options {
    Options { congestion: Some(Algorithm::Bbr), no_delay: true, ..plain() }
}

/// draft-ietf-ccwg-bbr section 5.3.1.2: three round trips without growth end the search, not three
/// acknowledgements.
#[test]
fn startup_lasts_three_round_trips_without_growth() {
    let mut script = Script::established(bbr(), 50);
    script.write(200_000);
    script.data();
    script.now += 50 * MS;
    let mut steps = 0;
    // A segment in five milliseconds: 200,000 bytes per second.
    for n in 1..400 {
        script.ack(seg(n));
        script.write(1000);
        script.wait(5 * MS);
        let stats = script.connection.stats();
        if stats.pacing_rate < 2 * stats.delivery_rate {
            break;
        }
        steps = n;
    }
    // The first flight has forty segments, each after it twice as many as the one before, or nearly.
    assert!((120..390).contains(&steps), "{steps}");
}

/// RFC 6675 section 5, step 4.3: the first retransmission ignores the window, here BBR's, which is smaller
/// than the flight.
#[test]
fn the_first_retransmission_ignores_the_window() {
    let mut script = Script::established(bbr(), 50);
    let (mut acked, mut sent) = (1, 1);
    let is_over = |script: &Script| {
        let stats = script.connection.stats();
        stats.in_flight > stats.cwnd + 10_000
    };
    for _ in 0..2000 {
        script.write(script.connection.send_capacity() / 1000 * 1000);
        let last = script.wait(10 * MS).iter().filter_map(Out::data).next_back();
        sent = last.map_or(sent, |(seq, len)| seq + len as u32);
        acked = sent.min(acked + 20_000);
        script.ack(acked);
        if is_over(&script) {
            break;
        }
    }
    script.now += MS;
    script.sack(acked, &[(acked + 1000, acked + 6000)]);
    assert!(is_over(&script), "{:?}", script.connection.stats());
    assert_eq!(data(&script.wait(5 * MS)), [(acked, 1000)]);
}

/// draft-ietf-ccwg-bbr section 4.1.2.4: application-limited samples do not count.
#[test]
fn application_limited_samples_do_not_end_startup() {
    let mut script = Script::established(bbr(), 50);
    for n in 1..=20 {
        script.write(1000);
        script.data();
        script.now += 50 * MS;
        script.ack(seg(n));
    }
    // 2.77 times the 20,000 bytes per second that were seen; a search that is over probes with 1.25.
    assert!(script.connection.stats().pacing_rate > 50_000);
}

/// Section 5.4.1: after idle, transmission restarts at the estimated bandwidth, in any phase of the cycle.
#[test]
fn a_restart_from_idle_is_paced_at_the_bandwidth() {
    for rounds in 1..10 {
        let mut script = Script::established(bbr(), 50);
        let (mut acked, mut sent) = (1, 1);
        // Twenty segments in ten milliseconds: two megabytes per second.
        for n in 0.. {
            if n < 300 + 10 * rounds {
                script.write(script.connection.send_capacity() / 1000 * 1000);
            }
            let last = script.wait(10 * MS).iter().filter_map(Out::data).next_back();
            sent = last.map_or(sent, |(seq, len)| seq + len as u32);
            acked = sent.min(acked + 20_000);
            script.ack(acked);
            if script.connection.stats().unacked == 0 {
                break;
            }
        }
        assert_eq!(script.data(), []);
        script.write(1000);
        assert_eq!(script.data().len(), 1);
        assert_eq!(script.connection.stats().pacing_rate, 1_980_000, "{rounds}");
    }
}
