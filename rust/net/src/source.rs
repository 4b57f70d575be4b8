//! Event sources and their poll tokens.

use mio::Token;
use pilot_proto::node::ConnectionId;

use crate::tag::ClientId;

/// Bits of a token below its kind.
const ID_BITS: u32 = 56;
const UDP: usize = 0;
const IPC: usize = 1;
const WAKE: usize = 2;
const CLIENT: usize = 1 << ID_BITS;
const BRIDGE: usize = 2 << ID_BITS;
const FORWARD: usize = 3 << ID_BITS;
const SPARE: usize = 4 << ID_BITS;

/// A descriptor that the loop waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The tunnel's UDP socket.
    Udp,
    /// The socket that drivers connect to.
    Ipc,
    /// Another thread has something to say.
    Wake,
    /// A connected driver.
    Client(ClientId),
    /// The application's end of a stream.
    Bridge(ConnectionId),
    /// A path whose connections are dialled on.
    Forward(u32),
    /// A UDP socket opened for a moment.
    Spare(u32),
}

impl Source {
    /// The token under which the poll reports it.
    pub(crate) fn token(self) -> Token {
        let id = |id: u64| usize::try_from(id).unwrap_or(0);
        Token(match self {
            Self::Udp => UDP,
            Self::Ipc => IPC,
            Self::Wake => WAKE,
            Self::Client(client) => CLIENT | id(client),
            Self::Bridge(ConnectionId(stream)) => BRIDGE | id(stream.into()),
            Self::Forward(forward) => FORWARD | id(forward.into()),
            Self::Spare(spare) => SPARE | id(spare.into()),
        })
    }

    /// What a token names.
    pub(crate) fn of(Token(value): Token) -> Self {
        let low = value & (CLIENT - 1);
        let short = u32::try_from(low).unwrap_or(0);
        match value & !(CLIENT - 1) {
            CLIENT => Self::Client(low as u64),
            BRIDGE => Self::Bridge(ConnectionId(short)),
            FORWARD => Self::Forward(short),
            SPARE => Self::Spare(short),
            _ if low == UDP => Self::Udp,
            _ if low == IPC => Self::Ipc,
            _ => Self::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        for source in [
            Source::Udp,
            Source::Ipc,
            Source::Wake,
            Source::Client(0),
            Source::Client((1 << ID_BITS) - 1),
            Source::Bridge(ConnectionId(u32::MAX)),
            Source::Forward(7),
            Source::Spare(u32::MAX),
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
