//! Requests pending at the control plane: bounded per driver and in total.

use std::collections::BTreeMap;

use pilot_proto::wire::ipc::{MAX_FRAME, code};

use crate::{
    limits::{MAX_ALL_ASKED, MAX_ALL_ASKED_BYTES, SOFT_ALL_ASKED, SOFT_ALL_ASKED_BYTES},
    tag::{ClientId, Tag},
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

/// Why a request is not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// One with its id is being answered.
    Repeated,
    /// There are too many.
    Full,
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

    /// Enters a request; `is_first` when its driver has no other. Returns what it counts for the driver.
    pub(crate) fn begin(
        &mut self,
        tag: Tag,
        command: u8,
        payload: usize,
        is_first: bool,
    ) -> Result<usize, Refusal> {
        let key = (tag.client, tag.id);
        if self.payloads.contains_key(&key) {
            return Err(Refusal::Repeated);
        }
        if self.is_full(is_first) {
            return Err(Refusal::Full);
        }
        self.payloads.insert(key, (command, payload));
        self.bytes += payload + REQUEST_OVERHEAD;
        Ok(cost(command, payload))
    }

    fn is_full(&self, is_first: bool) -> bool {
        let (count, bytes) = if is_first {
            (MAX_ALL_ASKED, MAX_ALL_ASKED_BYTES)
        } else {
            (SOFT_ALL_ASKED, SOFT_ALL_ASKED_BYTES)
        };
        self.payloads.len() >= count || self.bytes >= bytes
    }

    /// A request was answered or forgotten. Returns what it counted for its driver.
    pub(crate) fn finish(&mut self, tag: Tag) -> Option<usize> {
        let (command, payload) = self.payloads.remove(&(tag.client, tag.id))?;
        self.bytes -= payload + REQUEST_OVERHEAD;
        Some(cost(command, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_finished_once_and_leaves_nothing() {
        let mut asked = Asked::default();
        let tag = Tag { client: 1, id: Some(7) };
        let counted = asked.begin(tag, code::HELLO, 100, true).unwrap();
        assert_eq!(counted, 100 + SHORT_ANSWER);
        assert_eq!(asked.begin(tag, code::HELLO, 100, false), Err(Refusal::Repeated));
        assert_eq!(asked.finish(tag), Some(counted));
        assert_eq!((asked.finish(tag), asked.len(), asked.bytes), (None, 0, 0));
    }

    #[test]
    fn when_there_are_many_only_who_has_none_is_heard() {
        let mut asked = Asked::default();
        for id in 0..SOFT_ALL_ASKED {
            let tag = Tag { client: 1, id: u32::try_from(id).ok() };
            asked.begin(tag, code::HELLO, 0, false).unwrap();
        }
        let tag = |client| Tag { client, id: None };
        assert_eq!(asked.begin(tag(1), code::HELLO, 0, false), Err(Refusal::Full));
        assert!(asked.begin(tag(2), code::HELLO, 0, true).is_ok());
        assert_eq!(asked.begin(tag(2), code::INFO, 0, false), Err(Refusal::Repeated));
    }
}
