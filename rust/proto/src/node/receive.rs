//! Receive path: authenticates arriving datagrams, then demultiplexes their packets.

use core::{net::SocketAddr, time::Duration};
use std::sync::Arc;

use super::{Event, Key, Node, PathKind, relay::parse_delivery, trace::count_drop};
use crate::{
    storage::token_bucket::TokenBucket,
    time::Instant,
    transport::{CloseReason, Connection, OldPath, Options, State, reset_for},
    tunnel::{
        Candidates, Capabilities, Change, OpenError, Opened, PATH_PROBE, PathChange, PathClass, Peer, Route,
        prediction::NatBehaviour,
    },
    wire::{
        addr::{Address, NetworkId, NodeId, Port},
        packet::{Flags, HEADER_LEN, Header, Protocol},
        seq::SeqNumber,
        tunnel::{Frame, SEALED_HEADER_LEN, SEALED_OVERHEAD, SealedHeader, TAG_LEN},
    },
};

/// Source ports of pings that are neither challenges nor probes of the path MTU.
const PLAIN_PINGS: u16 = 1;
/// After a silence of this length, a frame from the peer triggers retransmission at once.
const OUTAGE: Duration = Duration::from_secs(2);

impl Node {
    /// Processes one UDP datagram, which is decrypted in place. Never fails: invalid input is dropped and
    /// counted.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &mut [u8]) {
        self.recorder.now = now;
        self.counters.pkts_recv += 1;
        self.counters.bytes_recv += bytes.len() as u64;
        let direct = PathKind::Direct(PathClass::of(from));
        if !matches!(Frame::parse(bytes), Ok(Frame::Beacon)) {
            self.figures.on_received(direct, bytes.len());
            self.on_frame(now, Route::Direct(from), bytes);
            return;
        }
        match parse_delivery(bytes).filter(|_| self.discovery.is_beacon(from)) {
            Some((sender, destination, start)) => {
                self.figures.on_received(PathKind::Relay, bytes.len());
                self.on_relayed(now, from, (sender, destination), &mut bytes[start..]);
            }
            None => {
                self.figures.on_received(direct, bytes.len());
                self.on_beacon(now, from, bytes);
            }
        }
    }

    /// Processes one frame.
    pub(super) fn on_frame(&mut self, now: Instant, from: Route, bytes: &mut [u8]) {
        match Frame::parse(bytes) {
            Ok(Frame::Sealed(header)) => self.on_sealed(now, from, header, bytes),
            Ok(Frame::SignedKey(frame)) if !self.is_own_key(frame.sender, &frame.exchange_key) => {
                self.on_signed_key(now, from, &frame, bytes);
            }
            Ok(Frame::BareKey(frame)) if !self.is_own_key(frame.sender, &frame.exchange_key) => {
                self.on_bare_key(now, from, frame.sender);
            }
            Ok(Frame::SignedKey(_) | Frame::BareKey(_)) => count_drop!(self, dropped_reflected),
            Ok(Frame::CookieReply(reply)) => self.on_cookie_reply(now, from, reply),
            Ok(Frame::Plain) => count_drop!(self, dropped_plaintext),
            Ok(Frame::Punch | Frame::Beacon) => {}
            Err(_) => count_drop!(self, dropped_malformed),
        }
    }

    /// Whether a key frame reflects the key that we sent to a peer.
    fn is_own_key(&self, sender: NodeId, exchange_key: &[u8; 32]) -> bool {
        self.peers.get(&sender).is_some_and(|peer| peer.exchange_key() == *exchange_key)
    }

    fn on_sealed(&mut self, now: Instant, from: Route, header: SealedHeader, frame: &mut [u8]) {
        let (sender, len) = (header.sender, frame.len());
        let Some(peer) = self.peers.get_mut(&sender) else {
            self.on_unopened(now, from, sender, len);
            return;
        };
        let silence = now.saturating_since(peer.last_rx());
        let mut scratch = core::mem::take(&mut self.scratch);
        match peer.open(now, header, frame, &mut scratch) {
            Ok(opened) => {
                self.counters.opened += 1;
                let packet =
                    if opened.is_in_place { &frame[SEALED_HEADER_LEN..len - TAG_LEN] } else { &scratch[..] };
                // A packet of another source changes no state.
                if let Some((header, payload)) = self.check_packet(now, sender, packet) {
                    self.on_opened(now, sender, opened, from, (len, &header));
                    self.take_packet(now, sender, &header, payload, packet);
                    self.on_heard(now, sender);
                }
                if silence >= OUTAGE {
                    self.on_peer_reachable(now, sender);
                }
            }
            Err(OpenError::Replayed) => count_drop!(self, dropped_replayed),
            Err(OpenError::Reflected) => count_drop!(self, dropped_reflected),
            Err(OpenError::Unauthentic) => self.on_unopened(now, from, sender, len),
        }
        self.scratch = scratch;
    }

    /// Updates session and path state after an authenticated packet of the peer.
    fn on_opened(
        &mut self,
        now: Instant,
        sender: NodeId,
        opened: Opened,
        from: Route,
        (len, header): (usize, &Header),
    ) {
        let Some(peer) = self.peers.get_mut(&sender) else { return };
        // Keepalives of connections are no traffic.
        let is_empty = len <= SEALED_OVERHEAD + HEADER_LEN;
        if header.protocol != Protocol::Control && !is_empty {
            peer.on_traffic(now);
        }
        if peer.on_opened_again(now, opened, from, len) {
            return;
        }
        let mut is_promoted = false;
        self.with_peer(sender, |peer, local, out| {
            is_promoted =
                peer.on_opened(now, opened, from, len, header, local, out) && !peer.has_sent_boot_id();
        });
        if is_promoted {
            self.on_restart(now, sender);
        }
    }

    /// A ping or pong of the tunnel shows that a native peer is there: the keepalives of its connections can wait.
    fn on_peer_alive(&mut self, now: Instant, node: NodeId) {
        if !self.peers.get_mut(&node).is_some_and(|peer| peer.take_alive(now)) {
            return;
        }
        for id in self.by_peer.get(&node).into_iter().flatten() {
            if let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.is_attached) {
                slot.connection.on_peer_alive(now);
            }
        }
    }

    /// Resumes transmission that was blocked by the anti-amplification limit.
    fn on_heard(&mut self, now: Instant, sender: NodeId) {
        let Some(peer) = self.peers.get_mut(&sender) else { return };
        let has_new_segment = peer.has_new_segment();
        if peer.take_credit_blocked() {
            self.resume(now, sender);
        }
        if has_new_segment {
            self.apply_path_mtu(now, sender, Some(Instant::ZERO));
        }
    }

    /// Resumes transmission to a peer.
    pub(super) fn resume(&mut self, now: Instant, node: NodeId) {
        self.send_pending(now, node);
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            self.queue(id);
        }
    }

    /// The peer moved to another address: packets in flight to the old one are lost.
    fn on_moved(&mut self, now: Instant, node: NodeId) {
        self.counters.moved += 1;
        let Some(path) = self.peers.get(&node).and_then(super::slots::path_key) else {
            return;
        };
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_attached) {
                slot.connection.on_path_changed(now, path, OldPath::Dead);
                self.drain_connection(id);
            }
        }
        self.resume(now, node);
    }

    /// The peer restarted: its connections no longer exist.
    pub(super) fn on_restart(&mut self, now: Instant, node: NodeId) {
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id)
                && slot.connection.state() != State::SynSent
            {
                slot.connection.terminate(CloseReason::PeerRestarted);
                self.queue(id);
            }
        }
        self.on_peer_ready(now, node);
    }

    /// Processes a packet sealed by `sender`, or one that this node sent to itself.
    pub(super) fn on_packet(&mut self, now: Instant, sender: NodeId, packet: &[u8]) {
        if let Some((header, payload)) = self.check_packet(now, sender, packet) {
            self.take_packet(now, sender, &header, payload, packet);
        }
    }

    /// Parses a packet sealed by `sender`; `None` unless it is from that node and for this one.
    fn check_packet<'a>(
        &mut self,
        now: Instant,
        sender: NodeId,
        packet: &'a [u8],
    ) -> Option<(Header, &'a [u8])> {
        let Ok((header, payload)) = Header::parse(packet) else {
            count_drop!(self, dropped_malformed);
            return None;
        };
        let (src, dst) = (header.src, header.dst);
        // Keepalives of legacy peers carry no addresses.
        let is_keepalive = header.protocol == Protocol::Control && payload.is_empty();
        let is_from_sender = src.node == sender || is_keepalive && src.node == NodeId::default();
        let is_for_us = dst.node == self.address.node || is_keepalive && dst.node == NodeId::default();
        // Legacy peers name the backbone as their network in every packet.
        let is_network_theirs = src.network == dst.network || src.network == NetworkId::BACKBONE;
        if !(is_from_sender && is_for_us && is_network_theirs) {
            count_drop!(self, dropped_misaddressed);
            return None;
        }
        if !self.is_on_network(dst.network) {
            self.ask_membership(now, sender, &header, payload);
            return None;
        }
        Some((header, payload))
    }

    fn take_packet(&mut self, now: Instant, sender: NodeId, header: &Header, payload: &[u8], packet: &[u8]) {
        if header.protocol != Protocol::Stream || !self.keep_early(now, sender, packet) {
            self.dispatch_packet(now, sender, header, payload);
        }
    }

    pub(super) fn dispatch_packet(&mut self, now: Instant, sender: NodeId, header: &Header, payload: &[u8]) {
        match header.protocol {
            Protocol::Stream => self.on_stream(now, header, payload),
            Protocol::Datagram => self.on_datagram(now, header, payload),
            Protocol::Control => self.on_control(now, sender, header, payload),
        }
    }

    fn on_control(&mut self, now: Instant, sender: NodeId, header: &Header, payload: &[u8]) {
        let is_pong = header.flags.contains(Flags::ACK);
        if let Ok(capabilities) = Capabilities::parse(payload) {
            self.on_announcement(now, sender, capabilities, payload);
        }
        if is_pong {
            let mut change = PathChange::None;
            let before = self.peers.get(&sender).and_then(Peer::route);
            self.with_peer(sender, |peer, _, _| change = peer.on_pong(now, header.dst_port, header.seq));
            match change {
                PathChange::None => {}
                // Segments on their way by the path before still arrive.
                PathChange::Validated | PathChange::Upgraded => {
                    self.apply_path_mtu(now, sender, None);
                    self.resume(now, sender);
                }
                PathChange::Moved if before.is_some_and(Route::is_relayed) => {
                    self.apply_path_mtu(now, sender, None);
                    self.resume(now, sender);
                }
                PathChange::Moved => self.on_moved(now, sender),
            }
        }
        if is_pong && is_upgrade_probe(header, payload) {
            self.with_peer(sender, |peer, local, out| peer.on_upgrade_probe(now, local, out));
        }
        if is_pong || header.dst_port != Port(0) {
            return;
        }
        // Capabilities and probes belong to the tunnel; any other ping is an echo request and needs admission.
        let is_tunnel = Capabilities::parse(payload).is_ok();
        if !is_tunnel && payload != PATH_PROBE && !self.check_admission(now, sender, header, payload) {
            return;
        }
        let pong = Header {
            flags: Flags::ACK,
            protocol: Protocol::Control,
            src: self.address,
            dst: Address { network: header.src.network, node: sender },
            src_port: Port(0),
            dst_port: header.src_port,
            seq: header.seq,
            ack: header.seq + 1,
            window: 0,
        };
        let mut answer = payload.to_vec();
        if is_tunnel {
            // An answer to a challenge must not be longer than the challenge.
            let is_challenge = header.src_port.0 > PLAIN_PINGS;
            self.with_peer(sender, |peer, local, _| {
                answer = if is_challenge {
                    local.capabilities.emit().to_vec()
                } else {
                    peer.announcement(now, local)
                };
            });
        }
        let packet = super::transmit::packet(&pong, &answer);
        // RFC 9000 section 8.2.2: the response is sent to where the challenge came from.
        self.seal_answer(now, sender, &packet);
    }

    /// What a peer says of itself, in a ping or in an answer.
    fn on_announcement(&mut self, now: Instant, sender: NodeId, capabilities: Capabilities, payload: &[u8]) {
        let ours = self.capabilities.boot_id;
        let mut change = Change::None;
        self.with_peer(sender, |peer, _, _| change = peer.on_capabilities(now, capabilities, ours));
        match change {
            Change::None => {}
            Change::Ready => self.on_peer_ready(now, sender),
            Change::Restarted => self.on_restart(now, sender),
        }
        self.on_peer_alive(now, sender);
        if let Some(told) = Candidates::parse(payload) {
            self.with_peer(sender, |peer, local, _| peer.on_candidates(now, &told, local));
        }
        if Capabilities::has_moved(payload) {
            let mut has_lost_left = false;
            self.with_peer(sender, |peer, local, out| {
                peer.on_peer_moved(now, local, out);
                has_lost_left = peer.take_has_lost_left();
            });
            if has_lost_left {
                self.on_left_paths_dead(now, sender);
            }
        }
        if let Some(told) = NatBehaviour::announced(payload) {
            self.with_peer(sender, |peer, local, out| peer.on_nat_behaviour(now, told, local, out));
        }
    }

    /// Holds a stream packet of a peer whose dialect is not known yet, and pings the peer: the answer, or the
    /// echo of a legacy peer, reveals the dialect. Data that overtook the answer does not.
    fn keep_early(&mut self, now: Instant, sender: NodeId, packet: &[u8]) -> bool {
        if self.peers.get(&sender).is_none_or(Peer::is_ready) {
            return false;
        }
        if !self.early.keep(sender, packet) {
            count_drop!(self, dropped_limited);
        }
        self.with_peer(sender, |peer, local, out| peer.request_capabilities(now, local, out));
        true
    }

    /// Processes the packets held until the peer's dialect was known.
    pub(super) fn take_early(&mut self, now: Instant, node: NodeId) {
        for packet in self.early.take(node) {
            self.on_packet(now, node, &packet);
        }
    }

    fn on_datagram(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        if payload.is_empty() || !self.check_admission(now, header.src.node, header, payload) {
            return;
        }
        if self.policy_of_arrival(now, header) != Some(true) {
            count_drop!(self, dropped_prohibited);
            return;
        }
        self.events.push_back(Event::Datagram {
            src: header.src,
            src_port: header.src_port,
            dst_port: header.dst_port,
            data: payload.to_vec(),
        });
    }

    fn on_stream(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        let key = Key { local_port: header.dst_port, remote: header.src, remote_port: header.src_port };
        if let Some(id) = self.demux.get(&key).copied()
            && let Some(slot) = self.slots.get_mut(&id)
        {
            let is_new_syn = header.flags == Flags::SYN && slot.connection.state() == State::TimeWait;
            if !is_new_syn && slot.connection.state() != State::Closed {
                let peer = header.src.node;
                slot.connection.set_supply(self.memory.supply(peer, self.config.recv_memory));
                slot.connection.set_send_supply(self.send_memory.supply(peer, self.config.send_memory));
                slot.connection.process(now, header, payload);
                let is_suspect = slot.connection.take_path_suspicion();
                self.account(id);
                self.queue(id);
                if is_suspect {
                    self.with_peer(peer, |peer, _, _| peer.on_path_suspect(now));
                }
                return;
            }
            self.demux.remove(&key);
        }
        if !self.check_admission(now, header.src.node, header, payload) {
            return;
        }
        let is_allowed = self.policy_of_arrival(now, header).unwrap_or(false);
        if is_allowed && header.flags == Flags::SYN && self.accept(now, header) {
            return;
        }
        if is_allowed {
            count_drop!(self, dropped_unknown);
        } else {
            count_drop!(self, dropped_prohibited);
        }
        let is_syn = header.flags == Flags::SYN;
        let is_native = self.peers.get(&header.src.node).is_none_or(|peer| peer.capabilities().is_some());
        // Legacy peers get RST for refused ports only: they accept any RST as the connection's.
        if (is_native || is_syn)
            && let Some(mut reset) = reset_for(header, payload.len())
        {
            if !is_native {
                (reset.flags, reset.seq, reset.ack) =
                    (Flags::RST, SeqNumber::default(), SeqNumber::default());
            }
            let packet = super::transmit::packet(&reset, &[]);
            self.seal_packet(now, header.src.node, &packet);
        }
    }

    /// Accepts a SYN. `false` refuses it with RST; above the rate limit it is dropped silently.
    fn accept(&mut self, now: Instant, syn: &Header) -> bool {
        let node = syn.src.node;
        if !self.ports.is_listening(syn.dst_port) {
            return false;
        }
        let (rate, burst) = self.config.syn_rate;
        let bucket = self.syn_bucket.entry(node).or_insert_with(|| TokenBucket::new(rate, burst, now));
        if !bucket.take(now) {
            count_drop!(self, dropped_limited);
            return true;
        }
        if !self.make_room_for_connection(now, node, syn.dst_port) {
            count_drop!(self, dropped_limited);
            return false;
        }
        let (dialect, max_segment) = match self.peers.get(&node) {
            Some(peer) => super::api::path_of(peer),
            None => (crate::transport::Dialect::Native, crate::config::MAX_SEGMENT),
        };
        let is_native = dialect == crate::transport::Dialect::Native;
        let iss = SeqNumber::new(if is_native { self.entropy.next_u32() } else { 0 });
        let options = Options {
            dialect,
            max_segment,
            config: Arc::clone(&self.config.transport),
            ..Options::default()
        };
        let tuple = crate::transport::FourTuple {
            local: syn.dst,
            local_port: syn.dst_port,
            remote: syn.src,
            remote_port: syn.src_port,
        };
        let mut connection = Connection::accept(now, tuple, options, iss, syn);
        if let Some(path) = self.peers.get(&node).and_then(super::slots::path_key) {
            connection.set_path(path);
        }
        let id = self.insert(now, connection, true);
        self.with_peer(node, |peer, local, out| peer.activate(now, local, out));
        self.queue(id);
        true
    }
}

/// Whether a packet is the probe by which G2 peers look for a direct path while they use the relay. Any frame
/// sent directly answers it.
fn is_upgrade_probe(header: &Header, payload: &[u8]) -> bool {
    let ports = (header.src_port, header.dst_port);
    ports == (Port(0), Port(0)) && header.seq == SeqNumber::new(1) && payload.is_empty()
}
