//! Streams as descriptors: how they are handed over, how they end, and what they leave.

use std::os::unix::net::UnixListener;

use super::*;
use crate::{
    io_thread::refuse,
    limits::{MAX_BACKLOG, MAX_DIALS, MAX_QUEUED_FDS},
};

fn listener(harness: &mut Harness, port: u16, path: &[u8]) -> Program {
    let mut program = Program::extended(harness);
    program.send(&[&[code::LISTEN_STREAMS], &1_u32.to_be_bytes(), &port.to_be_bytes(), &[0, 0], path]);
    assert_eq!(program.expect(harness)[0], code::LISTENING);
    program
}

#[test]
fn the_end_of_a_stream_is_the_peers_fin_and_nothing_else() {
    for is_reset in [false, true] {
        for has_written in [false, true] {
            let mut harness = Harness::new().unwrap();
            let mut server = listener(&mut harness, 80, b"");
            let mut client = Program::extended(&mut harness);
            assert!(client.dial(1, 80));
            let (_, mut reader) = client.stream(&mut harness);
            let (number, mut writer) = server.stream(&mut harness);
            if has_written {
                reader.write_all(b"request").unwrap();
                turns(&mut harness, 5);
                assert_eq!(writer.read(&mut [0; 64]).unwrap(), 7);
            }
            writer.write_all(b"half of the file").unwrap();
            turns(&mut harness, 5);
            if is_reset {
                server.send(&[&[code::ABORT_STREAM], &number.to_be_bytes()]);
            } else {
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let expected = is_reset.then_some(ErrorKind::ConnectionReset);
            let end = read_to_end(&mut harness, &mut reader);
            assert_eq!(end, (b"half of the file".to_vec(), expected));
            // Who is asked knows before the socket ends.
            assert_eq!(client.take().is_some_and(|body| body[0] == code::STREAM_FAILED), is_reset);
        }
    }
}

#[test]
fn when_the_daemon_dies_streams_break() {
    let mut harness = Harness::new().unwrap();
    let mut client = Program::extended(&mut harness);
    assert!(client.dial(1, 7));
    let (_, mut stream) = client.stream(&mut harness);
    drop(harness);
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn dials_that_nobody_reads_are_bounded_and_freed() {
    let mut harness = Harness::new().unwrap();
    let mut lazy = Program::extended(&mut harness);
    let mut sent = 0;
    for _ in 0..TURNS {
        while lazy.dial(sent, 7) {
            sent += 1;
        }
        harness.turn().unwrap();
    }
    // A pair of connections for each: the node dialled itself.
    let (_, streams, _, _) = harness.load();
    assert!(streams < 2 * (MAX_QUEUED_FDS + 600), "{streams} of {sent}");
    let mut other = Program::extended(&mut harness);
    assert!(other.dial(1, 7));
    let (_, mut stream) = other.stream(&mut harness);
    stream.write_all(b"x").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut harness, &mut stream), (b"x".to_vec(), None));
    drop((stream, other, lazy));
    turns(&mut harness, TURNS);
    assert_eq!(harness.load(), (0, 0, 0, 0));
    assert!(harness.connections() == 0);
}

#[test]
fn dials_without_an_answer_are_bounded_and_freed() {
    let mut harness = Harness::new().unwrap();
    let mut program = Program::extended(&mut harness);
    let nobody = [0, 0, 0, 0, 0, 99];
    for id in 0..=u32::try_from(MAX_DIALS).unwrap() {
        program.send(&[&[code::OPEN_STREAM], &id.to_be_bytes(), &nobody, &7_u16.to_be_bytes(), &[0; 5]]);
        harness.turn().unwrap();
    }
    assert_eq!(failure_code(&program.expect(&mut harness)), "unavailable");
    assert_eq!(harness.load().1, MAX_DIALS);
    drop(program);
    turns(&mut harness, 5);
    assert_eq!(harness.load().1, 0);
    assert_eq!(harness.connections(), 0);
}

#[test]
fn streams_that_a_program_does_not_take_are_refused() {
    let mut harness = Harness::new().unwrap();
    let server = listener(&mut harness, 80, b"");
    let mut client = Program::extended(&mut harness);
    let (mut dialled, mut kept, mut refused) = (0, Vec::new(), 0);
    while refused == 0 {
        assert!(client.dial(dialled, 80));
        dialled += 1;
        let (_, mut stream) = client.stream(&mut harness);
        turns(&mut harness, 2);
        match stream.read(&mut [0; 8]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => kept.push(stream),
            _ => refused += 1,
        }
    }
    // Beside the backlog, the server's socket holds some.
    assert!((MAX_BACKLOG..MAX_BACKLOG + 600).contains(&kept.len()), "{}", kept.len());
    assert!(harness.counters().dropped_streams > 0);
    drop(server);
    for mut stream in kept.drain(..) {
        assert!(read_to_end(&mut harness, &mut stream).0.is_empty());
    }
    turns(&mut harness, 20);
    assert_eq!(harness.load().1, 0);
}

