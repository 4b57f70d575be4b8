//! Packets and SACK payloads: what parses is emitted to the same octets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::wire::{
    packet::{HEADER_LEN, Header},
    sack::{SackBlocks, look_alike_cut},
};

fuzz_target!(|octets: &[u8]| {
    if let Ok((header, payload)) = Header::parse(octets) {
        let mut emitted = vec![0; HEADER_LEN];
        emitted.extend(payload);
        assert!(header.emit(&mut emitted));
        assert_eq!(Header::parse(&emitted).unwrap(), (header, payload));
    }
    if let Ok(blocks) = SackBlocks::parse(octets) {
        let mut out = [0; 64];
        let len = blocks.emit(&mut out).unwrap();
        assert_eq!(out[..len], octets[..len]);
        assert!(look_alike_cut(octets).is_some());
    }
});
