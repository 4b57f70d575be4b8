//! Packets: a fixed 34-byte header and a payload (`docs/reference/protocol/packet.md#header`).
//!
//! ```text
//!  0     1     2       4            10           16     18     20    24    28     30      34
//! +-----+-----+-------+------------+------------+------+------+-----+-----+------+-------+
//! |V|flg|proto| length|   source   |destination | sport| dport| seq | ack |window| CRC32 | payload
//! +-----+-----+-------+------------+------------+------+------+-----+-----+------+-------+
//! ```
//!
//! The checksum is CRC-32/IEEE over the header with a zero checksum field, then the payload. Bytes
//! after the payload are ignored and not covered.

use super::{
    ParseError,
    addr::{Address, Port},
    seq::SeqNumber,
};

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 34;

/// The largest payload that the 16-bit length field can describe, bytes.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

const VERSION: u8 = 1;

/// Type of the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Protocol {
    /// A segment of a reliable stream.
    Stream,
    /// An unreliable datagram.
    Datagram,
    /// Tunnel control: ping and pong.
    Control,
}

impl Protocol {
    const fn to_u8(self) -> u8 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::Control => 3,
        }
    }
}

impl TryFrom<u8> for Protocol {
    type Error = ParseError;

    fn try_from(value: u8) -> Result<Self, ParseError> {
        match value {
            1 => Ok(Self::Stream),
            2 => Ok(Self::Datagram),
            3 => Ok(Self::Control),
            _ => Err(ParseError::UnknownType),
        }
    }
}

/// The four control bits. Any combination can arrive.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct Flags(u8);

impl Flags {
    /// No bit set.
    pub const NONE: Self = Self(0);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(1);
    /// The acknowledgement and window fields are meaningful.
    pub const ACK: Self = Self(2);
    /// No more data from the sender.
    pub const FIN: Self = Self(4);
    /// Reset the connection.
    pub const RST: Self = Self(8);

    /// Both sets of bits.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The low nibble of the first byte.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set bits of the low nibble.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x0f)
    }
}

/// A header that holds only valid combinations of fields; lengths and checksum are derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Control bits.
    pub flags: Flags,
    /// Type of the payload.
    pub protocol: Protocol,
    /// Sender.
    pub src: Address,
    /// Recipient.
    pub dst: Address,
    /// Sender's port.
    pub src_port: Port,
    /// Recipient's port.
    pub dst_port: Port,
    /// Sequence number of the first payload byte (or of SYN or FIN).
    pub seq: SeqNumber,
    /// Next sequence number expected, when ACK is set.
    pub ack: SeqNumber,
    /// Free receive slots, in segments (not bytes).
    pub window: u16,
}

impl Header {
    /// Parses one packet: its header and payload.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], [`ParseError::Version`], [`ParseError::Checksum`], or
    /// [`ParseError::UnknownType`] for an unassigned protocol.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(ParseError::Truncated);
        };
        if head[0] >> 4 != VERSION {
            return Err(ParseError::Version);
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let payload = rest.get(..length).ok_or(ParseError::Truncated)?;
        let stated = u32::from_be_bytes([head[30], head[31], head[32], head[33]]);
        if stated != checksum(head, payload) {
            return Err(ParseError::Checksum);
        }
        let header = Self {
            flags: Flags::from_bits(head[0]),
            protocol: Protocol::try_from(head[1])?,
            src: Address::parse([head[4], head[5], head[6], head[7], head[8], head[9]]),
            dst: Address::parse([head[10], head[11], head[12], head[13], head[14], head[15]]),
            src_port: Port(u16::from_be_bytes([head[16], head[17]])),
            dst_port: Port(u16::from_be_bytes([head[18], head[19]])),
            seq: SeqNumber::new(u32::from_be_bytes([head[20], head[21], head[22], head[23]])),
            ack: SeqNumber::new(u32::from_be_bytes([head[24], head[25], head[26], head[27]])),
            window: u16::from_be_bytes([head[28], head[29]]),
        };
        Ok((header, payload))
    }

    /// Writes the header, with length and checksum, in front of the payload at `bytes[HEADER_LEN..]`. Returns
    /// `false` and writes nothing when `bytes` is shorter than a header or the payload longer than
    /// [`MAX_PAYLOAD`].
    #[must_use]
    pub fn emit(&self, bytes: &mut [u8]) -> bool {
        let Some((head, payload)) = bytes.split_first_chunk_mut::<HEADER_LEN>() else {
            return false;
        };
        let Ok(length) = u16::try_from(payload.len()) else {
            return false;
        };
        head[0] = VERSION << 4 | self.flags.bits();
        head[1] = self.protocol.to_u8();
        head[2..4].copy_from_slice(&length.to_be_bytes());
        head[4..10].copy_from_slice(&self.src.emit());
        head[10..16].copy_from_slice(&self.dst.emit());
        head[16..18].copy_from_slice(&self.src_port.0.to_be_bytes());
        head[18..20].copy_from_slice(&self.dst_port.0.to_be_bytes());
        head[20..24].copy_from_slice(&self.seq.value().to_be_bytes());
        head[24..28].copy_from_slice(&self.ack.value().to_be_bytes());
        head[28..30].copy_from_slice(&self.window.to_be_bytes());
        let crc = checksum(head, payload);
        head[30..34].copy_from_slice(&crc.to_be_bytes());
        true
    }
}

/// CRC-32/IEEE over the header with a zero checksum field, then the payload.
fn checksum(head: &[u8; HEADER_LEN], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..30]);
    crc.update(&[0; 4]);
    crc.update(payload);
    crc.finalize()
}
