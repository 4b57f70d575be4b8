//! Which readiness of a socket the poll reports. A socket that takes what it is given is watched for
//! reading alone: otherwise every read at its other end would wake the thread (epoll(7), `EPOLLOUT`).

use std::io;

use mio::{Interest, Registry, Token, event::Source};

/// Reports of room that nobody waited for, after which room is no longer watched. A socket that fills
/// again and again keeps being watched.
const MAX_UNNEEDED: u8 = 8;

/// Watches for room to write only while it is needed.
#[derive(Debug, Default)]
pub(crate) struct Room {
    is_watched: bool,
    unneeded: u8,
}

impl Room {
    /// Starts to watch `source`, which is full. An edge-triggered poll reports room that came in between.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub(crate) fn watch(
        &mut self,
        registry: &Registry,
        source: &mut impl Source,
        token: Token,
    ) -> io::Result<()> {
        self.unneeded = 0;
        if !self.is_watched {
            registry.reregister(source, token, Interest::READABLE | Interest::WRITABLE)?;
            self.is_watched = true;
        }
        Ok(())
    }

    /// Takes note of an event; `is_needed` says whether something waited for room.
    pub(crate) fn on_event(
        &mut self,
        registry: &Registry,
        source: &mut impl Source,
        token: Token,
        is_needed: bool,
    ) {
        if !self.is_watched {
            return;
        }
        self.unneeded = if is_needed { 0 } else { self.unneeded + 1 };
        if self.unneeded >= MAX_UNNEEDED && registry.reregister(source, token, Interest::READABLE).is_ok() {
            *self = Self::default();
        }
    }
}
