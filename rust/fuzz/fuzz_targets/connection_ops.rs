//! One connection under arbitrary segments, calls and times: no panic, bounded memory, and the right window
//! edge never moves left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::{
    time::Instant,
    transport::{Connection, Dialect, FourTuple, Options, State},
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
    },
};

fuzz_target!(|input: &[u8]| {
    let Some((first, operations)) = input.split_first() else { return };
    let dialect = [Dialect::Native, Dialect::G2, Dialect::G1][usize::from(first % 3)];
    let (ours, theirs) = (Address::backbone(NodeId(1)), Address::backbone(NodeId(2)));
    let tuple = FourTuple { local: ours, local_port: Port(1), remote: theirs, remote_port: Port(2) };
    let options = Options { dialect, ..Options::default() };
    let mut now = Instant::from_millis(1);
    let mut connection = Connection::connect(now, tuple, options, SeqNumber::new(u32::MAX - 100));
    let mut buffer = vec![0; 8192];
    let mut right_edge = None;
    let (mut rcv_nxt, mut snd_nxt) = (SeqNumber::default(), SeqNumber::default());
    for operation in operations.chunks_exact(8) {
        let [kind, flags, a, b, c, d, window, len] = *operation else { return };
        now = now + std::time::Duration::from_micros(u64::from(a) * 1000);
        match kind % 8 {
            0..=3 => {
                let near = |base: SeqNumber, x: u8, y: u8| {
                    if x & 1 == 0 {
                        base + usize::from(y)
                    } else {
                        SeqNumber::new(u32::from_be_bytes([a, b, x, y]))
                    }
                };
                let segment = Header {
                    flags: Flags::from_bits(flags),
                    protocol: Protocol::Stream,
                    src: theirs,
                    dst: ours,
                    src_port: Port(2),
                    dst_port: Port(1),
                    seq: near(rcv_nxt, a, b),
                    ack: if c & 1 == 0 { snd_nxt } else { near(snd_nxt, c, d) },
                    window: u16::from(window) * 4,
                };
                connection.process(now, &segment, &vec![d; usize::from(len) * 16]);
            }
            4 => {
                let _ = connection.send(&vec![d; usize::from(len) * 64]);
            }
            5 => {
                let _ = connection.recv(&mut vec![0; usize::from(len) * 64]);
            }
            6 => connection.handle_timeout(now),
            _ => match len % 8 {
                0 => connection.shutdown(),
                1 => connection.close(now),
                2 => connection.abort(now),
                _ => now = now + std::time::Duration::from_millis(u64::from(window) * 500),
            },
        }
        connection.handle_timeout(now);
        let mut sent = 0;
        while let Some(len) = connection.dispatch(now, &mut buffer) {
            let (header, payload) = Header::parse(&buffer[..len]).unwrap();
            sent += 1;
            assert!(sent < 20_000, "segments without end");
            snd_nxt = header.seq + payload.len();
            if header.flags.contains(Flags::ACK) && header.window > 0 && dialect == Dialect::Native {
                rcv_nxt = header.ack;
                let edge = header.ack + usize::from(header.window) * 4096;
                if connection.state() != State::SynSent
                    && let Some(before) = right_edge.replace(edge)
                {
                    assert!(
                        edge >= before || edge.distance_from(before) > -4096,
                        "the right edge moved left"
                    );
                }
            }
        }
        while connection.poll_event().is_some() {}
        assert!(connection.readable() <= 4 << 20);
        if connection.state() == State::Closed {
            assert!(connection.poll_timeout().is_none());
        }
    }
});
