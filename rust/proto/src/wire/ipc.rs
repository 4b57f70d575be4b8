//! Frames on the daemon's Unix socket: those of existing drivers and, from 0x60 up, our extension.
//! `docs/reference/protocol/ipc.md` describes every frame.
//!
//! ```text
//!  0        4         5
//! +--------+---------+---------+
//! | length | command | payload |      length u32 counts the command and is at most 2^20
//! +--------+---------+---------+
//! ```

use super::addr::{Address, Port};

/// Largest frame without its length field, bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// Length of the length field, bytes.
pub const LENGTH_LEN: usize = 4;
/// The version of our extension.
pub const VERSION: u16 = 1;

/// Command codes.
pub mod code {
    #![allow(missing_docs, reason = "the names say it; docs/reference/protocol/ipc.md has the layouts")]
    pub const BIND: u8 = 0x01;
    pub const BIND_OK: u8 = 0x02;
    pub const DIAL: u8 = 0x03;
    pub const DIAL_OK: u8 = 0x04;
    pub const ACCEPT: u8 = 0x05;
    pub const SEND: u8 = 0x06;
    pub const RECV: u8 = 0x07;
    pub const CLOSE: u8 = 0x08;
    pub const CLOSE_OK: u8 = 0x09;
    pub const ERROR: u8 = 0x0a;
    pub const SEND_TO: u8 = 0x0b;
    pub const RECV_FROM: u8 = 0x0c;
    pub const INFO: u8 = 0x0d;
    pub const HANDSHAKE: u8 = 0x0f;
    pub const RESOLVE_HOSTNAME: u8 = 0x11;
    pub const SET_HOSTNAME: u8 = 0x13;
    pub const SET_VISIBILITY: u8 = 0x15;
    pub const DEREGISTER: u8 = 0x17;
    pub const SET_TAGS: u8 = 0x19;
    pub const NETWORK: u8 = 0x1f;
    pub const HEALTH: u8 = 0x21;
    pub const MANAGED: u8 = 0x23;
    pub const ROTATE_KEY: u8 = 0x25;
    pub const BROADCAST: u8 = 0x29;
    pub const CANCEL: u8 = 0x2b;
    pub const PREFER_DIRECT: u8 = 0x2d;
    pub const ENROLL_RECOVERY: u8 = 0x31;
    pub const SIGN_ENVELOPE: u8 = 0x33;
    pub const VERIFY_ENVELOPE: u8 = 0x35;
    pub const UNBIND: u8 = 0x37;
    pub const UNBIND_OK: u8 = 0x38;
    pub const SEND_TO_CONFIRM: u8 = 0x39;
    pub const SEND_TO_OK: u8 = 0x3a;
    pub const HELLO: u8 = 0x60;
    pub const HELLO_OK: u8 = 0x61;
    pub const REQUEST: u8 = 0x62;
    pub const REPLY: u8 = 0x63;
    pub const FAILURE: u8 = 0x64;
    pub const OPEN_STREAM: u8 = 0x65;
    pub const STREAM_OPENED: u8 = 0x66;
    pub const LISTEN_STREAMS: u8 = 0x67;
    pub const LISTENING: u8 = 0x68;
    pub const STREAM_ACCEPTED: u8 = 0x69;
    pub const BIND_DATAGRAMS: u8 = 0x6a;
    pub const DATAGRAMS_BOUND: u8 = 0x6b;
    pub const SEND_FROM: u8 = 0x6c;
    pub const UNBIND_DATAGRAMS: u8 = 0x6d;
    pub const STREAM_FAILED: u8 = 0x6e;
    pub const CANCEL_REQUEST: u8 = 0x6f;
    pub const FORWARD_PATH: u8 = 0x70;
    pub const ABORT_STREAM: u8 = 0x71;
    pub const REGISTER: u8 = 0x81;
    pub const DISCONNECT: u8 = 0x83;
    pub const PEERS: u8 = 0x85;
    pub const TRACE: u8 = 0x87;
}

