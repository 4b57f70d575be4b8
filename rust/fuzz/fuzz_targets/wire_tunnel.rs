//! Tunnel frames and beacon messages: what parses is emitted to the same leading bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::{
    tunnel::Capabilities,
    wire::{beacon::Message, tunnel::Frame},
};

fuzz_target!(|bytes: &[u8]| {
    match Frame::parse(bytes) {
        Ok(Frame::SignedKey(frame)) => assert!(bytes.starts_with(&frame.emit())),
        Ok(Frame::BareKey(frame)) => assert!(bytes.starts_with(&frame.emit())),
        Ok(Frame::CookieReply(reply)) => assert!(bytes.starts_with(&reply.emit())),
        Ok(Frame::Sealed(header)) => assert!(bytes.starts_with(&header.emit())),
        Ok(Frame::Beacon) => {
            if let Ok(message) = Message::parse(bytes) {
                let mut out = Vec::new();
                message.emit(&mut out);
                assert_eq!(Message::parse(&out).map(|_| ()), Ok(()));
            }
        }
        Ok(Frame::Plain | Frame::Punch) | Err(_) => {}
    }
    if let Ok(capabilities) = Capabilities::parse(bytes) {
        assert_eq!(Capabilities::parse(&capabilities.emit()), Ok(capabilities));
    }
});
