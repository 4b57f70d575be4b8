//! Frames of drivers: splitting stays in bounds, and parsing never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::wire::ipc::{Frame, split};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((body, taken))) = split(rest) {
        assert_eq!(taken, body.len() + 4);
        if let Ok(Frame::Request { body, .. }) = Frame::parse(body) {
            let _ = Frame::parse(body);
        }
        rest = &rest[taken..];
    }
});
