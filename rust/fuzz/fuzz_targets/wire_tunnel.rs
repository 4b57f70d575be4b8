//! Tunnel frames and beacon messages: what parses is emitted to the same front.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::{
    tunnel::Capabilities,
    wire::{beacon::Message, tunnel::Frame},
};

fuzz_target!(|octets: &[u8]| {
    match Frame::parse(octets) {
        Ok(Frame::SignedKey(frame)) => assert!(octets.starts_with(&frame.emit())),
        Ok(Frame::BareKey(frame)) => assert!(octets.starts_with(&frame.emit())),
        Ok(Frame::CookieReply(reply)) => assert!(octets.starts_with(&reply.emit())),
        Ok(Frame::Sealed(header)) => assert!(octets.starts_with(&header.emit())),
        Ok(Frame::Beacon) => {
            if let Ok(message) = Message::parse(octets) {
                let mut out = Vec::new();
                message.emit(&mut out);
                assert_eq!(Message::parse(&out).map(|_| ()), Ok(()));
            }
        }
        Ok(Frame::Plain | Frame::Punch) | Err(_) => {}
    }
    if let Ok(capabilities) = Capabilities::parse(octets) {
        assert_eq!(Capabilities::parse(&capabilities.emit()), Ok(capabilities));
    }
});
