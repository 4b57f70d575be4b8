//! One end of a socket pair, or a socket that an application opened to us, joined to a connection.

use std::{
    io::{self, IoSlice, Write},
    net::Shutdown,
};

use mio::{Interest, Registry, event::Event as Ready, net::UnixStream};
use pilot_proto::node::{ConnectionId, Node};
use tracing::debug;

use crate::{
    intake::{Intake, Taken},
    readiness::Room,
    source::Source,
    tag::ClientId,
};

/// Bytes moved at once.
const PUMP_LEN: usize = 256 << 10;
/// Slices written at once.
const SLICES: usize = 16;

/// The application's socket and what is known of its two directions.
pub(super) struct Bridge {
    id: ConnectionId,
    socket: UnixStream,
    room: Room,
    intake: Intake,
    /// The driver that it was handed to.
    client: Option<ClientId>,
    is_readable: bool,
    is_writable: bool,
    /// The application shut its sending direction down; that comes after what is still to be read.
    is_shut: bool,
    /// The application finished sending.
    is_input_over: bool,
    /// The application was told that the peer finished.
    is_output_over: bool,
    /// The application closed its end altogether.
    is_gone: bool,
}

/// What is known of the connection behind a bridge.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// Nothing more will arrive.
    pub(super) is_last: bool,
    /// The connection is gone.
    pub(super) is_closed: bool,
}

/// What became of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pumped {
    /// It goes on.
    Open,
    /// Both directions are over, or the application is gone.
    Over,
    /// The application closed although bytes were still to be read by it. RFC 9293 section 3.6.1: the peer
    /// must learn that data was lost.
    Reset,
    /// The poll cannot tell when the application reads.
    Lost,
}

enum Moved {
    More,
    Blocked,
    End,
    Reset,
}

impl Bridge {
    /// Joins a socket, into which we wrote `left` bytes from its other end.
    ///
    /// # Errors
    /// Those of the poll.
    pub(super) fn new(
        registry: &Registry,
        id: ConnectionId,
        mut socket: UnixStream,
        client: Option<ClientId>,
        left: usize,
    ) -> io::Result<Self> {
        registry.register(&mut socket, Source::Bridge(id).token(), Interest::READABLE)?;
        let intake = Intake::new(&socket, left);
        Ok(Self {
            id,
            socket,
            room: Room::default(),
            intake,
            client,
            // Nobody has the other end of a new pair yet; the poll tells when there is something.
            is_readable: left == 0,
            is_writable: true,
            is_shut: false,
            is_input_over: false,
            is_output_over: false,
            is_gone: false,
        })
    }

    /// The driver that it was handed to.
    pub(super) fn client(&self) -> Option<ClientId> {
        self.client
    }

