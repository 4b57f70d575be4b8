//! Streams whose data passes the driver's socket in frames, as existing drivers expect.

use pilot_proto::{
    node::ConnectionId,
    wire::ipc::{self, code},
};

use super::{Around, bridge::Ending};
use crate::{clients::Stalled, limits::OUT_STREAMS, tag::ClientId};

/// Bytes of one framed Recv.
pub(crate) const RECV_LEN: usize = 64 << 10;

/// Tells a driver that a stream is at its end.
pub(super) fn end_frame(id: ConnectionId) -> Vec<u8> {
    ipc::frame(&[&[code::CLOSE_OK], &id.0.to_be_bytes()])
}

/// Network to application. Returns whether the stream is over.
pub(super) fn pump(
    around: &mut Around<'_>,
    id: ConnectionId,
    client_id: ClientId,
    is_end_told: &mut bool,
    ending: Ending,
) -> bool {
    while around.clients.get(client_id).is_some_and(|client| client.output_len() < OUT_STREAMS) {
        let frame = around.node.with_connection(id, |connection| {
            let bytes = connection.recv_slices().next()?;
            let len = bytes.len().min(RECV_LEN);
            let frame = ipc::frame(&[&[code::RECV], &id.0.to_be_bytes(), &bytes[..len]]);
            connection.recv_consume(len);
            Some(frame)
        });
        let Some(Some(frame)) = frame else {
            if ending.is_last && !*is_end_told {
                *is_end_told = true;
                around.clients.push(client_id, end_frame(id), None);
            }
            break;
        };
        around.clients.push(client_id, frame, None);
    }
    around.clients.wake(client_id);
    ending.is_closed && *is_end_told
}

/// Hands a driver's data to its connection, and keeps what does not fit.
pub(super) fn send(around: &mut Around<'_>, client: ClientId, id: ConnectionId, data: &[u8]) {
    let mut stalled = Stalled { id, data: data.to_vec(), sent: 0 };
    if !hand_over(around, &mut stalled)
        && let Some(client) = around.clients.get_mut(client)
    {
        client.stall(stalled);
    }
}

/// Continues a Send that did not fit, then whatever its driver sent after it.
pub(super) fn resume_stalled(around: &mut Around<'_>, client_id: ClientId) {
    let Some(client) = around.clients.get_mut(client_id) else { return };
    let Some(mut stalled) = client.take_stalled() else { return };
    if hand_over(around, &mut stalled) {
        around.clients.wake(client_id);
    } else if let Some(client) = around.clients.get_mut(client_id) {
        client.stall(stalled);
    }
}

/// Hands bytes to a connection. `false` when some did not fit.
fn hand_over(around: &mut Around<'_>, data: &mut Stalled) -> bool {
    let rest = &data.data[data.sent..];
    match around.node.with_connection(data.id, |connection| connection.send(rest)) {
        Some(Ok(n)) => {
            data.sent += n;
            data.sent == data.data.len()
        }
        // Existing drivers never learn; the end of the stream was or will be told.
        Some(Err(_)) | None => true,
    }
}
