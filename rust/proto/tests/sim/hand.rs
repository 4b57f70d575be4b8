//! A scripted peer of a whole node: it has valid keys and sends any frame from any address.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use pilot_proto::{
    config::NodeConfig,
    crypto::{Suite, aead::TunnelKey, exchange::ExchangeKey, identity::Identity},
    node::{ConnectionId, Event, Node},
    time::Instant,
    tunnel::Capabilities,
    wire::{
        addr::{Address, NodeId, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{BareKey, Frame, Nonce, SEALED_HEADER_LEN, SealedHeader, TAG_LEN},
    },
};

use crate::sessions::exchange_key;

pub(crate) const PEER: NodeId = NodeId(1);
pub(crate) const SELF: NodeId = NodeId(2);
/// Headers of IPv4 and UDP, bytes.
const AROUND: usize = 28;

/// The `n`th address; the peer starts at the first one.
pub(crate) fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 4000))
}

/// The peer's session, under the suite of its generation.
pub(crate) struct Sealing {
    peer_key: [u8; 32],
    key: TunnelKey,
    counter: u64,
}

impl Sealing {
    fn new(own: &ExchangeKey, peer_key: [u8; 32], suite: Suite) -> Self {
        let key = TunnelKey::new(suite, own.agree(&peer_key).unwrap().key(suite)).unwrap();
        Self { peer_key, key, counter: 0 }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let mut frame = vec![0; SEALED_HEADER_LEN + packet.len() + TAG_LEN];
        frame[SEALED_HEADER_LEN..SEALED_HEADER_LEN + packet.len()].copy_from_slice(packet);
        let nonce = Nonce { prefix: 0x1234_5678, counter: self.counter };
        self.key.seal(SealedHeader { sender: PEER, nonce }, &mut frame).unwrap();
        frame
    }
}

pub(crate) struct Hand {
    pub(crate) now: Instant,
    pub(crate) node: Node,
    identity: Identity,
    key: ExchangeKey,
    pub(crate) session: Option<Sealing>,
    /// Generation of the peer: its suite, or `None` for a native peer.
    old: Option<Suite>,
    /// Frames sent by the node and not examined yet.
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Bytes sent to and received from each address.
    pub(crate) traffic: BTreeMap<SocketAddr, (usize, usize)>,
    pub(crate) events: Vec<Event>,
    /// Endpoint of the peer in the registry.
    pub(crate) told: SocketAddr,
    /// Sequence number of the node's SYN.
    pub(crate) first_number: u32,
}

/// A packet from the peer to the node.
pub(crate) fn packet(protocol: Protocol, flags: Flags, ports: (u16, u16), seq: u32) -> Header {
    Header {
        flags,
        protocol,
        src: Address::backbone(PEER),
        dst: Address::backbone(SELF),
        src_port: Port(ports.0),
        dst_port: Port(ports.1),
        seq: SeqNumber::new(seq),
        ack: SeqNumber::default(),
        window: 512,
    }
}

impl Hand {
    /// A peer unknown to the node.
    pub(crate) fn new(old: Option<Suite>) -> Self {
        let now = Instant::from_millis(1000);
        let mut node = Node::new(now, &[2; 32], &[3; 32], NodeConfig::default()).unwrap();
        node.set_address(Address::backbone(SELF));
        node.listen(Port(80)).unwrap();
        Self {
            now,
            node,
            identity: Identity::from_seed(&[1; 32]).unwrap(),
            key: exchange_key(10),
            session: None,
            old,
            sent: Vec::new(),
            traffic: BTreeMap::new(),
            events: Vec::new(),
            told: at(1),
            first_number: 0,
        }
    }

    /// A peer with an established session, at its first address.
    pub(crate) fn connected(old: Option<Suite>) -> Self {
        let mut hand = Self::new(old);
        hand.send_key(at(1));
        hand.answer(at(1));
        hand.ping(at(1));
        hand.answer(at(1));
        assert_eq!(hand.endpoint(), Some(at(1)));
        hand.sent.clear();
        hand
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.node.peers().find(|(id, _)| *id == PEER).and_then(|(_, peer)| peer.endpoint)
    }

    /// Drains the node's datagrams and events.
    pub(crate) fn drain(&mut self) {
        let mut buffer = vec![0; 65536];
        loop {
            while let Some(transmit) = self.node.poll_transmit(self.now, &mut buffer, 16) {
                let size = transmit.segment_size.unwrap_or(transmit.len);
                for frame in buffer[..transmit.len].chunks(size) {
                    self.traffic.entry(transmit.destination).or_default().0 += frame.len() + AROUND;
                    self.sent.push((transmit.destination, frame.to_vec()));
                }
            }
            let Some(event) = self.node.poll_event() else { return };
            let key = self.identity.public_key();
            if event == Event::KeyNeeded(PEER) {
                self.node.on_key(self.now, PEER, Some(key));
            } else if event == Event::RecordNeeded(PEER) {
                self.node.on_record(self.now, PEER, key, Some(self.told));
            } else {
                self.events.push(event);
            }
        }
    }