#[test]
fn a_busy_server_at_a_path_gets_every_stream() {
    let mut harness = Harness::new().unwrap();
    let path = harness.dir().join("server");
    let server = UnixListener::bind(&path).unwrap();
    // SAFETY: the descriptor is live; listening again only shortens its backlog.
    assert_eq!(unsafe { libc::listen(server.as_raw_fd(), 1) }, 0);
    server.set_nonblocking(true).unwrap();
    let _owner = listener(&mut harness, 80, path.as_os_str().as_encoded_bytes());
    let mut client = Program::extended(&mut harness);
    let mut dialled = Vec::new();
    for id in 0..20 {
        assert!(client.dial(id, 80));
        dialled.push(client.stream(&mut harness).1);
        dialled.last_mut().unwrap().write_all(&[u8::try_from(id).unwrap()]).unwrap();
    }
    turns(&mut harness, 5);
    assert_eq!(harness.counters().dropped_streams, 0);
    // In their order, and with what was sent meanwhile.
    let mut accepted = Vec::new();
    while accepted.len() < 20 {
        harness.turn().unwrap();
        if let Ok((mut stream, _)) = server.accept() {
            let mut first = [0];
            harness.turn().unwrap();
            stream.read_exact(&mut first).unwrap();
            assert_eq!(usize::from(first[0]), accepted.len());
            accepted.push(stream);
        }
    }
    // Who waits when the port is freed is reset.
    for id in 20..25 {
        assert!(client.dial(id, 80));
        dialled.push(client.stream(&mut harness).1);
    }
    drop(_owner);
    drop(accepted);
    let (_, end) = read_to_end(&mut harness, dialled.last_mut().unwrap());
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_path_without_a_server_refuses() {
    let mut harness = Harness::new().unwrap();
    let path = harness.dir().join("nobody");
    let _owner = listener(&mut harness, 80, path.as_os_str().as_encoded_bytes());
    let mut client = Program::extended(&mut harness);
    assert!(client.dial(1, 80));
    let (_, mut stream) = client.stream(&mut harness);
    assert_eq!(read_to_end(&mut harness, &mut stream).1, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_forwarded_path_tells_a_reset_and_removes_only_its_own_socket() {
    let mut harness = Harness::new().unwrap();
    let mut server = listener(&mut harness, 80, b"");
    let mut client = Program::extended(&mut harness);
    let path = harness.dir().join("forward");
    let bytes = path.as_os_str().as_encoded_bytes();
    client.send(&[&[code::FORWARD_PATH], &1_u32.to_be_bytes(), &SELF.emit(), &80_u16.to_be_bytes(), bytes]);
    assert_eq!(client.expect(&mut harness)[0], code::REPLY);
    let mut user = UnixStream::connect(&path).unwrap();
    user.set_nonblocking(true).unwrap();
    user.write_all(b"x").unwrap();
    let (number, mut accepted) = server.stream(&mut harness);
    accepted.write_all(b"half").unwrap();
    turns(&mut harness, 5);
    server.send(&[&[code::ABORT_STREAM], &number.to_be_bytes()]);
    let end = read_to_end(&mut harness, &mut user);
    assert_eq!(end, (b"half".to_vec(), Some(ErrorKind::ConnectionReset)));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"somebody's").unwrap();
    drop(client);
    turns(&mut harness, 5);
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
}

#[test]
fn a_surplus_driver_is_told_why_in_both_dialects() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(&ipc::frame(&[&[code::HELLO, 0, 1]])).unwrap();
    refuse(ours.into(), 40);
    let mut program = Program { socket: theirs, input: Vec::new(), output: Vec::new(), fds: VecDeque::new() };
    let failure = program.take().unwrap();
    assert_eq!((failure_code(&failure).as_str(), &failure[1..5]), ("unavailable", &[0; 4][..]));
    let error = program.take().unwrap();
    assert_eq!(&error[..3], &[code::ERROR, 0, 1]);
    assert!(String::from_utf8_lossy(&error).contains("40 programs"));
}
