//! The connected drivers: their table, which of them are ready, and the memory held for them.

mod client;

use std::collections::{BTreeMap, BTreeSet};

use mio::{Registry, event::Event as Ready, net::UnixStream};
use tracing::debug;

use self::client::Input;
pub(crate) use self::client::{Client, Flushed, Owned, Passenger, READ_LEN, Stalled};
use crate::{limits, source::Source, tag::ClientId};

/// The drivers.
#[derive(Default)]
pub(crate) struct Clients {
    table: BTreeMap<ClientId, Entry>,
    last: ClientId,
    /// Those to be served in this pass.
    dirty: BTreeSet<ClientId>,
    /// Those that have had their share of this turn.
    deferred: BTreeSet<ClientId>,
    /// Bytes held for all.
    held: usize,
}

struct Entry {
    client: Client,
    /// What `held` counts for it.
    accounted: usize,
}

/// What a driver may send in one turn.
pub(crate) struct Share {
    max_frames: usize,
    frames: usize,
    bytes: usize,
}

impl Share {
    /// At most so many frames, and [`limits::TURN_BYTES`].
    pub(crate) fn new(max_frames: usize) -> Self {
        Self { max_frames, frames: 0, bytes: 0 }
    }
}

/// What comes next from a driver.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The body of a frame.
    Frame(Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// Its share is used up. Large frames are work; many small ones without a pause can wait a little.
    Deferred {
        /// Whether it goes on without waiting.
        is_work: bool,
    },
    /// It is gone, or sends what is no frame.
    End,
}

impl Clients {
    /// Drivers.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes held for all.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes a driver. `false` if it cannot be waited for.
    pub(crate) fn add(&mut self, registry: &Registry, stream: UnixStream) -> bool {
        self.last += 1;
        let id = self.last;
        let mut client = Client::new(stream);
        if let Err(error) = client.register(registry, Source::Client(id).token()) {
            debug!("a driver cannot be served: {error}");
            return false;
        }
        self.table.insert(id, Entry { client, accounted: 0 });
        self.dirty.insert(id);
        true
    }

    /// Takes a driver out of the table. What it owned is to be freed.
    pub(crate) fn remove(&mut self, registry: &Registry, id: ClientId) -> Option<Owned> {
        let entry = self.table.remove(&id)?;
        self.held -= entry.accounted;
        Some(entry.client.end(registry))
    }

    /// A driver.
    pub(crate) fn get(&self, id: ClientId) -> Option<&Client> {
        self.table.get(&id).map(|entry| &entry.client)
    }

