//! Capability announcement of a native node, in the payload of the sealed ping that detects the peer's suite.
//! A legacy peer echoes the payload; a native node answers with its own.
//!
//! ```text
//!  0      4         5
//! +------+---------+------+-----+-------+ ...
//! |"PCAP"| version | type | len | value |      unknown types are skipped
//! +------+---------+------+-----+-------+ ...
//! ```

use crate::wire::ParseError;

/// Payload of the path probes of G2 peers, which reset a path on which it is not echoed.
pub const PATH_PROBE: &[u8] = b"pathprobe.v1";

const MAGIC: [u8; 4] = *b"PCAP";
const VERSION: u8 = 1;
const BOOT_ID: u8 = 1;
const MAX_SEGMENT: u8 = 2;
const PADDING: u8 = 0;
const MOVED: u8 = 4;

/// Capabilities of one process of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Random per process; a new value means that the peer restarted.
    pub boot_id: u64,
    /// Largest segment that it accepts, bytes.
    pub max_segment: u16,
}

impl Capabilities {
    /// Length of the encoding, bytes.
    pub const LEN: usize = 4 + 1 + 2 + 8 + 2 + 2;

    /// Encodes the announcement.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5..7].copy_from_slice(&[BOOT_ID, 8]);
        bytes[7..15].copy_from_slice(&self.boot_id.to_be_bytes());
        bytes[15..17].copy_from_slice(&[MAX_SEGMENT, 2]);
        bytes[17..].copy_from_slice(&self.max_segment.to_be_bytes());
        bytes
    }

    /// The same, padded to `len` bytes, but at least to [`Self::LEN`] and one padding header.
    pub fn emit_padded(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.emit().to_vec();
        loop {
            let left = len.saturating_sub(bytes.len());
            // A single byte cannot be padded, so the last but one field must not leave exactly one.
            let value = match left.saturating_sub(2) {
                value @ 0..=255 => value,
                256..=257 => 200,
                _ => 255,
            };
            bytes.extend([PADDING, u8::try_from(value).unwrap_or(u8::MAX)]);
            bytes.resize(bytes.len() + value, 0);
            if bytes.len() >= len {
                return bytes;
            }
        }
    }

    /// Appends the entry that says that the sender's address changed.
    pub(super) fn emit_moved(payload: &mut Vec<u8>) {
        payload.extend([MOVED, 0]);
    }

    /// Whether a payload says that its sender's address changed.
    pub fn has_moved(payload: &[u8]) -> bool {
        entries(payload).is_ok_and(|mut entries| entries.any(|entry| matches!(entry, Ok((MOVED, _)))))
    }

    /// Parses a payload.
    ///
    /// # Errors
    /// [`ParseError`] for anything that is not an announcement with a boot id.
    pub fn parse(payload: &[u8]) -> Result<Self, ParseError> {
        let mut boot_id = None;
        let mut max_segment = 0;
        for entry in entries(payload)? {
            let (kind, value) = entry?;
            match kind {
                BOOT_ID => {
                    let value = value.try_into().map_err(|_| ParseError::Invalid)?;
                    boot_id = Some(u64::from_be_bytes(value));
                }
                MAX_SEGMENT => {
                    let value = value.try_into().map_err(|_| ParseError::Invalid)?;
                    max_segment = u16::from_be_bytes(value);
                }
                _ => {}
            }
        }
        Ok(Self { boot_id: boot_id.ok_or(ParseError::Invalid)?, max_segment })
    }
}

/// The entries of an announcement: their types and values.
///
/// # Errors
/// [`ParseError`] for a payload that is not an announcement; an entry that is cut off is one, too.
pub(super) fn entries(
    payload: &[u8],
) -> Result<impl Iterator<Item = Result<(u8, &[u8]), ParseError>>, ParseError> {
    let rest = payload.strip_prefix(&MAGIC).ok_or(ParseError::UnknownType)?;
    let (version, mut rest) = rest.split_first().ok_or(ParseError::Truncated)?;
    if *version != VERSION {
        return Err(ParseError::Version);
    }
    Ok(core::iter::from_fn(move || {
        let [kind, len, tail @ ..] = rest else { return None };
        let Some((value, tail)) = tail.split_at_checked(usize::from(*len)) else {
            rest = &[];
            return Some(Err(ParseError::Truncated));
        };
        rest = tail;
        Some(Ok((*kind, value)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_any_length_and_is_ignored() {
        let capabilities = Capabilities { boot_id: 7, max_segment: 4096 };
        for len in Capabilities::LEN + 2..1500 {
            let payload = capabilities.emit_padded(len);
            assert_eq!(payload.len(), len);
            assert_eq!(Capabilities::parse(&payload), Ok(capabilities), "{len}");
        }
    }

    #[test]
    fn round_trip_with_unknown_types() {
        let capabilities = Capabilities { boot_id: 0x0102_0304_0506_0708, max_segment: 4096 };
        let mut payload = capabilities.emit().to_vec();
        assert_eq!(Capabilities::parse(&payload), Ok(capabilities));
        assert!(!Capabilities::has_moved(&payload));
        payload.extend([99, 2, 1, 2]);
        Capabilities::emit_moved(&mut payload);
        assert!(Capabilities::has_moved(&payload) && !Capabilities::has_moved(b"ping"));
        assert_eq!(Capabilities::parse(&payload), Ok(capabilities));
        payload.extend([99, 200, 1]);
        assert_eq!(Capabilities::parse(&payload), Err(ParseError::Truncated));
        assert_eq!(Capabilities::parse(b"ping"), Err(ParseError::UnknownType));
    }
}
