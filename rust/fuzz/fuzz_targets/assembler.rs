//! Reassembly against a model: every byte is delivered once, in order and unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_proto::{storage::assembler::Assembler, wire::seq::SeqNumber};

const SPACE: usize = 4096;

fn byte(position: usize) -> u8 {
    (position * 31 % 251) as u8
}

fuzz_target!(|input: &[u8]| {
    let base = SeqNumber::new(u32::MAX - 1000);
    let mut assembler = Assembler::default();
    let mut next = 0;
    for operation in input.chunks_exact(4) {
        let start = usize::from(u16::from_be_bytes([operation[0], operation[1]])) % SPACE;
        let len = 1 + usize::from(operation[2]);
        let data: Vec<u8> = (start..start + len).map(byte).collect();
        if start + len <= next {
            continue;
        }
        if start <= next {
            next = start + len;
        } else {
            assembler.insert(base + start, &data, 64);
        }
        while let Some(given) = assembler.pop(base + next) {
            let expected: Vec<u8> = (next..next + given.len()).map(byte).collect();
            assert_eq!(given, expected);
            next += given.len();
        }
        assert!(assembler.len() <= 64);
        let ranges = assembler.ranges();
        assert!(ranges.windows(2).all(|pair| pair[0].right_edge < pair[1].left_edge));
    }
});
