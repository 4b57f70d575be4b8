//! What one program may take of the loop's time and of memory.

use super::*;
use crate::{
    event::HostEvent,
    handle::Handle,
    limits::{MAX_ASKED, MAX_ASKED_BYTES, OUT_REQUESTS, PACE, TURN_FRAMES},
};

const UNKNOWN: u8 = 0x5f;

#[test]
fn a_program_that_never_pauses_gets_a_share_of_a_turn() {
    let mut harness = Harness::new().unwrap();
    let mut flood = Program::extended(&mut harness);
    let mut other = Program::extended(&mut harness);
    let mut count = 0;
    while flood.try_send(&[&[code::REQUEST], &7_u32.to_be_bytes(), &[UNKNOWN]]) {
        count += 1;
    }
    assert!(count > TURN_FRAMES, "{count}");
    other.request(1, &[&[UNKNOWN]]);
    harness.turn().unwrap();
    let answers = std::iter::from_fn(|| flood.take()).count();
    assert!((1..=TURN_FRAMES).contains(&answers), "{answers}");
    assert!(other.take().is_some());
    // It leaves the processor to others.
    assert_eq!(harness.timeout(), Some(PACE));
    // It loses nothing.
    for _ in 0..count - answers {
        assert_eq!(failure_code(&flood.expect(&mut harness)), "unavailable");
    }
}

#[test]
fn who_reads_no_answers_is_not_heard_any_more() {
    let mut harness = Harness::new().unwrap();
    let mut deaf = Program::extended(&mut harness);
    let mut sent = 0_usize;
    for _ in 0..TURNS {
        while deaf.try_send(&[&[code::REQUEST], &7_u32.to_be_bytes(), &[UNKNOWN]]) {
            sent += 1;
        }
        turns(&mut harness, 20);
    }
    let (_, _, _, held) = harness.load();
    assert!(held < OUT_REQUESTS + (1 << 20), "{held}");
    assert!(!deaf.try_send(&[&[UNKNOWN]]));
    let mut other = Program::extended(&mut harness);
    other.request(1, &[&[UNKNOWN]]);
    assert_eq!(failure_code(&other.expect(&mut harness)), "unavailable");
    // It is heard again when it reads.
    for _ in 0..sent {
        deaf.flush();
        assert_eq!(failure_code(&deaf.expect(&mut harness)), "unavailable");
    }
    turns(&mut harness, 2);
    assert!(deaf.take().is_none());
}

#[test]
fn requests_at_the_control_plane_are_counted_for_each_program() {
    let mut harness = Harness::new().unwrap();
    let mut eager = Program::extended(&mut harness);
    let total = u32::try_from(2 * MAX_ASKED).unwrap();
    for id in 1..=total {
        eager.request(id, &[&[code::RESOLVE_HOSTNAME], b"name"]);
        harness.turn().unwrap();
    }
    turns(&mut harness, 10);
    let first = harness.requests();
    assert_eq!(first.len(), MAX_ASKED);
    // Others are heard.
    let mut other = Program::extended(&mut harness);
    other.request(1, &[&[code::INFO]]);
    turns(&mut harness, 10);
    assert_eq!(harness.requests().len(), 1);
    for (tag, command, _) in first {
        harness.reply(tag, vec![command + 1]);
    }
    turns(&mut harness, 10);
    for id in 1..=u32::try_from(MAX_ASKED).unwrap() {
        let body = eager.expect(&mut harness);
        assert_eq!(body, [&[code::REPLY], &id.to_be_bytes()[..], &[code::RESOLVE_HOSTNAME + 1]].concat());
    }
    assert_eq!(harness.requests().len(), MAX_ASKED);
}

#[test]
fn requests_at_the_control_plane_are_counted_in_bytes() {
    let mut harness = Harness::new().unwrap();
    let mut eager = Program::extended(&mut harness);
    let payload = vec![b'x'; 100_000];
    let mut blocked = 0;
    for id in 0_u32.. {
        if !eager.try_send(&[&[code::REQUEST], &id.to_be_bytes(), &[code::RESOLVE_HOSTNAME], &payload]) {
            blocked += 1;
            if blocked > 20 {
                break;
            }
        }
        harness.turn().unwrap();
    }
    let bytes: usize = harness.requests().iter().map(|(_, _, payload)| payload.len()).sum();
    assert!((MAX_ASKED_BYTES / 2..=MAX_ASKED_BYTES).contains(&bytes), "{bytes}");
    drop(eager);
    turns(&mut harness, 5);
    // What the control plane has is counted until it is answered.
    let (clients, _, asked, held) = harness.load();
    assert_eq!((clients, held), (0, 0));
    assert!(asked > 0);
}

