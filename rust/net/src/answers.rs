//! Frames that answer drivers of either dialect.

use std::io::Write;

use pilot_proto::wire::ipc::{self, MAX_FRAME, code};

/// Whether the body of a frame of existing drivers is too long: they end a session in which a longer
/// frame comes.
pub(crate) fn is_too_long(body: &[u8]) -> bool {
    body.len() > MAX_FRAME - size_of::<u32>() - 1
}

/// An answer of its own kind to a request: the id, then `payload`.
pub(crate) fn answer(id: Option<u32>, command: u8, payload: &[u8]) -> Vec<u8> {
    ipc::frame(&[&[command], &id.unwrap_or(0).to_be_bytes(), payload])
}

/// An answer with the body of a frame of existing drivers.
pub(crate) fn reply(id: Option<u32>, body: &[u8]) -> Vec<u8> {
    match id {
        Some(id) => ipc::frame(&[&[code::REPLY], &id.to_be_bytes(), body]),
        None => ipc::frame(&[body]),
    }
}

/// A refusal.
pub(crate) fn refusal(id: Option<u32>, code: &str, message: &str, hint: &str) -> Vec<u8> {
    match id {
        Some(id) => failure(id, code, message, hint),
        None => error(message),
    }
}

/// A refusal before anything was asked, for whoever connects when there are `max` drivers.
pub(crate) fn no_place(max: usize) -> Vec<u8> {
    let message = format!("the daemon serves {max} programs already");
    let hint = "end some programs, or allow the daemon more open files (ulimit -n)";
    [failure(0, "unavailable", &message, hint), error(&message)].concat()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_json_for_requests_with_an_id_and_text_for_others() {
        let frame = refusal(Some(7), "internal", "a \"quote\", a \\ and a\nline", "");
        let (body, _) = ipc::split(&frame).unwrap().unwrap();
        assert_eq!(body[..5], [code::FAILURE, 0, 0, 0, 7]);
        let json: serde_json::Value = serde_json::from_slice(&body[5..]).unwrap();
        assert_eq!(json["message"], "a \"quote\", a \\ and a\nline");
        let frame = refusal(None, "internal", "text", "");
        let (body, _) = ipc::split(&frame).unwrap().unwrap();
        assert_eq!(body, b"\x0a\0\x01text");
    }
}