    /// Delivers a datagram to the node.
    pub(crate) fn deliver(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.traffic.entry(from).or_default().1 += datagram.len() + AROUND;
        self.node.handle_datagram(self.now, from, &mut datagram.to_vec());
        self.drain();
    }

    /// Advances the time.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The signed key of the peer.
    pub(crate) fn signed_key(&self) -> Vec<u8> {
        self.identity.sign_exchange_key(PEER, self.key.public_key()).unwrap().emit().to_vec()
    }

    pub(crate) fn bare_key(&self) -> Vec<u8> {
        BareKey { sender: PEER, exchange_key: self.key.public_key() }.emit().to_vec()
    }

    pub(crate) fn send_key(&mut self, from: SocketAddr) {
        let key = self.signed_key();
        self.deliver(from, &key);
    }

    /// Restarts the peer.
    pub(crate) fn restart(&mut self, n: u8) {
        self.key = exchange_key(n);
        self.session = None;
    }

    /// Seals a packet under the peer's session.
    pub(crate) fn seal(&mut self, mut header: Header, payload: &[u8]) -> Vec<u8> {
        header.window = 512;
        let mut packet = vec![0; HEADER_LEN + payload.len()];
        packet[HEADER_LEN..].copy_from_slice(payload);
        assert!(header.emit(&mut packet));
        self.session.as_mut().unwrap().seal(&packet)
    }

    /// Sends a ping of the peer.
    pub(crate) fn ping(&mut self, from: SocketAddr) {
        let header = packet(Protocol::Control, Flags::NONE, (5, 0), 1);
        let frame = self.seal(header, b"ping");
        self.deliver(from, &frame);
    }

    /// Answers every ping that went to `at`, from there, and learns the node's key. Returns how many.
    pub(crate) fn answer(&mut self, at: SocketAddr) -> usize {
        let (mine, rest) = std::mem::take(&mut self.sent).into_iter().partition(|(to, _)| *to == at);
        self.sent = rest;
        let mut answered = 0;
        for (_, frame) in mine {
            answered += usize::from(self.take(&frame).is_some_and(|pong| {
                self.deliver(at, &pong);
                true
            }));
        }
        answered
    }

    /// The pong for a ping of the node.
    pub(crate) fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let header = match Frame::parse(frame).unwrap() {
            Frame::SignedKey(key) => {
                if self.session.as_ref().is_none_or(|session| session.peer_key != key.exchange_key) {
                    let suite = self.old.unwrap_or(Suite::G2);
                    self.session = Some(Sealing::new(&self.key, key.exchange_key, suite));
                }
                return None;
            }
            Frame::Sealed(header) => header,
            _ => return None,
        };
        let mut packet = Vec::new();
        let session = self.session.as_mut()?;
        session.key.open_to(header, frame, &mut packet).ok()?;
        let (ping, payload) = Header::parse(&packet).unwrap();
        if ping.flags.contains(Flags::SYN) {
            self.first_number = ping.seq.value();
        }
        if ping.protocol != Protocol::Control || ping.flags.contains(Flags::ACK) {
            return None;
        }
        let own = Capabilities { boot_id: 77, max_segment: 4096 }.emit();
        let answer = if self.old.is_none() { own.to_vec() } else { payload.to_vec() };
        let pong = Header {
            flags: Flags::ACK,
            src: ping.dst,
            dst: ping.src,
            src_port: Port(0),
            dst_port: ping.src_port,
            ack: ping.seq + 1,
            ..ping
        };
        Some(self.seal(pong, &answer))
    }

    /// The header of a packet that the node sealed.
    pub(crate) fn opened(&mut self, frame: &[u8]) -> Option<Header> {
        let Ok(Frame::Sealed(header)) = Frame::parse(frame) else { return None };
        let mut packet = Vec::new();
        self.session.as_mut()?.key.open_to(header, frame, &mut packet).ok()?;
        Header::parse(&packet).ok().map(|(header, _)| header)
    }

    /// The node's exchange key, as far as the peer knows it.
    pub(crate) fn session_key(&self) -> Option<[u8; 32]> {
        self.session.as_ref().map(|session| session.peer_key)
    }

    pub(crate) fn accepted(&mut self) -> Option<ConnectionId> {
        self.events.iter().find_map(|event| match event {
            Event::Accepted(id) => Some(*id),
            _ => None,
        })
    }

    /// Whether the anti-amplification limit was kept for an address.
    pub(crate) fn is_within_limit(&self, address: SocketAddr) -> bool {
        let (sent, received) = self.traffic.get(&address).copied().unwrap_or_default();
        sent <= 3 * received
    }
}

/// Rewrites the sender of a frame that the node sealed.
pub(crate) fn with_sender(frame: &[u8], sender: NodeId) -> Vec<u8> {
    let mut frame = frame.to_vec();
    assert!(frame.len() > SEALED_HEADER_LEN);
    frame[4..8].copy_from_slice(&sender.0.to_be_bytes());
    frame
}
