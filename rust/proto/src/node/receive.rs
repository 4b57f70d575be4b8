//! Arriving datagrams: authenticate, then demultiplex.

use core::{net::SocketAddr, time::Duration};
use std::sync::Arc;

use super::{Event, Key, Node};
use crate::{
    storage::token_bucket::TokenBucket,
    time::Instant,
    transport::{CloseReason, Connection, Options, State, reset_for},
    tunnel::{Capabilities, Change, OpenError, PATH_PORT, Peer},
    wire::{
        addr::{Address, NodeId, Port},
        beacon::Message,
        packet::{Flags, Header, Protocol},
        seq::SeqNumber,
        tunnel::{Frame, SEALED_HEADER_LEN, SealedHeader, TAG_LEN},
    },
};

/// A peer that is heard after so long a silence is told at once what it missed.
const OUTAGE: Duration = Duration::from_secs(2);

impl Node {
    /// Takes one UDP datagram, which is decrypted in place. Whatever it holds, it never fails: what
    /// makes no sense is dropped and counted.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, octets: &mut [u8]) {
        self.counters.pkts_recv += 1;
        self.counters.bytes_recv += octets.len() as u64;
        match Frame::parse(octets) {
            Ok(Frame::Sealed(header)) => self.on_sealed(now, from, header, octets),
            Ok(Frame::SignedKey(frame)) => self.on_signed_key(now, from, &frame, octets),
            Ok(Frame::BareKey(frame)) => self.on_bare_key(now, from, frame.sender),
            Ok(Frame::CookieReply(reply)) => self.on_cookie_reply(now, from, reply),
            Ok(Frame::Beacon) => self.on_beacon(from, octets),
            Ok(Frame::Plain) => self.counters.dropped_plaintext += 1,
            Ok(Frame::Punch) => {}
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn on_beacon(&mut self, from: SocketAddr, octets: &[u8]) {
        if !self.beacons.contains(&from) {
            self.counters.dropped_beacon += 1;
            return;
        }
        match Message::parse(octets) {
            Ok(Message::DiscoverReply(endpoint)) => {
                self.events.push_back(Event::EndpointDiscovered(endpoint))
            }
            Ok(_) => self.counters.dropped_beacon += 1,
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn on_sealed(&mut self, now: Instant, from: SocketAddr, header: SealedHeader, frame: &mut [u8]) {
        let sender = header.sender;
        let Some(peer) = self.peers.get_mut(&sender) else {
            self.on_unopened(now, from, sender, frame.len());
            return;
        };
        let silence = now.saturating_since(peer.last_rx());
        let mut scratch = core::mem::take(&mut self.scratch);
        match peer.open(now, header, frame, &mut scratch, from) {
            Ok((is_in_place, is_promoted)) => {
                self.counters.opened += 1;
                let is_elsewhere = peer.has_new_segment();
                if is_promoted && !peer.tells_restarts() {
                    self.on_restart(now, sender);
                }
                if is_in_place {
                    let end = frame.len() - TAG_LEN;
                    self.on_packet(now, sender, &frame[SEALED_HEADER_LEN..end]);
                } else {
                    self.on_packet(now, sender, &scratch);
                }
                if is_elsewhere {
                    self.follow_path(sender);
                }
                if silence >= OUTAGE {
                    self.on_peer_back(now, sender);
                }
            }
            Err(OpenError::Replayed) => self.counters.dropped_replayed += 1,
            Err(OpenError::Unauthentic) => self.on_unopened(now, from, sender, frame.len()),
        }
        self.scratch = scratch;
    }

    /// The peer is another process than before: what it knew of connections is gone.
    pub(super) fn on_restart(&mut self, now: Instant, node: NodeId) {
        for id in self.by_peer.get(&node).cloned().unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(&id)
                && slot.connection.state() != State::SynSent
            {
                slot.connection.break_off(CloseReason::PeerRestarted);
                self.queue(id);
            }
        }
        self.on_peer_ready(now, node);
    }

    /// Takes a packet that `sender` sealed; ourselves for what we send to us.
    pub(super) fn on_packet(&mut self, now: Instant, sender: NodeId, packet: &[u8]) {
        let Ok((header, payload)) = Header::parse(packet) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        // Keepalives of old peers have no addresses.
        let is_keepalive = header.protocol == Protocol::Control && payload.is_empty();
        let is_from_sender = header.src.node == sender;
        let is_for_us = header.dst.node == self.address.node;
        if !(is_from_sender && is_for_us || is_keepalive) {
            self.counters.dropped_misaddressed += 1;
            return;
        }
        if !self.is_on_network(header.dst.network) {
            self.counters.dropped_networks += 1;
            return;
        }
        if header.protocol == Protocol::Stream && self.keep_early(now, sender, packet) {
            return;
        }
        self.dispatch_packet(now, sender, &header, payload);
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
            let ours = self.capabilities.boot_id;
            let mut change = Change::None;
            self.with_peer(sender, |peer, _, _| change = peer.on_capabilities(now, capabilities, ours));
            match change {
                Change::None => {}
                Change::Ready => self.on_peer_ready(now, sender),
                Change::Restarted => self.on_restart(now, sender),
            }
        }
        if is_pong && header.dst_port == PATH_PORT {
            self.with_peer(sender, |peer, _, _| peer.on_path_answer(now, header.seq));
            self.follow_path(sender);
        }
        if is_pong || header.dst_port != Port(0) {
            return;
        }
        // Capabilities belong to the tunnel; any other ping asks whether we are there.
        let is_tunnel = Capabilities::parse(payload).is_ok();
        if !is_tunnel && !self.may_enter(now, sender, header, payload) {
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
        let ours = self.capabilities.emit();
        let answer = if is_tunnel { &ours[..] } else { payload };
        let packet = super::transmit::packet(&pong, answer);
        self.seal_packet(now, sender, &packet);
    }

    /// Keeps a stream packet of a peer whose transport is not known yet, and asks for it: a ping tells,
    /// whether it is answered or echoed. Data that overtook the answer tells nothing.
    fn keep_early(&mut self, now: Instant, sender: NodeId, packet: &[u8]) -> bool {
        if self.peers.get(&sender).is_none_or(Peer::is_ready) {
            return false;
        }
        if !self.early.keep(sender, packet) {
            self.counters.dropped_limited += 1;
        }
        self.with_peer(sender, |peer, local, out| peer.ask_capabilities(now, local, out));
        true
    }

    /// Takes the packets that waited for the peer's transport to be known.
    pub(super) fn take_early(&mut self, now: Instant, node: NodeId) {
        for packet in self.early.take(node) {
            self.on_packet(now, node, &packet);
        }
    }

    fn on_datagram(&mut self, now: Instant, header: &Header, payload: &[u8]) {
        if payload.is_empty() || !self.may_enter(now, header.src.node, header, payload) {
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
                self.account(id);
                self.queue(id);
                return;
            }
            self.demux.remove(&key);
        }
        if !self.may_enter(now, header.src.node, header, payload) {
            return;
        }
        if header.flags == Flags::SYN && self.accept(now, header) {
            return;
        }
        self.counters.dropped_unknown += 1;
        let is_syn = header.flags == Flags::SYN;
        let is_native = self.peers.get(&header.src.node).is_none_or(|peer| peer.capabilities().is_some());
        // Old peers are told about refused ports only: they take any RST for the connection's.
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

    /// Answers a SYN. `false` refuses it; one over the rate is dropped without a word.
    fn accept(&mut self, now: Instant, syn: &Header) -> bool {
        let node = syn.src.node;
        if !self.ports.is_listening(syn.dst_port) {
            return false;
        }
        let (rate, burst) = self.config.syn_rate;
        let bucket = self.syn_bucket.entry(node).or_insert_with(|| TokenBucket::new(rate, burst, now));
        if !bucket.take(now) {
            self.counters.dropped_limited += 1;
            return true;
        }
        if !self.make_place(now, node, syn.dst_port) {
            self.counters.dropped_limited += 1;
            return false;
        }
        let (dialect, max_segment) = match self.peers.get(&node) {
            Some(peer) => self.path_of(peer),
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
        let id = self.insert(now, Connection::accept(now, tuple, options, iss, syn), true);
        self.with_peer(node, |peer, local, out| peer.activate(now, local, out));
        self.queue(id);
        true
    }
}
