//! The beacon as its neighbours see it, datagram by datagram.

mod gossip;
mod keys;
mod random;
mod relay;
mod unproven;
mod vectors;

use core::net::SocketAddr;

use super::{Arrival, Beacon, BeaconConfig};
use crate::{
    crypto::identity::Identity,
    time::{Duration, Instant},
    wire::{
        addr::NodeId,
        beacon::{AddressCookie, Message},
    },
};

const OURS: &str = "198.51.100.1";
const PROBE_PORTS: [u16; 4] = [9101, 9102, 9103, 9104];

/// A beacon, and what it has sent.
struct Fixture {
    now: Instant,
    beacon: Beacon,
}

/// The endpoint of a host of the internet.
fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn emitted(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.emit(&mut bytes);
    bytes
}

fn discover(node: u32, key: Option<[u8; 32]>) -> Vec<u8> {
    emitted(&Message::Discover { node: NodeId(node), identity_key: key, is_extended: false })
}

fn relay(sender: u32, destination: u32, frame: &[u8]) -> Vec<u8> {
    emitted(&Message::Relay { sender: NodeId(sender), destination: NodeId(destination), frame })
}

fn delivered(sender: u32, frame: &[u8]) -> Vec<u8> {
    emitted(&Message::RelayDeliver { sender: NodeId(sender), destination: None, frame })
}

fn command(endpoint: SocketAddr) -> Vec<u8> {
    emitted(&Message::PunchCommand(endpoint))
}

fn request(requester: u32, target: u32) -> Vec<u8> {
    emitted(&Message::PunchRequest { requester: NodeId(requester), target: NodeId(target) })
}

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32]).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(id: u32) -> Self {
        let config = BeaconConfig {
            id,
            seed: [7; 32],
            trusts_loopback: true,
            probe_ports: PROBE_PORTS.into(),
            public_ips: vec![],
        };
        Self { now: Instant::from_millis(1_000_000), beacon: Beacon::new(config) }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Hands over a datagram and returns what is sent because of it.
    fn send(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let ours = if from.is_ipv4() { OURS } else { "2001:db8::1" };
        let local = Some(ours.parse().unwrap());
        self.beacon.handle_batch(self.now, Arrival { from, local, stride: bytes.len() }, bytes);
        self.sent()
    }

    /// All that waits to be sent.
    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut buf = Vec::new();
        while let Some(transmit) = self.beacon.poll_transmit(self.now, &mut buf, 64) {
            let segment = transmit.segment_size.unwrap_or(transmit.len);
            sent.extend(
                buf[..transmit.len].chunks(segment).map(|datagram| (transmit.destination, datagram.to_vec())),
            );
        }
        sent
    }

    /// Announces a node that proves its address by the cookie, and its key by a signature if `is_signing`.
    fn announce(&mut self, node: u32, from: SocketAddr, key: u8, is_signing: bool) {
        let identity = identity(key);
        let first = discover(node, Some(identity.public_key()));
        let replies = self.send(from, &first);
        let Some(cookie) = replies.first().and_then(|(_, reply)| AddressCookie::in_reply(reply)) else {
            return;
        };
        let mut second = first;
        cookie.emit(&mut second);
        if is_signing {
            second.extend(identity.sign(&cookie.signed_text(NodeId(node))).unwrap());
        }
        self.send(from, &second);
    }

    /// Where frames for a node go, asked by a node of this host.
    fn place(&mut self, node: u32) -> Option<SocketAddr> {
        self.send(local(9), &discover(99, None));
        let sent = self.send(local(9), &relay(99, node, b"PILS"));
        sent.first().filter(|(_, bytes)| bytes[0] != 0x04).map(|(to, _)| *to)
    }

    /// Nothing is sent, and exactly this counter grows by one.
    fn refuses(&mut self, counter: &str, from: SocketAddr, bytes: &[u8]) {
        let before: Vec<_> = self.beacon.counters().each().collect();
        let sent = self.send(from, bytes);
        assert!(sent.is_empty(), "{sent:?}");
        let grown: Vec<_> = self
            .beacon
            .counters()
            .each()
            .zip(before)
            .filter(|((_, now), (_, before))| now != before)
            .map(|((name, _), _)| name)
            .collect();
        assert_eq!(grown, [counter]);
    }
}
