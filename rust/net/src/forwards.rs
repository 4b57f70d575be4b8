//! Forwarded Unix paths: each connection to one is dialled on to a peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use mio::{
    Interest, Registry,
    net::{UnixListener, UnixStream},
};
use pilot_proto::wire::addr::{Address, Port};

use crate::{private_socket, source::Source, tag::ClientId};

/// Where connections to a path are dialled on to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) remote: Address,
    pub(crate) port: Port,
}

struct Forward {
    listener: UnixListener,
    client: ClientId,
    target: Target,
    path: PathBuf,
    /// Device and inode of the socket.
    file: (u64, u64),
}

impl Forward {
    /// Removes the socket, but nothing that took its place.
    fn remove_file(&self) {
        if identify(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of a socket in the file system.
fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.file_type().is_socket() {
        Ok((metadata.dev(), metadata.ino()))
    } else {
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// The paths.
#[derive(Default)]
pub(crate) struct Forwards {
    table: BTreeMap<u32, Forward>,
    last: u32,
    /// Those at which connections may wait.
    waiting: BTreeSet<u32>,
}

impl Forwards {
    /// Listens at a path for a driver.
    ///
    /// # Errors
    /// Those of the socket and the poll.
    pub(crate) fn add(
        &mut self,
        registry: &Registry,
        client: ClientId,
        target: Target,
        path: &Path,
    ) -> io::Result<()> {
        // Asking a listener of ours whether it is in use would be a connection to dial on.
        if identify(path).is_ok_and(|file| self.table.values().any(|forward| forward.file == file)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = self.last.wrapping_add(1);
        let mut listener = private_socket::listen(path)?;
        let file = identify(path)?;
        registry.register(&mut listener, Source::Forward(id).token(), Interest::READABLE)?;
        self.table.insert(id, Forward { listener, client, target, path: path.to_owned(), file });
        self.last = id;
        Ok(())
    }

    /// Connections may wait at a path.
    pub(crate) fn on_ready(&mut self, id: u32) {
        self.waiting.insert(id);
    }

    /// Connections may wait at every path.
    pub(crate) fn on_all_ready(&mut self) {
        self.waiting = self.table.keys().copied().collect();
    }

    /// The paths at which connections may wait.
    pub(crate) fn take_waiting(&mut self) -> BTreeSet<u32> {
        core::mem::take(&mut self.waiting)
    }

    /// Takes a connection to a path, and where it is to be dialled on to.
    ///
    /// # Errors
    /// Those of `accept(2)`; `WouldBlock` when there is no such path.
    pub(crate) fn accept(&self, id: u32) -> io::Result<(UnixStream, Target)> {
        let forward = self.table.get(&id).ok_or(io::ErrorKind::WouldBlock)?;
        let (socket, _) = forward.listener.accept()?;
        Ok((socket, forward.target))
    }

    /// Closes the paths of a driver that is gone.
    pub(crate) fn free(&mut self, registry: &Registry, client: ClientId) {
        self.table.retain(|_, forward| {
            if forward.client == client {
                let _ = registry.deregister(&mut forward.listener);
                forward.remove_file();
            }
            forward.client != client
        });
    }

    /// Removes every socket from the file system.
    pub(crate) fn remove_files(&self) {
        self.table.values().for_each(Forward::remove_file);
    }
}
