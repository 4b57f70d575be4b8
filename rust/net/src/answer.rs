//! Answers to drivers.

use std::{io::Write, os::fd::AsRawFd};

use mio::net::UnixStream;
use pilot_proto::wire::ipc::{self, MAX_FRAME, code};

use crate::{
    client::Passenger,
    driver::{ClientId, Driver},
    handle::Tag,
};

impl Driver {
    /// Answers a request with a frame of its own kind: the id, then `payload`.
    pub(crate) fn answer(&mut self, tag: Tag, command: u8, payload: &[u8], passenger: Option<Passenger>) {
        let id = tag.id.unwrap_or(0).to_be_bytes();
        self.push(tag.client, ipc::frame(&[&[command], &id, payload]), passenger);
    }

    /// Answers a request with the body of a frame of existing drivers.
    pub(crate) fn reply(&mut self, tag: Tag, body: &[u8]) {
        // Drivers end a session in which a longer frame comes.
        if body.len() > MAX_FRAME - size_of::<u32>() - 1 {
            self.fail(tag, "internal", "the answer is too long for a frame", "ask for less");
            return;
        }
        match tag.id {
            Some(id) => self.push(tag.client, ipc::frame(&[&[code::REPLY], &id.to_be_bytes(), body]), None),
            None => {
                self.unbusy(tag);
                self.push(tag.client, ipc::frame(&[body]), None);
            }
        }
    }

    /// Refuses a request.
    pub(crate) fn fail(&mut self, tag: Tag, code: &str, message: &str, hint: &str) {
        let frame = match tag.id {
            Some(id) => failure(id, code, message, hint),
            None => {
                self.unbusy(tag);
                error(message)
            }
        };
        self.push(tag.client, frame, None);
    }

    pub(crate) fn push(&mut self, client: ClientId, frame: Vec<u8>, passenger: Option<Passenger>) {
        if let Some(found) = self.clients.get_mut(&client) {
            found.push(frame, passenger);
            self.dirty_clients.insert(client);
        }
    }
}

fn failure(id: u32, code: &str, message: &str, hint: &str) -> Vec<u8> {
    let json = format!(
        r#"{{"code":{},"message":{},"hint":{}}}"#,
        json_text(code),
        json_text(message),
        json_text(hint)
    );
    ipc::frame(&[&[code::FAILURE], &id.to_be_bytes(), json.as_bytes()])
}

fn error(message: &str) -> Vec<u8> {
    ipc::frame(&[&[code::ERROR], &1_u16.to_be_bytes(), message.as_bytes()])
}

/// Tells a driver of either dialect why it is not served. It reads that although its socket is closed.
pub(crate) fn refuse_client(stream: &UnixStream, max: usize) {
    let message = format!("the daemon serves {max} programs already");
    let hint = "end some programs, or allow the daemon more open files (ulimit -n)";
    let frames = [failure(0, "unavailable", &message, hint), error(&message)].concat();
    let _ = crate::fd::send(stream.as_raw_fd(), &frames, None);
}

/// A JSON string.
fn json_text(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for char in text.chars() {
        let _ = match char {
            '"' => out.write_all(b"\\\""),
            '\\' => out.write_all(b"\\\\"),
            '\n' => out.write_all(b"\\n"),
            char if (char as u32) < 0x20 => write!(out, "\\u{:04x}", char as u32),
            char => write!(out, "{char}"),
        };
    }
    out.push(b'"');
    String::from_utf8_lossy(&out).into_owned()
}