/// A frame from a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields are named as in docs/reference/protocol/ipc.md")]
pub enum Frame<'a> {
    Bind(Port),
    Dial {
        remote: Address,
        port: Port,
    },
    Send {
        conn: u32,
        data: &'a [u8],
    },
    Close {
        conn: u32,
    },
    SendTo {
        remote: Address,
        port: Port,
        data: &'a [u8],
        is_confirmed: bool,
    },
    Unbind(Port),
    Cancel,
    /// A verb answered by the control plane.
    Control {
        command: u8,
        payload: &'a [u8],
    },
    Hello,
    Request {
        id: u32,
        body: &'a [u8],
    },
    OpenStream {
        id: u32,
        remote: Address,
        port: Port,
        no_delay: bool,
        /// 0 for the daemon's default.
        congestion: u8,
        timeout_ms: u32,
    },
    ListenStreams {
        id: u32,
        port: Port,
        path: &'a [u8],
    },
    BindDatagrams {
        id: u32,
        port: Port,
    },
    SendFrom {
        src_port: Port,
        remote: Address,
        port: Port,
        data: &'a [u8],
    },
    UnbindDatagrams(Port),
    CancelRequest {
        id: u32,
    },
    ForwardPath {
        id: u32,
        remote: Address,
        port: Port,
        path: &'a [u8],
    },
    AbortStream {
        conn: u32,
    },
    /// Ends any connection; for operators.
    Disconnect {
        conn: u32,
    },
    Unknown(u8),
}