    /// Whether the application may have more to send.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.is_input_over
    }

    /// Whether the application knows that the peer finished.
    pub(super) fn is_output_over(&self) -> bool {
        self.is_output_over
    }

    /// Takes note of what the poll reports.
    pub(super) fn on_ready(&mut self, registry: &Registry, event: &Ready) {
        self.is_shut |= event.is_read_closed();
        self.is_readable |= event.is_readable() || event.is_read_closed();
        let token = Source::Bridge(self.id).token();
        self.room.on_event(registry, &mut self.socket, token, !self.is_writable);
        self.is_writable |= event.is_writable();
        self.is_gone |= event.is_write_closed() && event.is_read_closed() || event.is_error();
    }

    /// Closing the socket from now on is the end of the stream to its reader, not an error.
    pub(super) fn finish(&mut self) {
        self.intake.finish(&self.socket);
    }

    /// Moves what can be moved, both ways.
    pub(super) fn pump(&mut self, node: &mut Node, registry: &Registry, ending: Ending) -> Pumped {
        if self.pump_in(node) == Pumped::Reset {
            return Pumped::Reset;
        }
        self.pump_out(node, ending.is_last);
        if !self.watch(registry) {
            return Pumped::Lost;
        }
        let is_drained = self.is_input_over || ending.is_closed;
        if !is_drained || !self.is_output_over && !self.is_gone {
            return Pumped::Open;
        }
        if self.is_output_over {
            self.finish();
        }
        Pumped::Over
    }

    /// Application to network.
    pub(super) fn pump_in(&mut self, node: &mut Node) -> Pumped {
        while self.is_readable && !self.is_input_over {
            match self.read(node) {
                Some(Moved::More) => {}
                Some(Moved::Blocked) => break,
                Some(Moved::End) | None => {
                    self.is_input_over = true;
                    node.with_connection(self.id, |connection| connection.shutdown());
                }
                Some(Moved::Reset) => return Pumped::Reset,
            }
        }
        Pumped::Open
    }

    fn read(&mut self, node: &mut Node) -> Option<Moved> {
        node.with_connection(self.id, |connection| {
            let Ok(room) = connection.send_reserve(PUMP_LEN) else { return Moved::End };
            if room.is_empty() {
                return Moved::Blocked;
            }
            match self.intake.read(&self.socket, room) {
                Ok(Taken { len: 0, .. }) => Moved::End,
                Ok(taken) => {
                    connection.send_commit(taken.len);
                    // When nothing is left, more makes an event. A shutdown makes one only once.
                    self.is_readable = !taken.is_drained || self.is_shut;
                    Moved::More
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    Moved::Blocked
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::More,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Moved::Reset,
                Err(_) => Moved::End,
            }
        })
    }

    /// Network to application.
    fn pump_out(&mut self, node: &mut Node, is_last: bool) {
        while self.is_writable && !self.is_output_over {
            match self.write(node) {
                Some(Moved::More) => {}
                Some(Moved::Blocked) => return,
                Some(Moved::End | Moved::Reset) | None => {
                    if is_last {
                        self.is_output_over = true;
                        let _ = self.socket.shutdown(Shutdown::Write);
                    }
                    return;
                }
            }
        }
    }

    fn write(&mut self, node: &mut Node) -> Option<Moved> {
        node.with_connection(self.id, |connection| {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (mut count, mut total) = (0, 0);
            for (slot, bytes) in slices.iter_mut().zip(connection.recv_slices()) {
                *slot = IoSlice::new(bytes);
                count += 1;
                total += bytes.len();
            }
            if total == 0 {
                return Moved::End;
            }
            match self.socket.write_vectored(&slices[..count]) {
                Ok(n) => {
                    connection.recv_consume(n);
                    self.is_writable = n == total;
                    Moved::More
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_writable = false;
                    Moved::Blocked
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::More,
                Err(_) => {
                    self.is_gone = true;
                    self.is_output_over = true;
                    Moved::Blocked
                }
            }
        })
    }

    /// Has the poll report room in a socket that is full. `false` when it cannot.
    fn watch(&mut self, registry: &Registry) -> bool {
        if self.is_writable || self.is_output_over {
            return true;
        }
        let watched = self.room.watch(registry, &mut self.socket, Source::Bridge(self.id).token());
        watched.inspect_err(|error| debug!("a stream cannot be watched: {error}")).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        os::unix::net::UnixStream as Blocking,
    };

    use mio::Poll;
    use pilot_proto::{
        config::NodeConfig,
        node::{DialOptions, Event},
        time::Instant,
        wire::addr::{Address, NodeId, Port},
    };

    use super::*;

    const OPEN: Ending = Ending { is_last: false, is_closed: false };
    const LAST: Ending = Ending { is_last: true, is_closed: true };

    /// A node that talks to itself, with a connection between two of its ports.
    struct Scene {
        poll: Poll,
        node: Node,
        dialled: ConnectionId,
        accepted: ConnectionId,
    }

    impl Scene {
        fn new() -> Self {
            let mut node = Node::new(Instant::ZERO, &[1; 32], &[2; 32], NodeConfig::default()).unwrap();
            let address = Address::backbone(NodeId(1));
            node.set_address(address);
            node.listen(Port(80)).unwrap();
            let dialled = node.connect(Instant::ZERO, address, Port(80), DialOptions::default()).unwrap();
            let mut scene = Self { poll: Poll::new().unwrap(), node, dialled, accepted: dialled };
            scene.accepted = scene
                .settle()
                .into_iter()
                .find_map(|event| if let Event::Accepted(id) = event { Some(id) } else { None })
                .unwrap();
            scene
        }

        /// Lets the node say and do everything that it can.
        fn settle(&mut self) -> Vec<Event> {
            let mut buffer = vec![0; 65_536];
            while self.node.poll_transmit(Instant::ZERO, &mut buffer, 16).is_some() {}
            std::iter::from_fn(|| self.node.poll_event()).collect()
        }

        /// A bridge to the connection that was dialled, and the application's end.
        fn bridge(&self) -> (Bridge, Blocking) {
            let (ours, theirs) = crate::fd::socket_pair().unwrap();
            let ours = UnixStream::from_std(ours);
            let bridge = Bridge::new(self.poll.registry(), self.dialled, ours, None, 1).unwrap();
            let theirs = Blocking::from(theirs);
            theirs.set_nonblocking(true).unwrap();
            (bridge, theirs)
        }

        fn pump(&mut self, bridge: &mut Bridge, ending: Ending) -> Pumped {
            bridge.is_readable = true;
            let pumped = bridge.pump(&mut self.node, self.poll.registry(), ending);
            self.settle();
            pumped
        }
    }

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let mut scene = Scene::new();
        let (mut bridge, mut application) = scene.bridge();
        application.write_all(b"question").unwrap();
        application.shutdown(Shutdown::Write).unwrap();
        for _ in 0..2 {
            assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Open);
        }
        let mut got = [0; 64];
        let answered = scene.node.with_connection(scene.accepted, |peer| {
            let question = peer.recv(&mut got);
            assert_eq!(peer.recv(&mut [0]), Ok(None), "and nothing more");
            peer.send(b"answer").unwrap();
            question
        });
        assert_eq!(answered, Some(Ok(Some(8))));
        scene.settle();
        assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Open);
        assert_eq!(application.read(&mut got).unwrap(), 6);
        assert_eq!(application.read(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(scene.pump(&mut bridge, LAST), Pumped::Over);
        assert_eq!(application.read(&mut got).unwrap(), 0);
    }

    #[test]
    fn an_application_that_leaves_bytes_unread_resets() {
        let mut scene = Scene::new();
        let (mut bridge, application) = scene.bridge();
        scene.node.with_connection(scene.accepted, |peer| peer.send(b"unread").unwrap());
        scene.settle();
        assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Open);
        drop(application);
        assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Reset);
    }

    #[test]
    fn a_full_socket_is_no_end() {
        let mut scene = Scene::new();
        let (mut bridge, mut application) = scene.bridge();
        let mut sent = 0;
        for _ in 0..1000 {
            sent +=
                scene.node.with_connection(scene.accepted, |peer| peer.send(&[7; 65_536])).unwrap().unwrap();
            scene.settle();
            assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Open);
        }
        assert!(!bridge.is_writable);
        let (mut received, mut got) = (0, vec![0; 1 << 20]);
        while received < sent {
            match application.read(&mut got) {
                Ok(n) => received += n,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            bridge.is_writable = true;
            assert_eq!(scene.pump(&mut bridge, OPEN), Pumped::Open);
        }
        assert_eq!(received, sent);
    }
}
