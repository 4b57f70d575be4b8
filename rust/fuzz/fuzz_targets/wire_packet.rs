//! Packets and SACK payloads: what parses is emitted to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::wire::{
    packet::{HEADER_LEN, Header},
    sack::{SackBlocks, look_alike_len},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, payload)) = Header::parse(bytes) {
        let mut emitted = vec![0; HEADER_LEN];
        emitted.extend(payload);
        assert!(header.emit(&mut emitted));
        assert_eq!(Header::parse(&emitted).unwrap(), (header, payload));
    }
    if let Ok(blocks) = SackBlocks::parse(bytes) {
        let mut out = [0; 64];
        let len = blocks.emit(&mut out).unwrap();
        assert_eq!(out[..len], bytes[..len]);
        assert!(look_alike_len(bytes).is_some());
    }
});