    /// A driver, to be changed.
    pub(crate) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.table.get_mut(&id).map(|entry| &mut entry.client)
    }

    /// Drivers that do not speak our extension.
    pub(crate) fn legacy(&self) -> impl Iterator<Item = ClientId> {
        self.table.iter().filter(|(_, entry)| !entry.client.is_extended()).map(|(id, _)| *id)
    }

    /// Queues a frame for a driver, and a descriptor that goes with it.
    pub(crate) fn push(&mut self, id: ClientId, frame: Vec<u8>, passenger: Option<Passenger>) {
        if let Some(client) = self.get_mut(id) {
            client.push(frame, passenger);
            self.dirty.insert(id);
        }
    }

    /// A driver is to be served in the next pass.
    pub(crate) fn wake(&mut self, id: ClientId) {
        self.dirty.insert(id);
    }

    /// Takes note of what the poll reports. Returns whether the program is gone, if that is news.
    pub(crate) fn on_ready(&mut self, registry: &Registry, id: ClientId, event: &Ready) -> bool {
        let Some(client) = self.get_mut(id) else { return false };
        let was_gone = client.is_gone();
        client.on_ready(registry, event);
        let is_news = client.is_gone() && !was_gone;
        self.dirty.insert(id);
        is_news
    }

    /// A turn begins: those who had their share of the last get another.
    pub(crate) fn begin_turn(&mut self) {
        self.dirty.append(&mut self.deferred);
    }

    /// Whether nobody is to be served in this pass.
    pub(crate) fn is_idle(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether somebody waits for the next turn.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Those to be served in this pass.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<ClientId> {
        core::mem::take(&mut self.dirty)
    }

    /// What a driver sends next, as far as its share goes. `scratch` is read into.
    pub(crate) fn next(&mut self, id: ClientId, share: &mut Share, scratch: &mut [u8]) -> Next {
        if self.deferred.contains(&id) {
            return Next::Nothing;
        }
        let Some(Entry { client, .. }) = self.table.get_mut(&id) else { return Next::Nothing };
        loop {
            if !client.may_proceed() {
                return Next::Nothing;
            }
            if share.frames >= share.max_frames || share.bytes >= limits::TURN_BYTES {
                self.deferred.insert(id);
                return Next::Deferred { is_work: share.frames < share.max_frames };
            }
            match client.next_frame() {
                Ok(Some(body)) => {
                    (share.frames, share.bytes) = (share.frames + 1, share.bytes + body.len());
                    return Next::Frame(body);
                }
                Ok(None) => {}
                Err(length) => {
                    debug!(client = id, length, "frame over the limit");
                    return Next::End;
                }
            }
            match client.read(scratch) {
                Input::Some => {}
                Input::Nothing => {
                    client.shrink();
                    return Next::Nothing;
                }
                Input::End => return Next::End,
            }
        }
    }

    /// Writes what waits for a driver, which may let it go on.
    pub(crate) fn flush(&mut self, registry: &Registry, id: ClientId) -> Flushed {
        let Some(Entry { client, .. }) = self.table.get_mut(&id) else { return Flushed::Fine };
        let was_stopped = !client.may_proceed();
        let flushed = client.flush(registry, Source::Client(id).token());
        let may_go_on = was_stopped && client.may_proceed();
        if matches!(flushed, Flushed::NoPassage(_)) || matches!(flushed, Flushed::Fine) && may_go_on {
            self.dirty.insert(id);
        }
        flushed
    }

    /// Keeps the ledger of what is held. Returns the driver that makes us hold most, if all together make
    /// us hold too much.
    pub(crate) fn account(&mut self, id: ClientId) -> Option<ClientId> {
        let entry = self.table.get_mut(&id)?;
        let held = entry.client.held();
        self.held = self.held - entry.accounted + held;
        entry.accounted = held;
        let of_most = || self.table.iter().max_by_key(|(_, entry)| entry.accounted).map(|(id, _)| *id);
        (self.held > limits::MAX_HELD).then(of_most).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream as Blocking};

    use mio::Poll;
    use pilot_proto::wire::ipc;

    use super::*;

    fn connected(poll: &Poll, clients: &mut Clients) -> Blocking {
        let (ours, theirs) = Blocking::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        assert!(clients.add(poll.registry(), UnixStream::from_std(ours)));
        theirs
    }

    #[test]
    fn a_driver_is_heard_up_to_its_share_and_again_in_the_next_turn() {
        let poll = Poll::new().unwrap();
        let mut clients = Clients::default();
        let mut program = connected(&poll, &mut clients);
        for n in 0..3 {
            program.write_all(&ipc::frame(&[&[n]])).unwrap();
        }
        let mut scratch = [0; 1024];
        let (mut share, id) = (Share::new(2), 1);
        let mut next = |clients: &mut Clients, share: &mut Share| clients.next(id, share, &mut scratch);
        assert_eq!(next(&mut clients, &mut share), Next::Frame(vec![0]));
        assert_eq!(next(&mut clients, &mut share), Next::Frame(vec![1]));
        assert_eq!(next(&mut clients, &mut share), Next::Deferred { is_work: false });
        assert_eq!(next(&mut clients, &mut share), Next::Nothing);
        clients.begin_turn();
        assert_eq!(next(&mut clients, &mut Share::new(2)), Next::Frame(vec![2]));
        drop(program);
        assert_eq!(next(&mut clients, &mut Share::new(2)), Next::Nothing, "nothing was reported yet");
    }

    #[test]
    fn what_is_held_is_counted_until_its_driver_goes() {
        let poll = Poll::new().unwrap();
        let mut clients = Clients::default();
        let _programs = [connected(&poll, &mut clients), connected(&poll, &mut clients)];
        clients.push(1, vec![0; 1000], None);
        assert_eq!(clients.account(1), None);
        assert_eq!(clients.held(), 1000 + limits::FRAME_OVERHEAD);
        clients.push(2, vec![0; limits::MAX_HELD], None);
        assert_eq!(clients.account(2), Some(2));
        assert!(clients.remove(poll.registry(), 2).is_some());
        assert!(clients.remove(poll.registry(), 1).is_some());
        assert_eq!((clients.held(), clients.len()), (0, 0));
    }
}