#[test]
fn an_id_in_use_and_requests_within_requests_are_refused() {
    let mut harness = Harness::new().unwrap();
    let mut program = Program::extended(&mut harness);
    program.request(5, &[&[code::INFO]]);
    program.request(5, &[&[code::INFO]]);
    assert_eq!(failure_code(&program.expect(&mut harness)), "invalid_argument");
    // As deep as a frame allows: 2^20 / 5.
    let nested: Vec<u8> = [code::REQUEST, 0, 0, 0, 1].into_iter().cycle().take(30_000).collect();
    program.send(&[&nested]);
    assert_eq!(failure_code(&program.expect(&mut harness)), "invalid_argument");
    assert_eq!(harness.requests().len(), 1);
}

#[test]
fn a_program_that_has_gone_leaves_nothing() {
    let mut harness = Harness::new().unwrap();
    let before = harness.load();
    let mut old = Program::new(&mut harness);
    // A dial to a node that never answers, of a driver that waits for it.
    let nobody = [0, 0, 0, 0, 0, 99];
    old.send(&[&[code::DIAL], &nobody, &7_u16.to_be_bytes()]);
    turns(&mut harness, 5);
    assert_eq!(harness.load().1, 1);
    drop(old);
    turns(&mut harness, 5);
    assert_eq!(harness.load(), before);
}

#[test]
fn a_panic_of_the_thread_is_told() {
    let handle = Handle::start(Harness::config(None)).unwrap();
    handle.panic();
    let text = loop {
        if let Some(HostEvent::Stopped(text)) = handle.take_events().pop() {
            break text;
        }
        std::thread::yield_now();
    };
    assert!(text.contains("panicked: as asked"), "{text}");
    assert!(handle.snapshot().is_none());
}

#[test]
fn a_thread_without_a_socket_serves_drivers_that_are_attached() {
    let handle = Handle::start(Harness::config(None)).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    handle.attach(OwnedFd::from(ours)).unwrap();
    theirs.write_all(&ipc::frame(&[&[code::HELLO, 0, 1]])).unwrap();
    let mut answer = [0; 5];
    theirs.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], code::HELLO_OK);
    handle.stop();
    // What it said is read to its end: nobody holds the other end any more.
    theirs.read_to_end(&mut Vec::new()).unwrap();
    let (ours, mut late) = UnixStream::pair().unwrap();
    handle.attach(OwnedFd::from(ours)).unwrap();
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
}

/// Found by fuzzing: the end of the program was noticed before its dial was read.
#[test]
fn a_dial_read_after_its_program_has_gone_is_not_begun() {
    let mut harness = Harness::new().unwrap();
    let nobody = [0, 0, 0, 0, 0, 99];
    for dial in [
        ipc::frame(&[&[code::DIAL], &nobody, &[0, 7]]),
        ipc::frame(&[&[code::OPEN_STREAM], &[0; 4], &nobody, &[0, 7], &[0; 5]]),
    ] {
        let mut program = harness.connect().unwrap();
        program.write_all(&dial).unwrap();
        drop(program);
        for _ in 0..3 {
            harness.turn().unwrap();
        }
        assert_eq!(harness.load(), (0, 0, 0, 0));
    }
}

/// Found by fuzzing: the question whether the path is in use was taken for a connection to dial on.
#[test]
fn a_path_forwarded_twice_begins_no_stream() {
    let mut harness = Harness::new().unwrap();
    let mut program = Program::extended(&mut harness);
    let path = harness.dir().join("forwarded");
    let nobody = [0, 0, 0, 0, 0, 99];
    let forward = |id: u8| {
        ipc::frame(&[
            &[code::FORWARD_PATH],
            &[0, 0, 0, id],
            &nobody,
            &[0, 7],
            path.as_os_str().as_encoded_bytes(),
        ])
    };
    program.socket.write_all(&forward(1)).unwrap();
    turns(&mut harness, 3);
    program.socket.write_all(&forward(2)).unwrap();
    turns(&mut harness, 3);
    assert_eq!(harness.load().1, 0);
    drop(program);
    turns(&mut harness, 3);
    assert_eq!(harness.load(), (0, 0, 0, 0));
}
