//! How streams end that the daemon ends.

use std::net::Shutdown;

use super::*;
use crate::{limits::OUT_STREAMS, streams::RECV_LEN};

/// Both ends of a stream to ourselves: of who dialled, and of who listens.
fn pair(harness: &mut Harness, program: &mut Program, id: u32) -> (UnixStream, UnixStream) {
    assert!(program.dial(id, 80));
    // Whichever is told first.
    let first = program.stream(harness).1;
    (first, program.stream(harness).1)
}

#[test]
fn an_orderly_stop_is_the_end_of_what_was_finished_and_breaks_the_rest() {
    let mut harness = Harness::new().unwrap();
    let mut program = Program::extended(&mut harness);
    program.send(&[&[code::LISTEN_STREAMS], &1_u32.to_be_bytes(), &80_u16.to_be_bytes(), &[0, 0]]);
    assert_eq!(program.expect(&mut harness)[0], code::LISTENING);
    let (mut whole, mut finished) = pair(&mut harness, &mut program, 2);
    let (mut cut, mut unfinished) = pair(&mut harness, &mut program, 3);
    for stream in [&mut whole, &mut finished] {
        stream.write_all(b"everything").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    unfinished.write_all(b"half").unwrap();
    harness.begin_stop();
    assert_eq!(read_to_end(&mut harness, &mut whole), (b"everything".to_vec(), None));
    assert_eq!(read_to_end(&mut harness, &mut finished), (b"everything".to_vec(), None));
    let (data, end) = read_to_end(&mut harness, &mut cut);
    assert_eq!((data, end), (b"half".to_vec(), Some(ErrorKind::ConnectionReset)));
}

#[test]
fn a_framed_stream_ends_however_full_its_drivers_socket_was() {
    let mut harness = Harness::new().unwrap();
    let mut server = Program::extended(&mut harness);
    server.send(&[&[code::LISTEN_STREAMS], &1_u32.to_be_bytes(), &80_u16.to_be_bytes(), &[0, 0]]);
    assert_eq!(server.expect(&mut harness)[0], code::LISTENING);
    // Of one of these lengths, the last bytes just fill what waits for the driver.
    for len in (0..32).map(|step| OUT_STREAMS + step * RECV_LEN / 4) {
        let mut reader = Program::new(&mut harness);
        reader.send(&[&[code::DIAL], &SELF.emit(), &80_u16.to_be_bytes()]);
        assert_eq!(reader.expect(&mut harness)[0], code::DIAL_OK);
        let (_, mut stream) = server.stream(&mut harness);
        let data = vec![1; len];
        let mut sent = 0;
        while sent < len {
            match stream.write(&data[sent..]) {
                Ok(n) => sent += n,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            harness.turn().unwrap();
        }
        drop(stream);
        turns(&mut harness, 20);
        let mut got = 0;
        loop {
            let body = reader.expect(&mut harness);
            match body[0] {
                code::RECV => got += body.len() - 5,
                code::CLOSE_OK => break,
                other => panic!("{other:02x}"),
            }
        }
        assert_eq!(got, len);
    }
}
