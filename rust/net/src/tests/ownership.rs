//! What a program made is its own.

use super::*;

fn echo(harness: &mut Harness, stream: &mut UnixStream) {
    stream.write_all(b"still here").unwrap();
    let (mut got, mut scratch) = (Vec::new(), [0; 64]);
    for _ in 0..TURNS {
        harness.turn().unwrap();
        if let Ok(n) = stream.read(&mut scratch) {
            got.extend_from_slice(&scratch[..n]);
        }
        if got.len() == 10 {
            return;
        }
    }
    panic!("no echo");
}

#[test]
fn a_stream_is_its_drivers() {
    let mut harness = Harness::new().unwrap();
    let mut owner = Program::extended(&mut harness);
    assert!(owner.dial(1, 7));
    let (number, mut stream) = owner.stream(&mut harness);
    let number = number.to_be_bytes();
    let mut other = Program::extended(&mut harness);
    for (count, command) in [code::SEND, code::CLOSE, code::ABORT_STREAM].into_iter().enumerate() {
        other.request(9, &[&[command], &number, b""]);
        assert_eq!(failure_code(&other.expect(&mut harness)), "permission_denied");
        assert_eq!(harness.counters().dropped_foreign, count as u64 + 1);
    }
    // Without an id nobody waits for an answer, but for Close.
    other.send(&[&[code::SEND], &number, b"injected"]);
    other.send(&[&[code::ABORT_STREAM], &number]);
    other.send(&[&[code::CLOSE], &number]);
    assert_eq!(other.expect(&mut harness)[0], code::ERROR);
    let mut old = Program::new(&mut harness);
    old.send(&[&[code::SEND], &number, b"injected"]);
    old.send(&[&[code::CLOSE], &number]);
    assert_eq!(old.expect(&mut harness)[0], code::ERROR);
    echo(&mut harness, &mut stream);
    owner.request(2, &[&[code::CLOSE], &number]);
    let reply = [&[code::REPLY], &2_u32.to_be_bytes()[..], &[code::CLOSE_OK], &number].concat();
    assert_eq!(owner.expect(&mut harness), reply);
    // Existing drivers close what has ended by itself.
    old.send(&[&[code::CLOSE], &number]);
    assert_eq!(old.expect(&mut harness)[0], code::CLOSE_OK);
}

#[test]
fn a_framed_stream_is_its_drivers() {
    let mut harness = Harness::new().unwrap();
    let mut owner = Program::new(&mut harness);
    owner.send(&[&[code::DIAL], &SELF.emit(), &7_u16.to_be_bytes()]);
    let number: [u8; 4] = owner.expect(&mut harness)[1..5].try_into().unwrap();
    let mut other = Program::new(&mut harness);
    other.send(&[&[code::SEND], &number, b"injected"]);
    other.send(&[&[code::ABORT_STREAM], &number]);
    other.send(&[&[code::CLOSE], &number]);
    assert_eq!(other.expect(&mut harness)[0], code::ERROR);
    owner.send(&[&[code::SEND], &number, b"own"]);
    assert_eq!(owner.expect(&mut harness), [&[code::RECV], &number[..], b"own"].concat());
}

#[test]
fn ports_and_dials_are_their_drivers() {
    let mut harness = Harness::new().unwrap();
    let mut owner = Program::extended(&mut harness);
    owner.send(&[&[code::LISTEN_STREAMS], &1_u32.to_be_bytes(), &80_u16.to_be_bytes(), &[0, 0]]);
    assert_eq!(owner.expect(&mut harness)[0], code::LISTENING);
    owner.send(&[&[code::BIND_DATAGRAMS], &2_u32.to_be_bytes(), &81_u16.to_be_bytes()]);
    assert_eq!(owner.expect(&mut harness)[0], code::DATAGRAMS_BOUND);
    let nobody = [0, 0, 0, 0, 0, 99];
    owner.send(&[&[code::OPEN_STREAM], &3_u32.to_be_bytes(), &nobody, &7_u16.to_be_bytes(), &[0; 5]]);
    let mut other = Program::extended(&mut harness);
    other.send(&[&[code::CANCEL]]);
    other.send(&[&[code::CANCEL_REQUEST], &3_u32.to_be_bytes()]);
    for (body, expected) in [
        ([&[code::UNBIND], &80_u16.to_be_bytes()[..]].concat(), "not_found"),
        ([&[code::UNBIND_DATAGRAMS], &81_u16.to_be_bytes()[..]].concat(), "permission_denied"),
        (
            [&[code::SEND_FROM], &81_u16.to_be_bytes()[..], &SELF.emit(), &[0, 9], b"x"].concat(),
            "permission_denied",
        ),
    ] {
        other.request(9, &[&body]);
        assert_eq!(failure_code(&other.expect(&mut harness)), expected);
    }
    other.send(&[&[code::LISTEN_STREAMS], &4_u32.to_be_bytes(), &80_u16.to_be_bytes(), &[0, 0]]);
    assert_eq!(failure_code(&other.expect(&mut harness)), "already_exists");
    turns(&mut harness, 5);
    assert!(owner.take().is_none(), "the dial goes on");
}

#[test]
fn an_operator_ends_any_connection_and_is_told_of_none() {
    let mut harness = Harness::new().unwrap();
    let mut owner = Program::extended(&mut harness);
    assert!(owner.dial(1, 7));
    let (number, mut stream) = owner.stream(&mut harness);
    let mut operator = Program::extended(&mut harness);
    operator.request(1, &[&[code::DISCONNECT], &number.to_be_bytes()]);
    assert_eq!(operator.expect(&mut harness)[0], code::REPLY);
    let (_, end) = read_to_end(&mut harness, &mut stream);
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
    operator.request(2, &[&[code::DISCONNECT], &4_000_000_u32.to_be_bytes()]);
    assert_eq!(failure_code(&operator.expect(&mut harness)), "not_found");
}
