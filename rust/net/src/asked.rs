//! Requests that the control plane is answering: bounded for each driver and in all.

use std::collections::BTreeMap;

use pilot_proto::wire::ipc::{MAX_FRAME, code};

use crate::{
    driver::{ClientId, Driver},
    handle::{HostEvent, Tag},
    limits::{MAX_ALL_ASKED, MAX_ALL_ASKED_BYTES, SOFT_ALL_ASKED, SOFT_ALL_ASKED_BYTES},
};

/// What a request costs beside its payload, here and in Python.
const REQUEST_OVERHEAD: usize = 1024;
/// Bytes of an answer that lists nothing.
const SHORT_ANSWER: usize = 16 << 10;

/// The ledger. Requests of drivers that are gone stay in it until they are answered.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    payloads: BTreeMap<(ClientId, Option<u32>), (u8, usize)>,
    bytes: usize,
}

/// Bytes that a driver's request counts with its answer.
fn cost(command: u8, payload: usize) -> usize {
    let is_list = matches!(command, code::INFO | code::HANDSHAKE | code::NETWORK | code::MANAGED);
    payload + if is_list { MAX_FRAME } else { SHORT_ANSWER }
}

impl Asked {
    /// Requests.
    #[cfg(any(test, feature = "harness"))]
    pub(crate) fn len(&self) -> usize {
        self.payloads.len()
    }

    fn is_full(&self, is_first: bool) -> bool {
        let (count, bytes) = if is_first {
            (MAX_ALL_ASKED, MAX_ALL_ASKED_BYTES)
        } else {
            (SOFT_ALL_ASKED, SOFT_ALL_ASKED_BYTES)
        };
        self.payloads.len() >= count || self.bytes >= bytes
    }
}

impl Driver {
    /// Hands a request to the control plane, or refuses it.
    pub(crate) fn ask(&mut self, tag: Tag, command: u8, payload: &[u8]) {
        let Some(client) = self.clients.get_mut(&tag.client) else { return };
        let key = (tag.client, tag.id);
        if self.asked.payloads.contains_key(&key) {
            let text = format!("request {} is being answered", tag.id.unwrap_or(0));
            self.local.dropped_requests += 1;
            self.fail(tag, "invalid_argument", &text, "choose another id");
            return;
        }
        let is_full = self.asked.is_full(client.asked == 0);
        if !is_full {
            self.asked.payloads.insert(key, (command, payload.len()));
            self.asked.bytes += payload.len() + REQUEST_OVERHEAD;
            client.asked += 1;
            client.asked_bytes += cost(command, payload.len());
            if self.shared.push(HostEvent::Request { tag, command, payload: payload.to_vec() }) {
                return;
            }
            self.on_answered(tag);
        }
        self.local.dropped_requests += 1;
        self.fail(tag, "unavailable", "the daemon is overloaded", "try again later");
    }

    /// The control plane is done with a request.
    pub(crate) fn on_answered(&mut self, tag: Tag) {
        let Some((command, payload)) = self.asked.payloads.remove(&(tag.client, tag.id)) else { return };
        self.asked.bytes -= payload + REQUEST_OVERHEAD;
        if let Some(client) = self.clients.get_mut(&tag.client) {
            client.asked -= 1;
            client.asked_bytes -= cost(command, payload);
            self.dirty_clients.insert(tag.client);
        }
    }
}