impl<'a> Frame<'a> {
    /// Parses the body of a frame: command and payload.
    ///
    /// # Errors
    /// The error text that existing drivers expect for a truncated payload.
    pub fn parse(body: &'a [u8]) -> Result<Self, &'static str> {
        let (command, payload) = body.split_first().ok_or("empty frame")?;
        let mut reader = Reader(payload);
        Ok(match *command {
            code::BIND => Self::Bind(reader.port().ok_or("bind: missing port")?),
            code::DIAL => {
                let (remote, port) = reader.endpoint().ok_or("dial: missing address/port")?;
                Self::Dial { remote, port }
            }
            code::SEND => Self::Send { conn: reader.u32().ok_or("send: missing conn_id")?, data: reader.0 },
            code::CLOSE => Self::Close { conn: reader.u32().ok_or("close: missing conn_id")? },
            code::SEND_TO | code::SEND_TO_CONFIRM => {
                let (remote, port) = reader.endpoint().ok_or("sendto: missing address/port")?;
                Self::SendTo { remote, port, data: reader.0, is_confirmed: *command == code::SEND_TO_CONFIRM }
            }
            code::UNBIND => Self::Unbind(reader.port().ok_or("unbind: port is required")?),
            code::CANCEL => Self::Cancel,
            code::INFO
            | code::HANDSHAKE
            | code::RESOLVE_HOSTNAME
            | code::SET_HOSTNAME
            | code::SET_VISIBILITY
            | code::DEREGISTER
            | code::SET_TAGS
            | code::NETWORK
            | code::HEALTH
            | code::MANAGED
            | code::ROTATE_KEY
            | code::BROADCAST
            | code::PREFER_DIRECT
            | code::ENROLL_RECOVERY
            | code::SIGN_ENVELOPE
            | code::VERIFY_ENVELOPE
            | code::REGISTER
            | code::PEERS
            | code::TRACE => Self::Control { command: *command, payload },
            code::DISCONNECT => Self::Disconnect { conn: reader.u32().ok_or("disconnect: missing conn_id")? },
            code::HELLO => Self::Hello,
            code::REQUEST..=code::ABORT_STREAM => return reader.extended(*command).ok_or("truncated frame"),
            other => Self::Unknown(other),
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn port(&mut self) -> Option<Port> {
        self.take().map(|bytes| Port(u16::from_be_bytes(bytes)))
    }

    fn endpoint(&mut self) -> Option<(Address, Port)> {
        let address = Address::parse(self.take()?);
        Some((address, self.port()?))
    }

    fn extended(mut self, command: u8) -> Option<Frame<'a>> {
        Some(match command {
            code::REQUEST => Frame::Request { id: self.u32()?, body: self.0 },
            code::OPEN_STREAM => {
                let id = self.u32()?;
                let (remote, port) = self.endpoint()?;
                let [flags] = self.take()?;
                let (no_delay, congestion) = (flags & 1 != 0, flags >> 1 & 7);
                Frame::OpenStream { id, remote, port, no_delay, congestion, timeout_ms: self.u32()? }
            }
            code::LISTEN_STREAMS => {
                let (id, port) = (self.u32()?, self.port()?);
                let _backlog: [u8; 2] = self.take()?;
                Frame::ListenStreams { id, port, path: self.0 }
            }
            code::BIND_DATAGRAMS => Frame::BindDatagrams { id: self.u32()?, port: self.port()? },
            code::SEND_FROM => {
                let src_port = self.port()?;
                let (remote, port) = self.endpoint()?;
                Frame::SendFrom { src_port, remote, port, data: self.0 }
            }
            code::UNBIND_DATAGRAMS => Frame::UnbindDatagrams(self.port()?),
            code::CANCEL_REQUEST => Frame::CancelRequest { id: self.u32()? },
            code::FORWARD_PATH => {
                let id = self.u32()?;
                let (remote, port) = self.endpoint()?;
                Frame::ForwardPath { id, remote, port, path: self.0 }
            }
            code::ABORT_STREAM => Frame::AbortStream { conn: self.u32()? },
            other => Frame::Unknown(other),
        })
    }
}

/// Splits one frame off the front of `bytes`: its body and its total length, or `None` when it is incomplete.
///
/// # Errors
/// The stated length, when it exceeds [`MAX_FRAME`].
pub fn split(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, usize> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_FRAME {
        return Err(length);
    }
    Ok(rest.get(..length).map(|body| (body, LENGTH_LEN + length)))
}

/// A frame of `parts`, with its length in front.
pub fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(LENGTH_LEN + length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the recordings say of a frame that the core answers itself.
    #[allow(clippy::wildcard_enum_match_arm, reason = "no other frame was recorded")]
    fn meaning(frame: &Frame<'_>) -> String {
        match frame {
            Frame::Bind(port) => format!("bind virtual port {}", port.0),
            Frame::Dial { remote, port } => format!("dial {remote} port {}", port.0),
            Frame::Send { conn, data } => format!("stream data to conn_id {conn}, {} bytes", data.len()),
            Frame::Close { conn } => format!("close conn_id {conn}"),
            Frame::SendTo { remote, port, data, is_confirmed: false } => {
                format!("datagram to {remote} port {}, {} bytes", port.0, data.len())
            }
            other => panic!("no existing driver sends {other:?}"),
        }
    }

    #[test]
    fn captured_frames_of_existing_drivers_mean_what_was_recorded() {
        let captured = include_str!("../../../../tests/vectors/ipc-g1.json");
        let frames: serde_json::Value = serde_json::from_str(captured).unwrap();
        let mut seen = 0;
        for entry in frames.as_array().unwrap() {
            let bytes = hex::decode(entry["hex"].as_str().unwrap()).unwrap();
            let (body, len) = split(&bytes).unwrap().unwrap();
            assert_eq!(len, bytes.len());
            if entry["dir"] != "c>d" {
                continue;
            }
            seen += 1;
            let (recorded, command) = (entry["meaning"].as_str().unwrap(), entry["cmd"].as_str().unwrap());
            let (code, name) = command.split_once(' ').unwrap();
            match Frame::parse(body) {
                Ok(Frame::Control { command, payload }) => {
                    assert_eq!((format!("0x{command:02X}").as_str(), payload), (code, &body[1..]), "{entry}");
                }
                Ok(Frame::Unknown(unknown)) => assert_eq!(format!("0x{unknown:02X}"), code, "{entry}"),
                Ok(frame) => assert_eq!(meaning(&frame), recorded, "{entry}"),
                Err(text) => {
                    assert!(recorded.contains("truncated"), "{entry}");
                    assert!(
                        text.starts_with(&format!("{}: missing", name.to_lowercase())),
                        "{entry}: {text}"
                    );
                }
            }
        }
        assert!(seen > 30);
    }

    #[test]
    fn short_payloads_are_refused_with_the_texts_of_existing_drivers() {
        assert_eq!(Frame::parse(&[code::BIND, 0]), Err("bind: missing port"));
        assert_eq!(Frame::parse(&[code::DIAL, 0, 0]), Err("dial: missing address/port"));
        assert_eq!(Frame::parse(&[code::OPEN_STREAM, 0]), Err("truncated frame"));
        assert_eq!(Frame::parse(&[0x7f]), Ok(Frame::Unknown(0x7f)));
        assert_eq!(split(&[0, 0x10, 0, 1]), Err(MAX_FRAME + 1));
        assert_eq!(split(&[0, 0, 0, 2, 1]), Ok(None));
    }
}
